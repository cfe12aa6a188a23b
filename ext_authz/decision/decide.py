"""The decision pipeline: a request becomes a list of facts, the facts become one decision.

1. `decide` is pure: no I/O, no clock, no globals, no locks. Time, policy and settings come in as arguments.
2. The stages run in the order of the table in ARCHITECTURE.md and stop at the first that does not allow.
3. It returns a decision for every input; nothing escapes it. What fails inside is `internal_error`, never an allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ext_authz.action.jsonrpc import RpcCall, read_call
from ext_authz.action.registry import Action
from ext_authz.attributes.request import (
    AUTHORIZATION,
    DELEGATION_TOKEN,
    DIRECTION_EXTENSION,
    INBOUND,
    REQUEST_TIMESTAMP,
    TARGET_RESOURCE,
    Attributes,
)
from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.decision.egress import find_outlet, outbound_call, outbound_caller
from ext_authz.decision.freshness import check_freshness
from ext_authz.decision.model import Decision
from ext_authz.decision.rates import admit, admit_tokens
from ext_authz.decision.screening import scan_head, scan_request
from ext_authz.decision.seen import Seen
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import InsufficientScope, NotAllowed, Reason, Refusal, Undecided
from ext_authz.faults import place_of
from ext_authz.identity.identify import Identifier, Identity
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.injection.screen import Finding, Screen
from ext_authz.limits.limiter import Limiter
from ext_authz.policy.compile import Policy
from ext_authz.policy.constraints import all_satisfied, any_asks, denied, satisfied
from ext_authz.policy.egress import OutboundCall
from ext_authz.policy.facts import Facts
from ext_authz.policy.federation import Federation
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation


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


class _Found(NamedTuple):
    """What the stages found out before they ended."""

    identity: Identity | None = None
    action: Action | None = None
    rule: Rule | None = None
    delegation: Delegation | None = None
    findings: tuple[Finding, ...] = ()
    choices: tuple[Grant, ...] = ()
    access_token: AccessToken | None = None
    rpc: RpcCall | None = None
    outbound: OutboundCall | None = None

    def are_sound(self) -> bool:
        """Whether a failing stage left what it should have: answer and record are made of these."""
        identity, action = isinstance(self.identity, Identity | None), isinstance(self.action, Action | None)
        rule, delegation = isinstance(self.rule, Rule | None), isinstance(self.delegation, Delegation | None)
        tokens = delegation and isinstance(self.access_token, AccessToken | None)
        rpc = isinstance(self.rpc, RpcCall | None)
        outbound = isinstance(self.outbound, OutboundCall | None)
        return identity and action and rule and tokens and rpc and outbound and isinstance(self.findings, tuple)


_NOTHING_FOUND = _Found()


def decide(attributes: Attributes, snapshot: Snapshot, call: Call) -> Decision:
    """Decide one request. Never raises."""
    found, ending = _run_stages(attributes, snapshot, call)
    return _decision(attributes, found, snapshot, call, ending)


def judge(attributes: Attributes, snapshot: Snapshot, call: Call) -> tuple[Reason, Rule | None]:
    """Return the reason and the rule that `decide` would come to, without the rest. Never raises."""
    found, ending = _run_stages(attributes, snapshot, call)
    if ending is None:
        return Reason.ALLOWED, found.rule
    if isinstance(ending, NotAllowed):
        return ending.reason, found.rule
    return Reason.INTERNAL_ERROR, found.rule if found.are_sound() else None


def _run_stages(attributes: Attributes, snapshot: Snapshot, call: Call) -> tuple[_Found, Exception | None]:
    """Run the stages, and return what they found out and what ended them; None when all allow."""
    if attributes.is_outbound:
        return _run_outbound_stages(attributes, snapshot, call)
    policy, split = snapshot.policy, call.stopwatch.split
    identity = action = rule = delegation = access_token = rpc = None
    findings: tuple[Finding, ...] = ()
    choices: tuple[Grant, ...] = ()
    ending: Exception | None = None
    try:
        _admit(attributes, snapshot, call)
        identity = _identify(attributes, snapshot, call)
        split("identity")
        rpc = policy.registry.endpoint(attributes, identity.resource)
        snapshot.controls.check_caller(identity.subject, call.now)
        rule = closed_by(policy, call.now)
        if rule is not None:
            raise Refusal(Reason.OUTSIDE_WINDOW)
        _check_request(attributes, identity, policy, call)
        rpc = _read_call(rpc, attributes, call)
        action = policy.registry.resolve(attributes, identity.resource, rpc)
        split("action")
        request = AuthorizationRequest(identity.subject, action.name, identity.resource, Context(call.now))
        verdict = policy.matrix.evaluate(request)
        rule = verdict.rule
        split("policy")
        if verdict.reason is not Reason.ALLOWED:
            raise Refusal(verdict.reason)
        delegation = _delegation(attributes, identity, snapshot, call)
        has_authorization = AUTHORIZATION in attributes.headers
        if has_authorization:
            access_token = _access_token(attributes, verdict.grants, identity, snapshot, call)
            check_agreement(delegation, access_token)
        split("tokens")
        facts = Facts(
            request, action.scope, delegation, access_token, has_authorization, attributes.headers, policy.digest
        )
        denial = denied(verdict.denials, facts) if verdict.denials else None
        if denial is not None:
            reason, rule = denial
            raise NotAllowed(reason)
        grant = satisfied(verdict.grants, facts)
        rule, choices = grant.rule, all_satisfied(verdict.grants, facts) if grant.rate is not None else ()
        if access_token is not None and not any_asks(choices or (grant,)):
            access_token = None  # what the grant does not ask for adds nothing to it
        split("constraints")
        findings = _screen(attributes, action, rpc, snapshot, call)
        split("injection")
        _check_findings(findings)
    except NotAllowed as error:
        ending = error.with_traceback(None)  # it holds every frame up to here: work for the collector
    except Exception as error:  # noqa: BLE001  rule 3
        ending = error
    return _Found(identity, action, rule, delegation, findings, choices, access_token, rpc), ending


def _run_outbound_stages(attributes: Attributes, snapshot: Snapshot, call: Call) -> tuple[_Found, Exception | None]:
    """Run the stages of an outbound call. Chains and tokens are for the inbound decision point of whoever is called."""
    policy, split = snapshot.policy, call.stopwatch.split
    outbound = rule = None
    findings: tuple[Finding, ...] = ()
    ending: Exception | None = None
    try:
        outbound = OutboundCall(outbound_caller(attributes, call.peer, snapshot.identifier.workloads))
        split("identity")
        snapshot.controls.check_caller(outbound.subject, call.now)
        rule = closed_by(policy, call.now)
        if rule is not None:
            raise Refusal(Reason.OUTSIDE_WINDOW)
        outbound = outbound_call(outbound.subject, attributes)
        outlet = find_outlet(policy.egress, outbound, attributes)
        rule = outlet.rule
        split("policy")
        findings = scan_head(snapshot.screen, attributes) if outlet.is_screened else ()
        split("injection")
        _check_findings(findings)
    except NotAllowed as error:
        ending = error.with_traceback(None)
    except Exception as error:  # noqa: BLE001  rule 3
        ending = error
    return _Found(rule=rule, findings=findings, outbound=outbound), ending


def refuse(attributes: Attributes, snapshot: Snapshot, call: Call, error: Exception) -> Decision:
    """Return the decision on a request whose attributes could not be read. `attributes` is what was salvaged."""
    return _decision(attributes, _NOTHING_FOUND, snapshot, call, error)


def _decision(
    attributes: Attributes, found: _Found, snapshot: Snapshot, call: Call, ending: Exception | None
) -> Decision:
    """Turn the way in which the stages ended into a decision."""
    reason, detail, fault, retry_after_seconds = Reason.ALLOWED, "", "", 0
    if isinstance(ending, NotAllowed):
        reason, detail, retry_after_seconds = ending.reason, ending.detail, ending.retry_after_seconds
    elif ending is not None:
        reason, fault = Reason.INTERNAL_ERROR, place_of(ending)
        found = found if found.are_sound() else _NOTHING_FOUND
    return Decision(
        decision_id=call.decision_id,
        decided_at=call.now,
        reason=reason,
        detail=detail or reason.meaning.sentence,
        attributes=attributes,
        identity=found.identity,
        action=found.action,
        rule=found.rule,
        delegation=found.delegation,
        findings=found.findings,
        policy_digest=snapshot.policy.digest,
        durations_ns=tuple(call.stopwatch.durations_ns),
        elapsed_ns=call.stopwatch.elapsed_ns,
        fault=fault,
        choices=found.choices,
        retry_after_seconds=retry_after_seconds,
        access_token=found.access_token,
        needed_scopes=ending.scopes if isinstance(ending, InsufficientScope) else (),
        rpc=found.rpc,
        outbound=found.outbound,
    )


def _admit(attributes: Attributes, snapshot: Snapshot, call: Call) -> None:
    check_direction(attributes)
    if snapshot.policy.limits is not None:
        admit(attributes.principal, snapshot.policy, snapshot.limiter, call.stopwatch.started_ns)


def _check_request(attributes: Attributes, identity: Identity, policy: Policy, call: Call) -> None:
    check_peer(identity, call.peer)
    check_trust_domain(identity, policy.federation)
    check_target(attributes, identity, policy.names)
    check_freshness(attributes.headers.get(REQUEST_TIMESTAMP), call.now, required=policy.requires_timestamp)


# What is costly is not done twice for one request, where another policy looks at it too. The name of a stage holds all that
# its result rests on beside the request, the caller and the controls.


def _identify(attributes: Attributes, snapshot: Snapshot, call: Call) -> Identity:
    if call.seen is None:
        return snapshot.identifier.identify(attributes, call.now)
    return call.seen.once("identity", partial(snapshot.identifier.identify, attributes, call.now))


def _read_call(rpc: RpcCall | None, attributes: Attributes, call: Call) -> RpcCall | None:
    if rpc is None or call.seen is None:
        return rpc and read_call(rpc.protocol, attributes)
    return call.seen.once(("rpc", rpc.protocol), partial(read_call, rpc.protocol, attributes))


def _delegation(attributes: Attributes, identity: Identity, snapshot: Snapshot, call: Call) -> Delegation | None:
    if DELEGATION_TOKEN not in attributes.headers:
        return None
    policy = snapshot.policy
    if policy.limits is not None:
        admit_tokens(identity.subject, policy, snapshot.limiter, call.stopwatch.started_ns)
    verify = partial(verify_delegation, attributes, identity, snapshot, call.now)
    if call.seen is None:
        return verify()
    return call.seen.once(("chain", id(policy.delegation and policy.delegation.verifier)), verify)


def _access_token(
    attributes: Attributes, grants: Sequence[Grant], identity: Identity, snapshot: Snapshot, call: Call
) -> AccessToken | None:
    if not any_asks(grants):
        return None
    policy = snapshot.policy
    if policy.limits is not None:
        admit_tokens(identity.subject, policy, snapshot.limiter, call.stopwatch.started_ns)
    verify = partial(verify_asked_access_token, attributes, grants, identity, snapshot, call.now)
    if call.seen is None:
        return verify()
    return call.seen.once(("access token", id(policy.providers)), verify)


def _screen(
    attributes: Attributes, action: Action, rpc: RpcCall | None, snapshot: Snapshot, call: Call
) -> tuple[Finding, ...]:
    scan = partial(scan_request, snapshot.screen, attributes, action, rpc)
    if call.seen is None:
        return scan()
    return call.seen.once(("screening", action.screens_body, rpc and rpc.protocol), scan)


def check_direction(attributes: Attributes) -> None:
    if attributes.extensions.get(DIRECTION_EXTENSION, INBOUND) != INBOUND:
        raise Refusal(Reason.REQUEST_MALFORMED, "the route's context extension `direction` is unknown")


def check_peer(identity: Identity, peer: SpiffeId | None) -> None:
    """Refuse a sidecar that asks about another workload than its own: it could make up any attributes."""
    if peer is not None and peer != identity.resource:
        raise Refusal(Reason.IDENTITY_MISMATCH, "the sidecar that asks is not the one of the workload reached")


def _check_findings(findings: tuple[Finding, ...]) -> None:
    if not isinstance(findings, tuple):  # an empty one says that nothing was found; nothing else does
        raise TypeError("the screen did not say what it found")
    if findings:
        raise Refusal(Reason.INJECTION_DETECTED)


def closed_by(policy: Policy, now: float) -> Rule | None:
    """Return the rule that forbids every call now, if there is one."""
    window = policy.windows.closed_by(now) if policy.windows.closed else None
    return None if window is None else Rule(window.where, f"closed {window.name}", denies=True)


def check_trust_domain(identity: Identity, federation: Federation) -> None:
    if not federation.admits(identity.subject):
        raise Refusal(Reason.TRUST_DOMAIN)


def check_target(attributes: Attributes, identity: Identity, names: Names) -> None:
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


def verify_delegation(attributes: Attributes, identity: Identity, snapshot: Snapshot, now: float) -> Delegation | None:
    """Verify the chain that the request carries: one that cannot be verified is never ignored."""
    if DELEGATION_TOKEN not in attributes.headers:
        return None
    if snapshot.policy.delegation is None:
        raise Undecided(Reason.KEYS_UNAVAILABLE)
    controls = snapshot.controls
    controls.check_freshness(now)
    delegation = snapshot.policy.delegation.verifier.verify(attributes, identity, now, controls.revocations)
    controls.check_delegation(delegation, now)
    return delegation


def verify_asked_access_token(
    attributes: Attributes, grants: Sequence[Grant], identity: Identity, snapshot: Snapshot, now: float
) -> AccessToken | None:
    """Verify the access token that the request carries, if any of its grants asks for one."""
    if not any_asks(grants):
        return None
    if snapshot.policy.providers is None:
        raise Undecided(Reason.KEYS_UNAVAILABLE)
    controls = snapshot.controls
    controls.check_freshness(now)
    header = attributes.headers[AUTHORIZATION]
    access_token = snapshot.policy.providers.verify(header, identity, now, controls.revocations)
    controls.check_access_token(access_token, now)
    return access_token


def check_agreement(delegation: Delegation | None, access_token: AccessToken | None) -> None:
    """Refuse a chain and an access token that are for different people: one of them is not this caller's."""
    if delegation and access_token and delegation.on_behalf_of != access_token.on_behalf_of:
        raise Refusal(Reason.OIDC_SUBJECT, "the access token is for somebody else than the delegation chain")
