"""Every delegation chain in tests/vectors/data, and in the directory that TEST_VECTORS names.

1. The verdict of a vector is normative; its reason is printed and never compared.
2. What a vector asks for and this runner does not know fails: nothing is judged halfway.
3. Each file brings its own clock, keys, limits and trust.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography import x509

from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens import chain, jws
from ext_authz.tokens.chain import Delegation, DelegationTrust, LinkCache, Presentation, verify_chain
from ext_authz.tokens.keys import KeySet, TrustedKeys, parse_jwks
from ext_authz.tokens.revocation import Revocations

DATA = Path(__file__).with_name("data")
VARIABLE = "TEST_VECTORS"
FORMAT = "delegation-token-vectors/1"

KNOWN_KEYS = frozenset(
    {"id", "kind", "class", "name", "presenter", "destination", "presenter_cert", "header_value", "recipe"}
    | {"present_twice", "revoked", "now", "expect", "reason", "source", "note"}
)
KNOWN_REVOCATIONS = frozenset({"jti", "sid", "kid", "x5t", "sub", "spiffe_id"})

# recipe = term *( " + " term ), in the words that stand for a header value that is too long to write down:
# term   = "a valid root" / "'" text "'" / count " x '" text "'"
_TERM = re.compile(r"(?P<root>a valid root)|(?:(?P<count>[0-9]+) x )?'(?P<text>[^']*)'")


@dataclass(frozen=True)
class Vector:
    """One vector, and what its file says about all of them."""

    path: Path
    document: Mapping[str, Any]
    content: Mapping[str, Any]

    @property
    def context(self) -> Mapping[str, Any]:
        """Clock, keys, limits and trust."""
        context: Mapping[str, Any] = self.document["context"]
        return context

    @property
    def header(self) -> str:
        """The header value, written down or cooked."""
        written: str | None = self.content["header_value"]
        return "".join(map(self._cooked, self.content["recipe"].split(" + "))) if written is None else written

    def _cooked(self, term: str) -> str:
        match = _TERM.fullmatch(term)
        if match is None:
            raise KeyError(f"a recipe that this runner cannot follow: {term}")
        if match["root"]:
            return next(str(each["header_value"]) for each in self.document["vectors"] if _is_root(each))
        return str(match["text"]) * int(match["count"] or 1)

    @property
    def presentation(self) -> Presentation:
        """Who shows it to whom, and when."""
        name = self.content["presenter_cert"]
        return Presentation(
            presenter=SpiffeId.parse_workload(self.content["presenter"]),
            destination=SpiffeId.parse_workload(self.content["destination"]),
            now=self.content.get("now", self.context["now"]),
            certificate_sha256=bytes.fromhex(self.context["presenter_cert_sha256"][name]) if name else None,
            certificate=_certificate(self.context["presenter_certs_pem"][name]) if name else None,
        )

    @property
    def trust(self) -> DelegationTrust:
        """What the server is configured with."""
        context = self.context
        keys = TrustedKeys(
            {
                SpiffeId.parse_workload(issuer): KeySet(parse_jwks(json.dumps(jwks)))
                for issuer, jwks in context["jwks"].items()
            },
            {name: x509.load_pem_x509_certificates(pem.encode()) for name, pem in context["bundles_pem"].items()},
        )
        return DelegationTrust(
            keys=keys,
            root_issuers=frozenset(map(SpiffeId.parse_workload, context["root_issuers"])),
            minters=frozenset(map(SpiffeId.parse_workload, context["minters"])),
            max_depth=context["max_depth"],
            max_ttl_seconds=context["max_ttl_s"],
        )

    @property
    def revocations(self) -> Revocations:
        """What was revoked."""
        revoked = self.content.get("revoked", {})
        unknown = revoked.keys() - KNOWN_REVOCATIONS
        if unknown:
            raise KeyError(f"revocations that this runner does not know: {sorted(unknown)}")
        return Revocations(
            token_ids=frozenset(revoked.get("jti", ())),
            session_ids=frozenset(revoked.get("sid", ())),
            key_ids=frozenset(revoked.get("kid", ())),
            certificates=frozenset(map(bytes.fromhex, revoked.get("x5t", ()))),
            subjects=revoked.get("sub", {}),
            workloads={SpiffeId.parse_workload(name): mark for name, mark in revoked.get("spiffe_id", {}).items()},
        )


def _is_root(content: Mapping[str, Any]) -> bool:
    """Whether a vector is a valid chain of one link."""
    return bool(content["expect"] == "allow" and content["header_value"] and "~" not in content["header_value"])


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _files() -> Iterator[Path]:
    yield from sorted(DATA.glob("*.json"))
    if directory := os.environ.get(VARIABLE):
        yield from sorted(Path(directory).glob("*.json"))


def _cases() -> Iterator[Any]:
    """Yield the vectors. One that stands in two files alike is run once, unless their contexts differ."""
    found: dict[str, Vector] = {}
    for path in _files():
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != FORMAT:
            continue  # another runner's
        for content in document["vectors"]:
            vector = Vector(path, document, content)
            known = found.setdefault(content["id"], vector)
            if known is vector:
                yield pytest.param(vector, id=content["id"])
            elif (known.content, known.context) != (content, vector.context):
                yield pytest.param(vector, id=f"{content['id']} of {path.name}")


@contextmanager
def _limits(context: Mapping[str, Any]) -> Iterator[None]:
    """Put the limits that a file names in the place of ours."""
    with (
        patch.object(jws, "MAX_LINKS", context["max_links"]),
        patch.object(jws, "MAX_CHAIN_BYTES", context["max_bytes"]),
        patch.object(chain, "LEEWAY_SECONDS", context["skew_s"]),
    ):
        yield


def judge(vector: Vector, cache: LinkCache | None = None) -> tuple[str, str]:
    """Return the verdict on a vector and why."""
    unknown = vector.content.keys() - KNOWN_KEYS
    if unknown:
        raise KeyError(f"keys that this runner does not know: {sorted(unknown)}")
    with _limits(vector.context):
        try:
            delegation = verify_chain(vector.header, vector.presentation, vector.trust, cache, vector.revocations)
        except Refusal as refusal:
            return "deny", f"{refusal.reason}: {refusal.detail}"
    return ("deny", "used before") if _is_used_up(vector, delegation) else ("allow", "ok")


def _is_used_up(vector: Vector, delegation: Delegation) -> bool:
    """Whether the showing that is judged is the second one of a chain for single use."""
    return delegation.once and vector.content.get("present_twice", False)


@pytest.mark.parametrize("vector", list(_cases()))
def test_chain(vector: Vector) -> None:
    """The verdict on a chain is the vector's, the first time and from memory."""
    cache = LinkCache()
    verdicts = [judge(vector), judge(vector, cache), judge(vector, cache)]
    print(f"{vector.content['name']}: expected {vector.content['expect']}, got {verdicts[0]}")  # noqa: T201
    assert [vector.content["expect"]] * 3 == [verdict for verdict, _ in verdicts]
    assert 1 == len(set(verdicts))
