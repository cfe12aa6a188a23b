"""The Delegation document to the verifier that decisions use: once at load, with every problem at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import Delegation as DelegationDocument
from ext_authz.documents.models import RootIssuer
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import NO_TRUST_DOMAIN, Names
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import DelegationTrust, RootLimit
from ext_authz.tokens.claims import MAX_TTL_SECONDS
from ext_authz.tokens.compile_keys import compile_keys, resolve_each
from ext_authz.tokens.key_files import Stamps
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource, TrustedKeys
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
    watched: Stamps = field(default_factory=dict)  # files and directories outside of the policy directory

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
        root_issuers = self._resolved(("root_issuers",), [each.id for each in document.root_issuers])
        minters = self._resolved(("minters",), document.minters)
        keys = compile_keys(self._source, self._names, self._directory, self._max_stale(), self._problems)
        trust = DelegationTrust(
            keys=keys.trusted,
            root_issuers=frozenset(root_issuers.values()),
            minters=frozenset(minters.values()),
            max_depth=document.max_depth,
            max_ttl_seconds=self._max_ttl(),
            root_limits=dict(self._root_limits(root_issuers)),
        )
        self._check_keys(root_issuers, trust.keys)
        return DelegationPolicy(ChainVerifier(trust), document.required, keys.digest, keys.sources, keys.watched)

    def _resolved(self, steps: tuple[str | int, ...], names: list[str]) -> dict[str, SpiffeId]:
        places = [self._source.locate(*steps, index) for index in range(len(names))]
        return resolve_each(self._names, zip(names, places, strict=True), self._problems)

    def _root_limits(self, root_issuers: Mapping[str, SpiffeId]) -> Iterator[tuple[SpiffeId, RootLimit]]:
        for index, issuer in enumerate(self._source.model.root_issuers):
            targets = None
            if issuer.targets is not None:
                targets = frozenset(self._resolved(("root_issuers", index, "targets"), issuer.targets).values())
            if issuer.id in root_issuers:
                yield root_issuers[issuer.id], _limit(issuer, targets)

    def _check_keys(self, root_issuers: Mapping[str, SpiffeId], keys: TrustedKeys) -> None:
        """Refuse a root issuer whose chains nothing could verify: whoever named it expects that they count."""
        for index, issuer in enumerate(self._source.model.root_issuers):
            workload = root_issuers.get(issuer.id)
            if workload is None or workload in keys.by_issuer or workload.trust_domain in keys.bundles:
                continue
            if workload.trust_domain != NO_TRUST_DOMAIN:
                self._problems.append(
                    f"{self._source.locate('root_issuers', index)}: {quoted(issuer.id)} has no key: "
                    f"add it to `keys` or the `key_directory`, or {quoted(workload.trust_domain)} to `bundles`"
                )

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


def _limit(issuer: RootIssuer, targets: frozenset[SpiffeId] | None) -> RootLimit:
    scopes = None if issuer.scopes is None else frozenset(issuer.scopes)
    return RootLimit(issuer.subjects.removesuffix("*"), not issuer.subjects.endswith("*"), scopes, targets)
