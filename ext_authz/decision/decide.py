"""The decision pipeline: a request becomes a list of facts, the facts become one decision.

1. `decide` is pure: no I/O, no clock, no globals, no locks. Time, policy and settings come in as arguments.
2. The stages run in the order of the table in ARCHITECTURE.md and stop at the first that does not allow.
3. It returns a decision for every input; nothing escapes it. What fails inside is `internal_error`, never an allow.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from ext_authz.action.registry import Action
from ext_authz.attributes.request import AGENT_ACTION, DELEGATION_TOKEN, TARGET_RESOURCE, Attributes
from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.decision.model import Decision
from ext_authz.decision.rates import admit, admit_tokens
from ext_authz.decision.screening import scan_request
from ext_authz.decision.seen import Seen
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import NotAllowed, Reason, Refusal, Undecided
from ext_authz.faults import place_of
from ext_authz.identity.identify import Identifier, Identity
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.injection.screen import Finding, Screen
from ext_authz.limits.limiter import Limiter
from ext_authz.policy.compile import Policy
from ext_authz.policy.constraints import Facts, all_satisfied, satisfied
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.chain import Delegation

DIRECTION_EXTENSION = "direction"
INBOUND = "inbound"
EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision rests on, swapped as a whole when any of it changes."""

    policy: Policy
    identifier: Identifier
    screen: Screen
    controls: Controls = NO_CONTROLS
    limiter: Limiter = field(default_factory=Limiter)  # stays the same when policy or controls are replaced


class Call(NamedTuple):
    """What is particular to one call beside its attributes."""

    decision_id: str
    now: float  # seconds since 1970
    stopwatch: Stopwatch
    peer: SpiffeId | None = None  # the sidecar that asks, where the transport proves its identity
    seen: Seen | None = None  # what costly stages came to, where another policy looks at the same request


class _Facts(NamedTuple):
    """What the stages found out before they ended."""

    identity: Identity | None = None
    action: Action | None = None
    rule: Rule | None = None
    delegation: Delegation | None = None
    findings: tuple[Finding, ...] = ()
    choices: tuple[Grant, ...] = ()

    def are_sound(self) -> bool:
        """Whether a failing stage left what it should have: answer and record are made of these."""
        identity, action = isinstance(self.identity, Identity | None), isinstance(self.action, Action | None)
        rule, delegation = isinstance(self.rule, Rule | None), isinstance(self.delegation, Delegation | None)
        return identity and action and rule and delegation and isinstance(self.findings, tuple)


_NO_FACTS = _Facts()


def decide(attributes: Attributes, snapshot: Snapshot, call: Call) -> Decision:
    """Decide one request. Never raises."""
    facts, ending = _run_stages(attributes, snapshot, call)
    return _decision(attributes, facts, snapshot, call, ending)


def judge(attributes: Attributes, snapshot: Snapshot, call: Call) -> tuple[Reason, Rule | None]:
    """Return the reason and the rule that `decide` would come to, without the rest. Never raises."""
    facts, ending = _run_stages(attributes, snapshot, call)
    if ending is None:
        return Reason.ALLOWED, facts.rule
    if isinstance(ending, NotAllowed):
        return ending.reason, facts.rule
    return Reason.INTERNAL_ERROR, facts.rule if facts.are_sound() else None


def _run_stages(attributes: Attributes, snapshot: Snapshot, call: Call) -> tuple[_Facts, Exception | None]:
    """Run the stages, and return what they found out and what ended them; None when all allow."""
    policy, split = snapshot.policy, call.stopwatch.split
    identity = action = rule = delegation = None
    findings: tuple[Finding, ...] = ()
    choices: tuple[Grant, ...] = ()
    ending: Exception | None = None
    try:
        _check_direction(attributes)
        if policy.limits is not None:
            admit(attributes.principal, policy, snapshot.limiter, call.stopwatch.started_ns)
        identity = _identify(attributes, snapshot, call)
        split("identity")
        snapshot.controls.check_caller(identity.subject, call.now)
        _check_peer(identity, call.peer)
        _check_trust_domain(identity, policy.names)
        _check_target(attributes, identity, policy.names)
        asserted = attributes.headers.get(AGENT_ACTION)
        action = policy.registry.resolve(attributes.method, attributes.path, identity.resource, asserted)
        split("action")
        request = AuthorizationRequest(identity.subject, action.name, identity.resource, Context(call.now))
        reason, rule, grants = policy.matrix.evaluate(request)
        split("policy")
        if reason is not Reason.ALLOWED:
            raise Refusal(reason)
        if DELEGATION_TOKEN in attributes.headers:
            delegation = _verify_delegation(attributes, identity, snapshot, call)
        split("tokens")
        given = Facts(request, action.scope, delegation)
        grant = satisfied(grants, given)
        rule = grant.rule
        if grant.rate is not None:
            choices = all_satisfied(grants, given)
        split("constraints")
        findings = _screen(attributes, action, snapshot, call)
        split("injection")
        if not isinstance(findings, tuple):  # an empty one says that nothing was found; nothing else does
            raise TypeError("the screen did not say what it found")
        if findings:
            raise Refusal(Reason.INJECTION_DETECTED)
    except NotAllowed as error:
        ending = error.with_traceback(
            None
        )  # it holds each frame up to here: every refusal would be work for the collector
    except Exception as error:  # noqa: BLE001  rule 3
        ending = error
    return _Facts(identity, action, rule, delegation, findings, choices), ending


