"""The Delegation document to the verifier that decisions use: once at load, with every problem at once."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import Delegation as DelegationDocument
from ext_authz.documents.models import RootIssuer
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names, check_names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.chain import DelegationTrust, RootLimit
from ext_authz.tokens.claims import MAX_TTL_SECONDS
from ext_authz.tokens.keys import NO_KEYS, JwksError, KeySet, KeySource, TrustedKeys, parse_jwks
from ext_authz.tokens.verifier import ChainVerifier

# Bytes of a JWK set or bundle file.
MAX_KEY_FILE_BYTES = 1024 * 1024
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class DelegationPolicy:
    """What a policy says about delegation."""

    verifier: ChainVerifier
    required: bool  # unless a cell says otherwise
    digest: str  # SHA-256 over the key files, hexadecimal
    sources: Mapping[SpiffeId, KeySource] = field(default_factory=dict)  # issuers whose keys stand at an address

    def with_keys(self, found: Mapping[KeySource, KeySet]) -> "DelegationPolicy":
        """Return this policy with the keys that addresses hold now; one that is not among them has none."""
        if not self.sources:
            return self
        fetched = {issuer: found.get(source, NO_KEYS) for issuer, source in self.sources.items()}
        return replace(self, verifier=self.verifier.with_keys(fetched))


def compile_delegation(documents: PolicyDocuments, names: Names, problems: list[str]) -> DelegationPolicy | None:
    """Compile the Delegation document, if there is one; add what is wrong to `problems`."""
    sources = documents.of(DelegationDocument)
    problems.extend(
        f"{source.locate('kind')}: a policy has one Delegation document, the first is in {sources[0].path}"
        for source in sources[1:]
    )
    return _Compiler(sources[0], names, documents.directory, problems).compile() if sources else None


class _Compiler:
    def __init__(self, source: Source[DelegationDocument], names: Names, directory: Path, problems: list[str]) -> None:
        self._source = source
        self._names = names
        self._directory = directory
        self._problems = problems
        self._digest = hashlib.sha256()

    def compile(self) -> DelegationPolicy:
        document = self._source.model
        issuers = [each.id for each in document.root_issuers]
        root_issuers = self._resolved(issuers, [self._source.locate("root_issuers", at) for at in range(len(issuers))])
        minters = self._resolved(
            document.minters, [self._source.locate("minters", at) for at in range(len(document.minters))]
        )
        trust = DelegationTrust(
            keys=TrustedKeys(dict(self._keys()), dict(self._bundles())),
            root_issuers=frozenset(root_issuers.values()),
            minters=frozenset(minters.values()),
            max_depth=document.max_depth,
            max_ttl_seconds=self._max_ttl(document.max_ttl),
            root_limits={
                root_issuers[each.id]: _limit(each) for each in document.root_issuers if each.id in root_issuers
            },
        )
        return DelegationPolicy(ChainVerifier(trust), document.required, self._digest.hexdigest())

    def _resolved(self, names: Iterable[str], places: Iterable[str]) -> dict[str, SpiffeId]:
        """Return the workloads that names stand for; one that is named twice is a problem, however it is spelled."""
        found: dict[str, SpiffeId] = {}
        for name, here in zip(names, places, strict=True):
            try:
                workload = self._names.resolve(name)
            except SpiffeIdError as error:
                self._problems.append(f"{here}: {quoted(name)} names no workload: {error}")
                continue
            if workload in found.values():
                self._problems.append(f"{here}: {quoted(name)} names a workload that stands here already")
            else:
                found[name] = workload
        return found

    def _max_ttl(self, text: str) -> int:
        seconds = int(text[:-1]) * _UNIT_SECONDS[text[-1]]
        if seconds > MAX_TTL_SECONDS:
            here = self._source.locate("max_ttl")
            self._problems.append(f"{here}: {quoted(text)} is longer than any chain may live: at most 1h")
        return seconds

    def _keys(self) -> Iterator[tuple[SpiffeId, KeySet]]:
        files = self._source.model.keys
        issuers = self._resolved(files, [self._source.locate_key("keys", name) for name in files])
        for name, file in files.items():
            here = self._source.locate("keys", name)
            data = self._read(here, file)
            if data is None or name not in issuers:
                continue
            try:
                yield issuers[name], KeySet(parse_jwks(data))
            except JwksError as error:
                self._problems.append(f"{here}: {quoted(file)}: {error}")

    def _bundles(self) -> Iterator[tuple[str, tuple[x509.Certificate, ...]]]:
        for trust_domain, file in self._source.model.bundles.items():
            here = self._source.locate("bundles", trust_domain)
            try:
                check_names(Names(trust_domain))
            except SpiffeIdError as error:
                place = self._source.locate_key("bundles", trust_domain)
                self._problems.append(f"{place}: {quoted(trust_domain)} is no trust domain: {error}")
            data = self._read(here, file)
            if data is None:
                continue
            try:
                yield trust_domain, tuple(x509.load_pem_x509_certificates(data))
            except ValueError:
                self._problems.append(f"{here}: {quoted(file)} holds no PEM certificates")

    def _read(self, here: str, file: str) -> bytes | None:
        """Read a key file. An unreadable one is a problem and None."""
        path = self._directory / file
        try:
            if path.exists() and not path.is_file():
                self._problems.append(f"{here}: {quoted(file)} is not a regular file")
                return None
            with path.open("rb") as opened:
                data = opened.read(MAX_KEY_FILE_BYTES + 1)
        except OSError as error:
            self._problems.append(f"{here}: cannot read {quoted(file)}: {error.strerror}")
            return None
        if len(data) > MAX_KEY_FILE_BYTES:
            self._problems.append(f"{here}: {quoted(file)} is larger than {MAX_KEY_FILE_BYTES} bytes")
            return None
        self._digest.update(f"{file}\0{len(data)}\0".encode() + data)
        return data


def _limit(issuer: RootIssuer) -> RootLimit:
    scopes = None if issuer.scopes is None else frozenset(issuer.scopes)
    return RootLimit(issuer.subjects.removesuffix("*"), not issuer.subjects.endswith("*"), scopes)
