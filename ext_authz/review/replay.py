"""Recorded decisions, decided again.

A record holds who called whom, method, path, the assertion, and the authority of a verified chain. It holds no header, query or body,
so what was refused because of those, or for reasons outside of the policy, cannot be decided again: it is told apart, never guessed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ext_authz.attributes.request import AGENT_ACTION
from ext_authz.decision.model import Decision
from ext_authz.errors import Outcome, Reason
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.injection.screen import Screen
from ext_authz.policy.compile import Policy
from ext_authz.review.records import RecordedDecision, RecordedDelegation
from ext_authz.review.rehearsal import rehearse
from ext_authz.review.requests import PolicyRequest
from ext_authz.tokens.chain import Delegation

# Kinds of changed decisions that are told apart; a path in each of a million records must not fill the memory.
MAX_KINDS = 10_000

# What a record says of an assertion that was no name.
_NO_NAME = "(not a name)"
# Refusals with these statuses come of what a record does not hold, or of what is no matter of policy ...
_OF_THE_REQUEST = frozenset({400, 401, 411, 413, 415, 429})
# ... but for the chain that did not come; and so do these.
_OF_THE_POLICY = frozenset({Reason.TOKEN_MISSING})
_OF_THE_BODY = "body_"
# Reasons of decisions that looked at the chain: without one in the record, none came.
_TOLD_OF_CHAINS = frozenset({Reason.ALLOWED, Reason.TOKEN_MISSING})
_NOT_OF_THE_POLICY = frozenset(
    {
        *(Reason.RESOURCE_MISMATCH, Reason.EGRESS_DENIED, Reason.REVOKED),
        *(Reason.TOKEN_CHAIN, Reason.TOKEN_AUDIENCE, Reason.TOKEN_PRESENTER),
    }
)


class CannotReplayError(ValueError):
    """The record does not hold what this decision was made of; the text says what is missing."""


def is_of_policy(reason: Reason) -> bool:
    """Whether a record holds everything that leads to this reason."""
    if reason in _OF_THE_POLICY:
        return True
    meaning = reason.meaning
    refused_for_more = meaning.http_status in _OF_THE_REQUEST or reason in _NOT_OF_THE_POLICY
    return meaning.outcome is not Outcome.ERROR and not refused_for_more


def to_request(record: RecordedDecision) -> PolicyRequest:
    """Return the request of a recorded decision, as far as it was recorded. Raises CannotReplayError."""
    if not is_of_policy(record.reason):
        raise CannotReplayError(f"a record does not hold what leads to {record.reason}")
    if not record.caller_verified:
        raise CannotReplayError("the caller was not verified")
    if record.asserted_action == _NO_NAME:
        raise CannotReplayError("what the caller asserted was no name, and is not recorded")
    try:
        subject, resource = map(SpiffeId.parse_workload, (record.caller, record.target))
    except SpiffeIdError:
        raise CannotReplayError("caller or target is no SPIFFE ID") from None
    return PolicyRequest(
        subject=subject,
        resource=resource,
        method=record.method,
        path=record.path,
        headers={AGENT_ACTION: record.asserted_action} if record.asserted_action else {},
        body=None,
        at=record.decided_at,
        delegation=_delegation(record.delegation, resource, record.decided_at) if record.delegation else None,
    )


def _delegation(recorded: RecordedDelegation, resource: SpiffeId, at: float) -> Delegation:
    return Delegation(
        on_behalf_of=recorded.on_behalf_of,
        session_id=recorded.session_id,
        scopes=recorded.scopes,
        allowed_targets=frozenset({resource}),
        depth=0,
        hops=recorded.hops,
        actors=recorded.actors,
        root_issuer=recorded.root_issuer,
        token_ids=(),
        expires_at=int(at) + 1,
        once=False,
    )


class Changed(NamedTuple):
    """Decisions that would come out otherwise, of one caller, target and action."""

    caller: str
    target: str
    action: str  # or the method and path, where it is none
    before: Reason
    after: Reason


class Count(NamedTuple):
    """How many decisions of one kind there are, and one of them."""

    decisions: int
    example: str  # a decision id


class Replayed(NamedTuple):
    """What came of deciding recorded decisions again."""

    read: int
    replayed: int
    unlike: int  # those that the old policy decides otherwise than it is recorded
    changed: Mapping[Changed, Count]
    left_out: int  # changed ones that are not told apart, because there are too many kinds
    not_replayed: Mapping[str, int]  # by what is missing


class Replay:
    """Decides recorded decisions under two policies."""

    def __init__(self, old: Policy, new: Policy, screen: Screen) -> None:
        self._old = old
        self._new = new
        self._screen = screen

    def run(self, records: Iterable[RecordedDecision]) -> Replayed:
        """Decide all records again. Raises what reading them raises."""
        read = replayed = unlike = left_out = 0
        changed: dict[Changed, Count] = {}
        not_replayed: Counter[str] = Counter()
        for record in records:
            read += 1
            try:
                before, after = self._decide(record)
            except CannotReplayError as error:
                not_replayed[str(error)] += 1
                continue
            replayed += 1
            unlike += before.reason is not record.reason
            if before.meaning.outcome is after.meaning.outcome:
                continue
            kind = self._kind(record, before, after)
            if kind in changed or len(changed) < MAX_KINDS:
                known = changed.get(kind, Count(0, record.decision_id))
                changed[kind] = known._replace(decisions=known.decisions + 1)
            else:
                left_out += 1
        return Replayed(read, replayed, unlike, changed, left_out, not_replayed)

    def _decide(self, record: RecordedDecision) -> tuple[Decision, Decision]:
        request = to_request(record)
        before, after = (rehearse(request, policy, self._screen) for policy in (self._old, self._new))
        for decision in (before, after):
            if decision.reason.startswith(_OF_THE_BODY):
                raise CannotReplayError("a body is needed, and no record holds one")
            if decision.reason is Reason.TOKEN_MISSING and record.reason not in _TOLD_OF_CHAINS:
                raise CannotReplayError("a chain is needed, and none was looked at before this was refused")
        return before, after

    def _kind(self, record: RecordedDecision, before: Decision, after: Decision) -> Changed:
        action = after.action or before.action
        name = self._new.names.name_of
        what = action.name if action else f"{record.method} {record.path}"
        return Changed(name(record.caller), name(record.target), what, before.reason, after.reason)
