"""Recorded decisions, decided again.

A record holds who called whom, method, path, the assertion, and the authority of a verified chain. It holds no header, query or body,
so what was refused because of those, or for reasons outside of the policy, cannot be decided again: it is told apart, never guessed.
"""

from ext_authz.attributes.request import AGENT_ACTION
from ext_authz.errors import Outcome, Reason
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.review.records import RecordedDecision, RecordedDelegation
from ext_authz.review.requests import PolicyRequest
from ext_authz.tokens.chain import Delegation

# What a record says of an assertion that was no name.
_NO_NAME = "(not a name)"
# Refusals with these statuses come of what a record does not hold, or of what is no matter of policy ...
_OF_THE_REQUEST = frozenset({400, 401, 411, 413, 415, 429})
# ... but for the chain that did not come; and so do these.
_OF_THE_POLICY = frozenset({Reason.TOKEN_MISSING})
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
