"""The IdentityProviders document to the verifier that decisions use: once at load, with every problem at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import ActionRegistry, IdentityProvider, IdentityProviders, PermissionMatrix
from ext_authz.documents.reader import quoted
from ext_authz.identity.identify import Identity
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.access_token import AccessToken, AccessTokenCache, AccessTrust, Provider, verify_access_token
from ext_authz.tokens.chain import Presentation
from ext_authz.tokens.claims import MAX_TTL_SECONDS
from ext_authz.tokens.compile import MAX_STALE_SECONDS, MIN_STALE_SECONDS, seconds_of
from ext_authz.tokens.key_address import KeyAddressError, check_key_address
from ext_authz.tokens.key_files import KeyFiles, Stamps
from ext_authz.tokens.keys import NO_KEYS, JwksError, KeySet, KeySource, parse_provider_jwks
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations

_ADDRESS_SIGN = "://"
_SUB = "{sub}"


@dataclass(frozen=True)
class ProviderPolicy:
    """What a policy says about access tokens; remembers those whose signatures hold."""

    trust: AccessTrust
    digest: str  # SHA-256 over the key files, hexadecimal
    sources: Mapping[str, KeySource] = field(default_factory=dict)  # issuers whose keys stand at an address
    watched: Stamps = field(default_factory=dict)  # files outside of the policy directory
    _cache: AccessTokenCache = field(default_factory=AccessTokenCache, repr=False, compare=False)

    def with_keys(self, found: Mapping[KeySource, KeySet]) -> "ProviderPolicy":
        """Return this policy with the keys that addresses hold now; what is remembered stays when no key differs."""
        old = self.trust.providers
        fetched = {issuer: found.get(source, NO_KEYS) for issuer, source in self.sources.items()}
        is_same = all(old[issuer].keys.digest == keys.digest for issuer, keys in fetched.items())
        providers = {issuer: replace(old[issuer], keys=keys) for issuer, keys in fetched.items()}
        trust = replace(self.trust, providers={**old, **providers})
        return replace(self, trust=trust, _cache=self._cache if is_same else AccessTokenCache())

    def verify(
        self, header: str, identity: Identity, now: float, revocations: Revocations = NO_REVOCATIONS
    ) -> AccessToken:
        """Return the authority of the token in an authorization header. Raises NotAllowed."""
        presentation = Presentation(
            presenter=identity.subject,
            destination=identity.resource,
            now=now,
            certificate_sha256=bytes.fromhex(identity.certificate_sha256) or None,
        )
        trust = self.trust if revocations is NO_REVOCATIONS else replace(self.trust, revocations=revocations)
        return verify_access_token(header, presentation, trust, self._cache)


def compile_providers(documents: PolicyDocuments, names: Names, problems: list[str]) -> ProviderPolicy | None:
    """Compile the IdentityProviders document, if there is one; add what is wrong to `problems`."""
    sources = documents.of(IdentityProviders)
    if not sources:
        problems.extend(
            f"{here}: access tokens are asked for, and no IdentityProviders document says whose count"
            for here in _askers(documents)
        )
        return None
    problems.extend(
        f"{source.locate('kind')}: a policy has one IdentityProviders document, the first is in {sources[0].path}"
        for source in sources[1:]
    )
    return _Compiler(sources[0], names, KeyFiles(documents.directory, problems), problems).compile()


def _askers(documents: PolicyDocuments) -> Iterator[str]:
    """Yield the places of cells and actions that need an access token verified."""
    for matrix in documents.of(PermissionMatrix):
        for subject, row in matrix.model.matrix.items():
            for resource, cell in row.items():
                if cell.access_token in {"required", "optional"}:
                    yield matrix.locate("matrix", subject, resource, "access_token")
    for registry in documents.of(ActionRegistry):
        for name, entry in registry.model.actions.items():
            if entry.access_token is not None:
                yield registry.locate("actions", name, "access_token")


class _Compiler:
    def __init__(self, source: Source[IdentityProviders], names: Names, files: KeyFiles, problems: list[str]) -> None:
        self._source = source
        self._names = names
        self._files = files
        self._problems = problems

    def compile(self) -> ProviderPolicy:
        providers: dict[str, Provider] = {}
        sources: dict[str, KeySource] = {}
        for index, document in enumerate(self._source.model.providers):
            provider = self._provider(index, document)
            self._check_own(index, provider, providers)
            source = self._key_source(index, document)
            if source is not None:
                sources[provider.issuer] = source
            providers[provider.issuer] = provider
        return ProviderPolicy(AccessTrust(providers), self._files.digest, sources, self._files.elsewhere)

    def _provider(self, index: int, document: IdentityProvider) -> Provider:
        before_sub, _, after_sub = document.on_behalf_of.partition(_SUB)
        return Provider(
            issuer=document.issuer,
            audiences=frozenset(document.audience),
            keys=self._key_set(index, document),
            token_types=frozenset(each.lower() for each in document.token_types),
            max_ttl_seconds=self._max_ttl(index, document),
            clients=self._clients(index, document),
            before_sub=before_sub,
            after_sub=after_sub,
            scope_claim=document.scope_claim,
            scopes=None
            if document.scopes is None
            else {theirs: frozenset(ours) for theirs, ours in document.scopes.items()},
        )

    def _check_own(self, index: int, provider: Provider, others: Mapping[str, Provider]) -> None:
        """Check that an issuer stands once, and that nobody of another issuer could be taken for somebody of this one."""
        if provider.issuer in others:
            self._refuse((index, "issuer"), provider.issuer, "is listed above")
            return
        for other in others.values():
            if _may_meet(provider, other):
                written = self._source.model.providers[index].on_behalf_of
                why = f"could name somebody of `{other.issuer}` too: give each issuer another beginning"
                self._refuse((index, "on_behalf_of"), written, why)

    def _key_source(self, index: int, document: IdentityProvider) -> KeySource | None:
        """Return the address of a provider's keys; None when they stand in a file."""
        stale_seconds = seconds_of(document.max_stale)
        if not MIN_STALE_SECONDS <= stale_seconds <= MAX_STALE_SECONDS:
            why = "is no time that keys may count without news: 1m to 24h"
            self._refuse((index, "max_stale"), document.max_stale, why)
        self._check_address((index, "issuer"), document.issuer)
        if document.keys is None:
            return KeySource(document.issuer, is_issuer=True, max_stale_seconds=stale_seconds)
        if _ADDRESS_SIGN not in document.keys:
            return None
        self._check_address((index, "keys"), document.keys)
        return KeySource(document.keys, is_provider=True, max_stale_seconds=stale_seconds)

    def _check_address(self, steps: tuple[str | int, ...], address: str) -> None:
        try:
            check_key_address(address)
        except KeyAddressError as error:
            self._problems.append(f"{self._source.locate('providers', *steps)}: {error}")

    def _key_set(self, index: int, document: IdentityProvider) -> KeySet:
        """Read the key file of a provider; one with an address has no keys yet."""
        if document.keys is None or _ADDRESS_SIGN in document.keys:
            return NO_KEYS
        here = self._source.locate("providers", index, "keys")
        data = self._files.read(here, document.keys)
        try:
            return NO_KEYS if data is None else KeySet(parse_provider_jwks(data))
        except JwksError as error:
            self._problems.append(f"{here}: {quoted(document.keys)}: {error}")
            return NO_KEYS

    def _max_ttl(self, index: int, document: IdentityProvider) -> int:
        seconds = seconds_of(document.max_ttl)
        if seconds > MAX_TTL_SECONDS:
            self._refuse((index, "max_ttl"), document.max_ttl, "is longer than any token may live: at most 1h")
        return seconds

    def _clients(self, index: int, document: IdentityProvider) -> dict[str, frozenset[SpiffeId]] | None:
        if document.clients is None:
            return None
        return {
            client: frozenset(self._workloads((index, "clients", client), names))
            for client, names in document.clients.items()
        }

    def _workloads(self, steps: tuple[str | int, ...], names: list[str]) -> Iterator[SpiffeId]:
        for at, name in enumerate(names):
            try:
                yield self._names.resolve(name)
            except SpiffeIdError as error:
                here = self._source.locate("providers", *steps, at)
                self._problems.append(f"{here}: {quoted(name)} names no workload: {error}")

    def _refuse(self, steps: tuple[str | int, ...], written: str, why: str) -> None:
        self._problems.append(f"{self._source.locate('providers', *steps)}: {quoted(written)} {why}")


def _may_meet(one: Provider, other: Provider) -> bool:
    """Whether some `sub` of one issuer and some `sub` of another would be the same `on_behalf_of`."""
    return _one_begins(one.before_sub, other.before_sub) and _one_begins(one.after_sub[::-1], other.after_sub[::-1])


def _one_begins(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
