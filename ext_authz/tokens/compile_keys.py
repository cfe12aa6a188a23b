"""The keys of a Delegation document: its files are read, its addresses are named for the server to fetch from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from ext_authz.documents.loader import Source
from ext_authz.documents.models import Delegation
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names, check_names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.key_address import KeyAddressError, check_key_address
from ext_authz.tokens.key_directory import (
    MAX_KEY_FILES,
    MAX_REGISTRATION_BYTES,
    SUFFIX,
    RegistrationError,
    parse_registration,
)
from ext_authz.tokens.key_files import KeyFiles, Stamps
from ext_authz.tokens.keys import NO_KEYS, JwksError, KeySet, KeySource, TrustedKeys, parse_jwks
from ext_authz.tokens.svid import Bundles

_ADDRESS_SIGN = "://"


@dataclass(frozen=True, slots=True)
class CompiledKeys:
    """Whose keys count, and where they come from."""

    trusted: TrustedKeys  # issuers with an address have no keys yet
    sources: Mapping[SpiffeId, KeySource]
    digest: str  # SHA-256 over the files, hexadecimal
    watched: Stamps  # files and directories outside of the policy directory


def compile_keys(
    source: Source[Delegation], names: Names, directory: Path, max_stale_seconds: int, problems: list[str]
) -> CompiledKeys:
    """Compile `keys`, `key_directory` and `bundles`; add what is wrong to `problems`."""
    return _KeyCompiler(source, directory, max_stale_seconds, problems).compile(names)


def resolve_each(names: Names, written: Iterable[tuple[str, str]], problems: list[str]) -> dict[str, SpiffeId]:
    """Return the workloads that names stand for, by name; `written` holds each with its place.

    One that is named twice is a problem, however it is spelled.
    """
    found: dict[str, SpiffeId] = {}
    for name, here in written:
        try:
            workload = names.resolve(name)
        except SpiffeIdError as error:
            problems.append(f"{here}: {quoted(name)} names no workload: {error}")
            continue
        if workload in found.values():
            problems.append(f"{here}: {quoted(name)} names a workload that stands here already")
        else:
            found[name] = workload
    return found


class _KeyCompiler:
    def __init__(
        self, source: Source[Delegation], directory: Path, max_stale_seconds: int, problems: list[str]
    ) -> None:
        self._source = source
        self._files = KeyFiles(directory, problems)
        self._max_stale_seconds = max_stale_seconds
        self._problems = problems

    def compile(self, names: Names) -> CompiledKeys:
        document = self._source.model
        bundles = {trust_domain: self._bundle(trust_domain, file) for trust_domain, file in document.bundles.items()}
        places = ((name, self._source.locate_key("keys", name)) for name in document.keys)
        issuers = resolve_each(names, places, self._problems)
        by_issuer: dict[SpiffeId, KeySet] = {}
        sources: dict[SpiffeId, KeySource] = {}
        for name, place in document.keys.items():
            here, issuer = self._source.locate("keys", name), issuers.get(name)
            is_address = _ADDRESS_SIGN in place
            address = self._address(here, place) if is_address else None
            keys = NO_KEYS if is_address else self._key_file(here, place)
            if issuer is not None:
                by_issuer[issuer] = keys
                if address is not None:
                    sources[issuer] = address
        if document.key_directory is not None:
            self._add_directory(document.key_directory, names, bundles, by_issuer)
        return CompiledKeys(TrustedKeys(by_issuer, bundles), sources, self._files.digest, self._files.elsewhere)

    def _add_directory(self, directory: str, names: Names, bundles: Bundles, by_issuer: dict[SpiffeId, KeySet]) -> None:
        here = self._source.locate("key_directory")
        files = self._files.names_in(here, directory, SUFFIX)
        if len(files) > MAX_KEY_FILES:
            self._problems.append(
                f"{here}: {quoted(directory)} holds {len(files)} files, at most {MAX_KEY_FILES} are read"
            )
            return
        first = dict.fromkeys(by_issuer, "`keys`")
        for file in files:
            place = f"{self._files.path(file)}:1:1"
            data = self._files.read(place, file, MAX_REGISTRATION_BYTES)
            if data is None:
                continue
            try:
                issuer, keys = parse_registration(data, names, bundles)
            except RegistrationError as error:
                self._problems.append(f"{place}: {error}")
                continue
            if issuer in first:
                self._problems.append(f"{place}: {quoted(issuer.uri)} has its keys in {first[issuer]}")
            else:
                first[issuer], by_issuer[issuer] = quoted(file), keys

    def _address(self, here: str, url: str) -> KeySource | None:
        try:
            check_key_address(url)
        except KeyAddressError as error:
            self._problems.append(f"{here}: {error}")
            return None
        return KeySource(url, max_stale_seconds=self._max_stale_seconds)

    def _key_file(self, here: str, file: str) -> KeySet:
        data = self._files.read(here, file)
        try:
            return NO_KEYS if data is None else KeySet(parse_jwks(data))
        except JwksError as error:
            self._problems.append(f"{here}: {quoted(file)}: {error}")
            return NO_KEYS

    def _bundle(self, trust_domain: str, file: str) -> tuple[x509.Certificate, ...]:
        here = self._source.locate("bundles", trust_domain)
        try:
            check_names(Names(trust_domain))
        except SpiffeIdError as error:
            place = self._source.locate_key("bundles", trust_domain)
            self._problems.append(f"{place}: {quoted(trust_domain)} is no trust domain: {error}")
        data = self._files.read(here, file)
        try:
            return () if data is None else tuple(x509.load_pem_x509_certificates(data))
        except ValueError:
            self._problems.append(f"{here}: {quoted(file)} holds no PEM certificates")
            return ()
