"""Explanations of requests: those of policy authors, and those that a sidecar sent."""

from ext_authz.attributes.request import Attributes
from ext_authz.decision.decide import Call, Snapshot
from ext_authz.decision.explain import Explanation, Step, explain
from ext_authz.errors import Reason
from ext_authz.identity.identify import WORKLOAD_EXTENSION
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.injection.screen import Screen
from ext_authz.policy.compile import Policy
from ext_authz.review.rehearsal import assuming, reading, to_bytes
from ext_authz.review.requests import PolicyRequest

_ATTRIBUTES = "attributes"


def explain_request(request: PolicyRequest, policy: Policy, screen: Screen) -> Explanation:
    """Explain the decision on a request in the words of policy authors. Never raises."""
    return explain_bytes(to_bytes(request), assuming(policy, screen, request), request.at)


def explain_bytes(data: bytes, snapshot: Snapshot, at: float) -> Explanation:
    """Explain the decision on a serialized CheckRequest. Never raises."""
    found = reading(
        data, snapshot, at, lambda attributes, call: explain(attributes, snapshot, _asked(attributes, call))
    )
    if isinstance(found, Explanation):
        return found._replace(steps=(Step(_ATTRIBUTES, Reason.ALLOWED, ""), *found.steps))
    return Explanation(found, (Step(_ATTRIBUTES, found.reason, found.detail),), None, None, None, ())


def _asked(attributes: Attributes, call: Call) -> Call:
    """Take the listener for that of the workload which an outbound sidecar names: a capture does not hold who asked."""
    if not attributes.is_outbound:
        return call
    try:
        return call._replace(peer=SpiffeId.parse_workload(attributes.extensions.get(WORKLOAD_EXTENSION, "")))
    except SpiffeIdError:
        return call
