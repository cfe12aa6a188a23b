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
from ext_authz.tokens.key_files import KeyFiles
from ext_authz.tokens.keys import NO_KEYS, JwksError, KeySet, KeySource, TrustedKeys, parse_jwks

_ADDRESS_SIGN = "://"


@dataclass(frozen=True, slots=True)
class CompiledKeys:
    """Whose keys count, and where they come from."""

    trusted: TrustedKeys  # issuers with an address have no keys yet
    sources: Mapping[SpiffeId, KeySource]
    digest: str  # SHA-256 over the files, hexadecimal


def compile_keys(
    source: Source[Delegation], names: Names, directory: Path, max_stale_seconds: int, problems: list[str]
) -> CompiledKeys:
    """Compile `keys` and `bundles`; add what is wrong to `problems`."""
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
        written = self._source.model.keys
        issuers = resolve_each(
            names, ((name, self._source.locate_key("keys", name)) for name in written), self._problems
        )
        by_issuer: dict[SpiffeId, KeySet] = {}
        sources: dict[SpiffeId, KeySource] = {}
        for name, place in written.items():
            here = self._source.locate("keys", name)
            if _ADDRESS_SIGN in place:
                keys, address = NO_KEYS, self._address(here, place)
                if address and name in issuers:
                    sources[issuers[name]] = address
            else:
                keys = self._key_file(here, place)
            if name in issuers:
                by_issuer[issuers[name]] = keys
        bundles = {
            trust_domain: self._bundle(trust_domain, file) for trust_domain, file in self._source.model.bundles.items()
        }
        return CompiledKeys(TrustedKeys(by_issuer, bundles), sources, self._files.digest)

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
