"""A decision with everything that leads to it: each stage's verdict, also behind the first that refuses.

1. The decision is that of `decide`, and of limits as they stand: they are looked at, and nothing is counted. The steps tell
   how the same stage functions see the request one by one.
2. A stage whose inputs do not exist, because one before it failed, is not run.
3. A refusal that no step accounts for, as that of a deadline, gets a step of its own: steps never say less than the decision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from ext_authz.action.jsonrpc import RpcCall, read_call
from ext_authz.action.registry import Action
from ext_authz.attributes.request import AUTHORIZATION, REQUEST_TIMESTAMP, Attributes
from ext_authz.decision.decide import (
    Call,
    Snapshot,
    check_agreement,
    check_direction,
    check_peer,
    check_target,
    check_trust_domain,
    closed_by,
    decide,
    verify_asked_access_token,
    verify_delegation,
)
from ext_authz.decision.egress import find_outlet, outbound_call, outbound_caller
from ext_authz.decision.freshness import check_freshness
from ext_authz.decision.model import Decision
from ext_authz.decision.rates import has_room, wanted
from ext_authz.decision.screening import scan_head, scan_request
from ext_authz.errors import NotAllowed, Reason, Refusal
from ext_authz.faults import place_of
from ext_authz.identity.identify import Identity
from ext_authz.injection.screen import Finding
from ext_authz.policy.constraints import all_satisfied, denied, satisfied
from ext_authz.policy.egress import OutboundCall, Outlet
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Denial, Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

OTHER = "decide"


class Step(NamedTuple):
    """How one stage sees the request."""

    stage: str
    reason: Reason | None  # ALLOWED: it passes; None: it could not be run
    detail: str  # for people: what was found, or why it refuses
    rule: Rule | None = None


class GrantVerdict(NamedTuple):
    """How one cell that grants the action sees the request."""

    grant: Grant
    reason: Reason  # ALLOWED: it is satisfied


class Explanation(NamedTuple):
    """A decision and how it came about."""

    decision: Decision
    steps: tuple[Step, ...]
    identity: Identity | None  # as all below: found, whether or not a stage before refused
    action: Action | None
    delegation: Delegation | None
    grants: tuple[GrantVerdict, ...]  # of this subject, resource and action; deny rules left out

    @property
    def decided_by(self) -> Step | None:
        """The first step that refuses; None: the request is allowed."""
        return next((step for step in self.steps if step.reason not in (None, Reason.ALLOWED)), None)


def explain(attributes: Attributes, snapshot: Snapshot, call: Call) -> Explanation:
    """Decide one request and explain the decision. Never raises, and has no effects."""
    decision = decide(attributes, snapshot, call)
    if decision.reason is Reason.ALLOWED:
        decision = has_room(decision, snapshot.policy, snapshot.limiter, call.stopwatch.started_ns)
    walk = _Walk(attributes, snapshot, call)
    stages = _OUTBOUND_STAGES if attributes.is_outbound else _STAGES
    steps = tuple(_step(stage, run, walk) for stage, run in stages)
    verdicts = tuple(_grant_verdicts(walk))
    explanation = Explanation(decision, steps, walk.found_identity, walk.action, walk.delegation, verdicts)
    decided_by = explanation.decided_by
    if (decided_by.reason if decided_by else Reason.ALLOWED) is decision.reason:
        return explanation
    return explanation._replace(steps=(Step(OTHER, decision.reason, decision.detail, decision.rule), *steps))


class _NotReachedError(Exception):
    """A stage needs what another one did not find out."""


@dataclass(slots=True)
class _Walk:
    """One request on its way through all stages, and what they found out."""

    attributes: Attributes
    snapshot: Snapshot
    call: Call
    found_identity: Identity | None = None
    rpc: RpcCall | None = None
    action: Action | None = None
    grants: tuple[Grant, ...] = ()
    denials: tuple[Denial, ...] = ()
    delegation: Delegation | None = None
    access_token: AccessToken | None = None
    delegation_is_known: bool = False
    access_token_is_known: bool = False
    choices: tuple[Grant, ...] | None = None  # as those of a decision; None: no grant is satisfied
    rule: Rule | None = None
    found_outbound: OutboundCall | None = None
    outlet: Outlet | None = None

    @property
    def outbound(self) -> OutboundCall:
        if self.found_outbound is None:
            raise _NotReachedError
        return self.found_outbound

    @property
    def identity(self) -> Identity:
        if self.found_identity is None:
            raise _NotReachedError
        return self.found_identity

    @property
    def request(self) -> AuthorizationRequest:
        if self.action is None:
            raise _NotReachedError
        return AuthorizationRequest(
            self.identity.subject, self.action.name, self.identity.resource, Context(self.call.now)
        )

    @property
    def facts(self) -> Facts:
        if self.action is None or not self.has_all_tokens:
            raise _NotReachedError
        headers = self.attributes.headers
        return Facts(
            self.request,
            self.action.scope,
            self.delegation,
            self.access_token,
            has_authorization=AUTHORIZATION in headers,
            asserted=headers,
            policy_digest=self.snapshot.policy.digest,
        )

    @property
    def has_all_tokens(self) -> bool:
        return self.delegation_is_known and self.access_token_is_known


def _step(stage: str, run: Callable[[_Walk], str], walk: _Walk) -> Step:
    walk.rule = None
    try:
        detail = run(walk)
    except _NotReachedError:
        return Step(stage, None, "")
    except NotAllowed as refusal:
        return Step(stage, refusal.reason, refusal.detail, walk.rule)
    except Exception as error:  # noqa: BLE001  rule 1
        return Step(stage, Reason.INTERNAL_ERROR, place_of(error))
    return Step(stage, Reason.ALLOWED, detail, walk.rule)


def _direction(walk: _Walk) -> str:
    if walk.attributes.is_outbound:
        return "egress: what an outbound sidecar asks"
    check_direction(walk.attributes)
    return "inbound"


def _identity(walk: _Walk) -> str:
    walk.found_identity = walk.snapshot.identifier.identify(walk.attributes, walk.call.now)
    return f"{walk.identity.subject} calls {walk.identity.resource}"


def _quarantine(walk: _Walk) -> str:
    walk.snapshot.controls.check_caller(walk.identity.subject, walk.call.now)
    return ""


def _peer(walk: _Walk) -> str:
    check_peer(walk.identity, walk.call.peer)
    return ""


def _trust_domain(walk: _Walk) -> str:
    check_trust_domain(walk.identity, walk.snapshot.policy.federation)
    return walk.identity.subject.trust_domain


def _target(walk: _Walk) -> str:
    check_target(walk.attributes, walk.identity, walk.snapshot.policy.names)
    return ""


def _closed(walk: _Walk) -> str:
    walk.rule = closed_by(walk.snapshot.policy, walk.call.now)
    if walk.rule is not None:
        raise Refusal(Reason.OUTSIDE_WINDOW)
    return ""


def _timestamp(walk: _Walk) -> str:
    required = walk.snapshot.policy.requires_timestamp
    check_freshness(walk.attributes.headers.get(REQUEST_TIMESTAMP), walk.call.now, required=required)
    return ""


def _action(walk: _Walk) -> str:
    attributes, registry = walk.attributes, walk.snapshot.policy.registry
    endpoint = registry.endpoint(attributes, walk.identity.resource)
    if endpoint is not None:
        walk.rpc = read_call(endpoint.protocol, attributes)
    walk.action = registry.resolve(attributes, walk.identity.resource, walk.rpc)
    return walk.action.name


def _policy(walk: _Walk) -> str:
    matrix, request = walk.snapshot.policy.matrix, walk.request
    walk.grants, walk.denials = replace(matrix, denials={}).evaluate(request)[2:]
    verdict = matrix.evaluate(request)
    walk.rule = verdict.rule
    if verdict.reason is not Reason.ALLOWED:
        raise Refusal(verdict.reason)
    return ""


def _tokens(walk: _Walk) -> str:
    walk.delegation = verify_delegation(walk.attributes, walk.identity, walk.snapshot, walk.call.now)
    walk.delegation_is_known = True
    if walk.delegation is None:
        return "no delegation chain"
    return (
        f"on behalf of {walk.delegation.on_behalf_of}, with {' '.join(sorted(walk.delegation.scopes)) or 'no scopes'}"
    )


def _access_token(walk: _Walk) -> str:
    if walk.action is None:  # then nobody knows who asks for one
        raise _NotReachedError
    if AUTHORIZATION in walk.attributes.headers:
        walk.access_token = verify_asked_access_token(
            walk.attributes, walk.grants, walk.identity, walk.snapshot, walk.call.now
        )
        check_agreement(walk.delegation, walk.access_token)
    walk.access_token_is_known = True
    if walk.access_token is None:
        return "no access token that a cell asks for"
    scopes = " ".join(sorted(walk.access_token.scopes))
    return f"on behalf of {walk.access_token.on_behalf_of}, with {scopes or 'no scopes'}"


def _constraints(walk: _Walk) -> str:
    facts = walk.facts
    if not walk.grants:
        raise _NotReachedError
    denial = denied(walk.denials, facts)
    if denial is not None:
        reason, walk.rule = denial
        raise NotAllowed(reason)
    walk.rule = walk.grants[0].rule
    grant = satisfied(walk.grants, facts)
    walk.rule, walk.choices = grant.rule, all_satisfied(walk.grants, facts) if grant.rate is not None else ()
    return ""


def _injection(walk: _Walk) -> str:
    if walk.action is None:
        raise _NotReachedError
    findings = scan_request(walk.snapshot.screen, walk.attributes, walk.action, walk.rpc)
    return _found(findings)


def _found(findings: tuple[Finding, ...]) -> str:
    if findings:
        raise Refusal(
            Reason.INJECTION_DETECTED,
            ", ".join(f"{finding.rule} in {finding.place} ({finding.score})" for finding in findings),
        )
    return "nothing found"


def _limits(walk: _Walk) -> str:
    if walk.choices is None:
        raise _NotReachedError
    found = wanted(walk.identity.subject, walk.choices, walk.snapshot.policy)
    if found is None:
        return "this call is not counted"
    walk.snapshot.limiter.check(found, walk.call.stopwatch.started_ns)
    counted = [grant.rate.cell for grant in walk.choices if grant.rate is not None]
    return "; ".join([*counted, *([f"the caller: {found.caller_rate.text}"] if found.caller_rate else [])])


def _caller(walk: _Walk) -> str:
    walk.found_outbound = OutboundCall(
        outbound_caller(walk.attributes, walk.call.peer, walk.snapshot.identifier.workloads)
    )
    return f"{walk.outbound.subject} calls out"


def _caller_quarantine(walk: _Walk) -> str:
    walk.snapshot.controls.check_caller(walk.outbound.subject, walk.call.now)
    return ""


def _host(walk: _Walk) -> str:
    walk.found_outbound = outbound_call(walk.outbound.subject, walk.attributes)
    return walk.outbound.target


def _egress(walk: _Walk) -> str:
    if not walk.outbound.host:
        raise _NotReachedError
    walk.outlet = find_outlet(walk.snapshot.policy.egress, walk.outbound, walk.attributes)
    walk.rule = walk.outlet.rule
    return ""


def _head_injection(walk: _Walk) -> str:
    if walk.outlet is None:
        raise _NotReachedError
    if not walk.outlet.is_screened:
        return "the entry says `screen: nothing`"
    return _found(scan_head(walk.snapshot.screen, walk.attributes))


# In the order of `decide`, and what looks at its decision.
_STAGES: tuple[tuple[str, Callable[[_Walk], str]], ...] = (
    ("direction", _direction),
    ("identity", _identity),
    ("quarantine", _quarantine),
    ("closed windows", _closed),
    ("peer", _peer),
    ("trust domain", _trust_domain),
    ("target", _target),
    ("timestamp", _timestamp),
    ("action", _action),
    ("policy", _policy),
    ("tokens", _tokens),
    ("access token", _access_token),
    ("constraints", _constraints),
    ("injection", _injection),
    ("limits", _limits),
)
_OUTBOUND_STAGES: tuple[tuple[str, Callable[[_Walk], str]], ...] = (
    ("direction", _direction),
    ("caller", _caller),
    ("quarantine", _caller_quarantine),
    ("closed windows", _closed),
    ("host", _host),
    ("egress", _egress),
    ("injection", _head_injection),
)


def _grant_verdicts(walk: _Walk) -> Iterator[GrantVerdict]:
    """Yield how each cell alone sees the request."""
    for grant in walk.grants if walk.has_all_tokens else ():
        try:
            satisfied((grant,), walk.facts)
        except NotAllowed as refusal:
            yield GrantVerdict(grant, refusal.reason)
        else:
            yield GrantVerdict(grant, Reason.ALLOWED)
