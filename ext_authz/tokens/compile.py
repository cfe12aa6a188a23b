"""The Delegation document to the verifier that decisions use: once at load, with every problem at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import Delegation as DelegationDocument
from ext_authz.documents.models import RootIssuer
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import DelegationTrust, RootLimit
from ext_authz.tokens.claims import MAX_TTL_SECONDS
from ext_authz.tokens.compile_keys import compile_keys, resolve_each
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource
from ext_authz.tokens.verifier import ChainVerifier

# Seconds of `max_stale`: keys are not fetched more often than once a minute, and a day is an outage, not a hiccup.
MIN_STALE_SECONDS, MAX_STALE_SECONDS = 60, 24 * 3600
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

    def compile(self) -> DelegationPolicy:
        document = self._source.model
        root_issuers = self._resolved("root_issuers", [each.id for each in document.root_issuers])
        minters = self._resolved("minters", document.minters)
        keys = compile_keys(self._source, self._names, self._directory, self._max_stale(), self._problems)
        trust = DelegationTrust(
            keys=keys.trusted,
            root_issuers=frozenset(root_issuers.values()),
            minters=frozenset(minters.values()),
            max_depth=document.max_depth,
            max_ttl_seconds=self._max_ttl(),
            root_limits={
                root_issuers[each.id]: _limit(each) for each in document.root_issuers if each.id in root_issuers
            },
        )
        return DelegationPolicy(ChainVerifier(trust), document.required, keys.digest, keys.sources)

    def _resolved(self, key: str, names: list[str]) -> dict[str, SpiffeId]:
        places = [self._source.locate(key, index) for index in range(len(names))]
        return resolve_each(self._names, zip(names, places, strict=True), self._problems)

    def _max_ttl(self) -> int:
        seconds = seconds_of(self._source.model.max_ttl)
        if seconds > MAX_TTL_SECONDS:
            self._refuse("max_ttl", "is longer than any chain may live: at most 1h")
        return seconds

    def _max_stale(self) -> int:
        seconds = seconds_of(self._source.model.max_stale)
        if not MIN_STALE_SECONDS <= seconds <= MAX_STALE_SECONDS:
            self._refuse("max_stale", "is no time that keys may count without news: 1m to 24h")
        return seconds

    def _refuse(self, key: str, why: str) -> None:
        self._problems.append(f"{self._source.locate(key)}: {quoted(getattr(self._source.model, key))} {why}")


def seconds_of(text: str) -> int:
    return int(text[:-1]) * _UNIT_SECONDS[text[-1]]


def _limit(issuer: RootIssuer) -> RootLimit:
    scopes = None if issuer.scopes is None else frozenset(issuer.scopes)
    return RootLimit(issuer.subjects.removesuffix("*"), not issuer.subjects.endswith("*"), scopes)
