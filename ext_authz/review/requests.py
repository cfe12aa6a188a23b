"""Requests in the words of policy authors to questions that the stages can decide.

1. A name that no document of the policy names is a mistake: a test that expects a denial would pass for a misspelled
   caller. Who means a stranger writes the SPIFFE ID.
2. An action is asked for by what a request of it is: its first route, a JSON-RPC call, or the caller's assertion.
3. What the author cannot know or should not forge (XFCC, a signed chain) is no header here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlencode

from ext_authz.attributes.request import AUTHORIZATION, DELEGATION_TOKEN, XFCC
from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import Delegation as DelegationDocument
from ext_authz.documents.models import SuiteAccessToken, SuiteDelegation, SuiteRequest
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.patterns import covers
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.compile import Policy
from ext_authz.review.asking import Asked, requests_of
from ext_authz.review.names import names_written
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

# When a request is made that does not say when: always the same moment, so that no test breaks at night. A Monday.
DEFAULT_MOMENT = "2026-01-05T12:00:00Z"
# Seconds that an assumed chain or access token is still valid.
_LIFETIME_SECONDS = 300
# Headers that say what other keys of a request say.
_NOT_A_HEADER = {XFCC: "`from` says who calls", DELEGATION_TOKEN: "`delegation` says what a verified chain holds"}

# Finds the place of a key for an error: `path:line:column`, or the name of a flag.
Locate = Callable[..., str]


class PolicyRequest(NamedTuple):
    """One request, its names resolved."""

    subject: SpiffeId
    resource: SpiffeId
    method: str
    path: str  # with the query
    headers: Mapping[str, str]  # lower-case names
    body: object  # None: no body; a text as it is; anything else as JSON
    at: float  # seconds since 1970
    delegation: Delegation | None  # taken for verified
    access_token: AccessToken | None = None  # taken for verified


class RequestReader:
    """Reads requests under one policy; what is wrong with them is added to `problems`."""

    def __init__(self, documents: PolicyDocuments, policy: Policy, problems: list[str]) -> None:
        self._documents = documents
        self._policy = policy
        self._problems = problems
        self._written = frozenset(names_written(documents))
        self._patterns = policy.matrix.patterns.uris
        self._known = {workload for name in self._written if (workload := self._workload(name)) is not None}

    def read(self, words: SuiteRequest, locate: Locate) -> PolicyRequest | None:
        """Return the request, or None when something is wrong with it."""
        before = len(self._problems)
        subject = self._party("from", words.from_, locate)
        resource = self._party("to", words.to, locate)
        asked = self._asked(words, locate)
        headers = self._headers(words, locate) | dict(asked.headers)
        if words.access_token and AUTHORIZATION in headers:
            self._problems.append(
                f"{locate('access_token')}: write either `access_token`, or the header `authorization`"
            )
        at = self._moment(words.at or DEFAULT_MOMENT, locate)
        if subject is None or resource is None or len(self._problems) > before:
            return None
        delegation = self._delegation(words.delegation, (subject, resource), at, locate) if words.delegation else None
        if len(self._problems) > before:
            return None
        access_token = self._access_token(words.access_token, at) if words.access_token else None
        body = asked.body if words.body is None else words.body
        return PolicyRequest(subject, resource, asked.method, asked.path, headers, body, at, delegation, access_token)

    def _party(self, key: str, name: str | None, locate: Locate) -> SpiffeId | None:
        if name is None:
            self._problems.append(f"{locate()}: the request has no `{key}`")
            return None
        return self._named(name, locate(key))

    def _named(self, name: str, here: str) -> SpiffeId | None:
        try:
            workload = self._policy.names.resolve(name)
        except SpiffeIdError as error:
            self._problems.append(f"{here}: {quoted(name)} names no workload: {error}")
            return None
        is_known = workload in self._known or any(covers(pattern, workload.uri) for pattern in self._patterns)
        if not is_known and not name.startswith("spiffe://"):
            meant = suggestion(name, self._written) or f": write {workload.uri} if you mean a stranger"
            self._problems.append(f"{here}: no document names {quoted(name)}{meant}")
        return workload

    def _workload(self, name: str) -> SpiffeId | None:
        try:
            return self._policy.names.resolve(name)
        except SpiffeIdError:  # a group, or a pattern
            return None

    def _asked(self, words: SuiteRequest, locate: Locate) -> Asked:
        """Return the parts that make the request what it is, the query in the path."""
        asked = Asked(words.method or "", words.path or "")
        if words.action is not None:
            if words.method or words.path:
                self._problems.append(f"{locate('action')}: write either `action`, or `method` and `path`")
            asked = self._of_action(words.action, locate("action"))
            if asked.body is not None and words.body is not None:
                here = locate("body")
                self._problems.append(
                    f"{here}: the body makes the request {quoted(words.action)}: write `method`, `path` and `body`"
                )
        elif words.method is None or words.path is None:
            self._problems.append(f"{locate()}: the request has neither `action`, nor `method` and `path`")
        query = urlencode(words.query)
        separator = ("&" if "?" in asked.path else "?") if query else ""
        return asked._replace(path=f"{asked.path}{separator}{query}")

    def _of_action(self, name: str, here: str) -> Asked:
        actions = self._policy.registry.actions
        if name not in actions:
            self._problems.append(f"{here}: unknown action {quoted(name)}{suggestion(name, actions)}")
            return Asked("", "")
        asked = next(requests_of(name, self._documents), None)
        if asked is None:
            self._problems.append(f"{here}: {quoted(name)} has no route of its own: write `method`, `path` and `body`")
        return asked or Asked("", "")

    def _headers(self, words: SuiteRequest, locate: Locate) -> dict[str, str]:
        headers: dict[str, str] = {}
        for key, value in words.headers.items():
            name = key.lower()
            if name in _NOT_A_HEADER:
                self._problems.append(
                    f"{locate('headers', key)}: {quoted(name)} cannot be given: {_NOT_A_HEADER[name]}"
                )
            headers[name] = value
        return headers

    def _moment(self, text: str, locate: Locate) -> float:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            self._problems.append(f"{locate('at')}: no calendar has {quoted(text)}")
            return 0.0

    def _delegation(
        self, words: SuiteDelegation, parties: tuple[SpiffeId, SpiffeId], at: float, locate: Locate
    ) -> Delegation:
        subject, resource = parties
        actors = tuple(self._each_named(words.actors or (), "actors", locate)) or (subject,)
        issuer = self._named(words.root_issuer, locate("delegation", "root_issuer")) if words.root_issuer else None
        return Delegation(
            on_behalf_of=words.on_behalf_of,
            session_id=words.session_id,
            scopes=frozenset(words.scopes),
            allowed_targets=frozenset({resource}),
            depth=0,
            hops=words.hops,
            actors=actors,
            root_issuer=issuer or self._first_root_issuer() or subject,
            token_ids=(),
            expires_at=int(at) + _LIFETIME_SECONDS,
            once=False,
        )

    def _access_token(self, words: SuiteAccessToken, at: float) -> AccessToken:
        providers = self._policy.providers
        issuer = words.issuer or next(iter(providers.trust.providers), "") if providers else ""
        return AccessToken(
            issuer=issuer,
            subject=words.on_behalf_of,
            on_behalf_of=words.on_behalf_of,
            scopes=frozenset(words.scopes),
            client=None,
            actors=(),
            token_id=None,
            session_id=None,
            issued_at=int(at),
            expires_at=int(at) + _LIFETIME_SECONDS,
        )

    def _each_named(self, names: Iterable[str], key: str, locate: Locate) -> Iterator[SpiffeId]:
        for index, name in enumerate(names):
            workload = self._named(name, locate("delegation", key, index))
            if workload is not None:
                yield workload

    def _first_root_issuer(self) -> SpiffeId | None:
        for source in self._documents.of(DelegationDocument):
            return self._workload(source.model.root_issuers[0].id)
        return None
