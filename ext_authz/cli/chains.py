"""What the `token` commands read and show: chains, SPIFFE IDs, keys, certificates.

What cannot be read is a ConfigurationError that names the flag or the file.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from ext_authz.client.signing import Certificate, LinkSigner, MintingError, load_certificates, load_private_key
from ext_authz.client.svid_files import SvidFiles
from ext_authz.errors import ConfigurationError, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.times import format_moment
from ext_authz.tokens.chain import Delegation
from ext_authz.tokens.claims import ClaimError, Claims
from ext_authz.tokens.jws import MAX_CHAIN_BYTES, UnverifiedToken, decode_link, split_chain
from ext_authz.tokens.keys import KeySet, TrustedKeys, parse_jwks

STANDARD_INPUT = "-"

ReadT = TypeVar("ReadT")


def read_chain(argument: str) -> str:
    """Return a chain that was given as itself, as the name of a file, or as `-` for standard input."""
    if argument == STANDARD_INPUT:
        return sys.stdin.read(MAX_CHAIN_BYTES + 2).strip()
    if argument.startswith("ey") and argument.count(".") >= 2:  # `{"` in base64url, and three segments
        return argument
    return read_file(Path(argument)).decode("utf-8", "replace").strip()


def read_flag(flag: str, parse: Callable[[str], ReadT], text: str) -> ReadT:
    """Return the value of a flag."""
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError([f"{flag}: `{text}`: {error}"]) from None


def read_workloads(flag: str, texts: Iterable[str]) -> list[SpiffeId]:
    """Return the SPIFFE IDs of a flag that may be repeated."""
    return [read_flag(flag, SpiffeId.parse_workload, text) for text in texts]


def read_signer(key: Path | None, key_id: str | None, issuer: str | None, svid: Path | None) -> LinkSigner:
    """Return what signs: the SVID of a directory, or a registered key with its name and its owner."""
    try:
        if svid and not (key or key_id or issuer):
            return SvidFiles(svid).signer()
        if not svid and key and key_id and issuer:
            owner = read_flag("--issuer", SpiffeId.parse_workload, issuer)
            return LinkSigner.with_key_id(owner, key_id, load_private_key(read_file(key)))
    except MintingError as error:
        raise ConfigurationError([f"{key}: {error}" if key else str(error)]) from None
    raise ConfigurationError(["a link is signed either with --svid, or with --key, --kid and --issuer"])


def read_certificate(path: Path | None) -> Certificate | None:
    """Return the first certificate of a file, if there is one to read."""
    return _in_file(path, load_certificates)[0] if path else None


def read_keys(key_sets: Sequence[str], bundles: Sequence[str]) -> TrustedKeys:
    """Return the keys that `ID=FILE` and the bundles that `DOMAIN=FILE` name."""
    by_issuer: dict[SpiffeId, KeySet] = {}
    for name, path in _pairs("--keys", key_sets):
        issuer = read_flag("--keys", SpiffeId.parse_workload, name)
        by_issuer[issuer] = KeySet(_in_file(path, parse_jwks))
    return TrustedKeys(
        by_issuer, {name: _in_file(path, load_certificates) for name, path in _pairs("--bundle", bundles)}
    )


def _pairs(flag: str, texts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for text in texts:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise ConfigurationError([f"{flag}: `{text}`: expected NAME=FILE"])
        yield name, Path(path)


def _in_file(path: Path, parse: Callable[[bytes], ReadT]) -> ReadT:
    try:
        return parse(read_file(path))
    except (ValueError, MintingError) as error:
        raise ConfigurationError([f"{path}: {error}"]) from None


def read_file(path: Path) -> bytes:
    """Return what stands in a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None


def write_new(contents: Mapping[Path, tuple[int, bytes]]) -> None:
    """Write files that do not exist yet, with their mode from the first byte on; all of them or none."""
    written: list[Path] = []
    try:
        for path, (mode, content) in contents.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                written.append(path)
                file.write(content)
    except OSError as error:
        for each in written:
            each.unlink()
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None


def decoded(chain: str) -> list[UnverifiedToken]:
    """Take a chain apart."""
    try:
        return [decode_link(text, index) for index, text in enumerate(split_chain(chain))]
    except Refusal as refusal:
        raise ConfigurationError([refusal.detail]) from None


def problem_of(link: UnverifiedToken) -> str | None:
    """Return why the claims of a link are not those of the profile."""
    try:
        Claims.parse(link.claims)
    except ClaimError as error:
        return str(error)
    return None


def rows_of_link(link: UnverifiedToken) -> Iterator[tuple[str, object]]:
    """Yield what a link says, as it says it."""
    claims = link.claims
    actor = claims["act"].get("sub") if isinstance(claims.get("act"), Mapping) else None
    yield "issuer", claims.get("iss")
    yield "holder", actor or claims.get("iss")
    yield "audience", claims.get("aud")
    yield "on behalf of", claims.get("sub")
    yield "session", claims.get("sid")
    yield "scopes", claims.get("scope")
    yield "targets", claims.get("allowed_targets")
    yield "depth", f"{claims.get('delegation_depth')} of {claims.get('max_delegation_depth')}"
    for name, claim in (("issued at", "iat"), ("not before", "nbf"), ("expires at", "exp")):
        yield name, _moment(claims.get(claim))
    yield "token id", claims.get("jti")
    yield "restrictions", claims.get("caveats")
    yield "bound to", claims.get("cnf")
    yield "checkpoint", claims.get("orig")
    yield "signed with", f"{link.header.get('alg')}, {_key_of(link.header)}"
    yield "bytes", len(link.text)
    yield "problem", problem_of(link)


def authority_of(delegation: Delegation) -> dict[str, object]:
    """Return what a verified chain gives, as plain values."""
    return {
        "on_behalf_of": delegation.on_behalf_of,
        "session_id": delegation.session_id,
        "scopes": sorted(delegation.scopes),
        "allowed_targets": sorted(map(str, delegation.allowed_targets)),
        "actors": list(map(str, delegation.actors)),
        "root_issuer": str(delegation.root_issuer),
        "depth": delegation.depth,
        "hops": delegation.hops,
        "once": delegation.once,
        "expires_at": format_moment(delegation.expires_at),
        "token_ids": list(delegation.token_ids),
    }


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values, a list one entry a line; what is absent is left out.

    Values are escaped: what was not verified may hold letters that a terminal obeys.
    """
    for name, value in rows:
        if value is None:
            continue
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            text = json.dumps(each)
            typer.echo(f"  {name if index == 0 else '':<16}{text[1:-1] if isinstance(each, str) else text}")


def print_json(value: Any) -> None:
    """Print JSON for a program."""
    typer.echo(json.dumps(value, indent=2))


def _moment(value: object) -> object:
    return format_moment(value) if type(value) is int else value


def _key_of(header: Mapping[str, Any]) -> str:
    for name in ("kid", "x5t#S256"):
        if name in header:
            return f"{name} {header[name]}"
    certificates = header.get("x5c")
    return f"x5c of {len(certificates)} certificates" if isinstance(certificates, list) else "no key"