def refuse(attributes: Attributes, snapshot: Snapshot, call: Call, error: Exception) -> Decision:
    """Return the decision on a request whose attributes could not be read. `attributes` is what was salvaged."""
    return _decision(attributes, _NO_FACTS, snapshot, call, error)


def _decision(
    attributes: Attributes, facts: _Facts, snapshot: Snapshot, call: Call, ending: Exception | None
) -> Decision:
    """Turn the way in which the stages ended into a decision."""
    reason, detail, fault, retry_after_seconds = Reason.ALLOWED, "", "", 0
    if isinstance(ending, NotAllowed):
        reason, detail, retry_after_seconds = ending.reason, ending.detail, ending.retry_after_seconds
    elif ending is not None:
        reason, fault = Reason.INTERNAL_ERROR, place_of(ending)
        facts = facts if facts.are_sound() else _NO_FACTS
    return Decision(
        decision_id=call.decision_id,
        decided_at=call.now,
        reason=reason,
        detail=detail or reason.meaning.sentence,
        attributes=attributes,
        identity=facts.identity,
        action=facts.action,
        rule=facts.rule,
        delegation=facts.delegation,
        findings=facts.findings,
        policy_digest=snapshot.policy.digest,
        durations_ns=tuple(call.stopwatch.durations_ns),
        elapsed_ns=call.stopwatch.elapsed_ns,
        fault=fault,
        choices=facts.choices,
        retry_after_seconds=retry_after_seconds,
    )


def _identify(attributes: Attributes, snapshot: Snapshot, call: Call) -> Identity:
    if call.seen is None:
        return snapshot.identifier.identify(attributes, call.now)
    return call.seen.once("identity", lambda: snapshot.identifier.identify(attributes, call.now))


def _screen(attributes: Attributes, action: Action, snapshot: Snapshot, call: Call) -> tuple[Finding, ...]:
    if call.seen is None:
        return scan_request(snapshot.screen, attributes, action)
    stage = ("injection", action.screens_body)  # all of the action that screening looks at
    return call.seen.once(stage, lambda: scan_request(snapshot.screen, attributes, action))


def _check_direction(attributes: Attributes) -> None:
    direction = attributes.extensions.get(DIRECTION_EXTENSION, INBOUND)
    if direction == EGRESS:  # there is no EgressAllowlist in this release, so nothing is on it
        raise Refusal(Reason.EGRESS_DENIED)
    if direction != INBOUND:
        raise Refusal(Reason.REQUEST_MALFORMED, "the route's context extension `direction` is unknown")


def _check_peer(identity: Identity, peer: SpiffeId | None) -> None:
    """Refuse a sidecar that asks about another workload than its own: it could make up any attributes."""
    if peer is not None and peer != identity.resource:
        raise Refusal(Reason.IDENTITY_MISMATCH, "the sidecar that asks is not the one of the workload reached")


def _check_trust_domain(identity: Identity, names: Names) -> None:
    if identity.subject.trust_domain != names.trust_domain:
        raise Refusal(Reason.TRUST_DOMAIN)


def _check_target(attributes: Attributes, identity: Identity, names: Names) -> None:
    """Refuse a request whose x-target-resource names another workload: it was sent to the wrong place."""
    name = attributes.headers.get(TARGET_RESOURCE)
    if name is None:
        return
    try:
        meant = names.resolve(name)
    except SpiffeIdError:
        raise Refusal(Reason.RESOURCE_MISMATCH, "x-target-resource names no workload") from None
    if meant != identity.resource:
        raise Refusal(Reason.RESOURCE_MISMATCH)


def _verify_delegation(attributes: Attributes, identity: Identity, snapshot: Snapshot, call: Call) -> Delegation:
    """Verify the chain that the request carries: one that cannot be verified is never ignored."""
    if snapshot.policy.delegation is None:
        raise Undecided(Reason.KEYS_UNAVAILABLE)
    controls, now = snapshot.controls, call.now
    admit_tokens(identity.subject, snapshot.policy, snapshot.limiter, call.stopwatch.started_ns)
    controls.check_freshness(now)
    verifier = snapshot.policy.delegation.verifier
    if call.seen is None:
        delegation = verifier.verify(attributes, identity, now, controls.revocations)
    else:
        stage = ("tokens", id(verifier))
        delegation = call.seen.once(stage, lambda: verifier.verify(attributes, identity, now, controls.revocations))
    controls.check_delegation(delegation, now)
    return delegation
