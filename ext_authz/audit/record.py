"""The audit record: what may be known of a decision later, and nothing secret.

1. A record holds no token, body, certificate, query string or text that a screening rule matched.
2. It keeps no reference to the attributes: a waiting record must not hold a request's body in memory.
3. What only the caller says is named so.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from ext_authz.attributes.request import AGENT_ACTION, EGRESS, REQUEST_ID, TRACEPARENT
from ext_authz.decision.model import Decision, ShadowVerdict
from ext_authz.documents.models import ACTION_NAME_PATTERN, RPC_METHOD_PATTERN, TOOL_PATTERN
from ext_authz.errors import Outcome, Reason
from ext_authz.faults import place_of
from ext_authz.identity.identify import Identity
from ext_authz.identity.spiffe_id import MAX_ID_BYTES
from ext_authz.injection.screen import Finding
from ext_authz.policy.egress import OutboundCall
from ext_authz.policy.verdict import Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

SPAN_NAME = "a2a.policy.decision"
# Characters of a traceparent or request id: a W3C traceparent has 55, a UUID 36.
MAX_CORRELATION_CHARACTERS = 128

Value = str | bool | int | tuple[str, ...]

# The type of the alert for chains and access tokens that somebody changed, widened, spliced or stole.
TAMPERED_TOKEN = "tampered_token"  # noqa: S105
_TAMPERING = frozenset(
    {
        *(Reason.TOKEN_SIGNATURE, Reason.TOKEN_CHAIN, Reason.TOKEN_PRESENTER),
        *(Reason.OIDC_SIGNATURE, Reason.OIDC_BINDING),
    }
)
_ACTION_NAME = re.compile(ACTION_NAME_PATTERN.removeprefix("^").removesuffix("$"))
_RPC_METHOD = re.compile(RPC_METHOD_PATTERN.removeprefix("^").removesuffix("$"))
_TOOL = re.compile(TOOL_PATTERN.removeprefix("^").removesuffix("$"))


class AuditRecord(NamedTuple):
    """What is recorded of one decision."""

    decision_id: str
    decided_at: float  # seconds since 1970, our clock
    received_ns: int  # nanoseconds since 1970, Envoy's clock; 0 when it did not say
    reason: Reason
    detail: str
    identity: Identity | None
    principal: str  # who Envoy says it is; verified only together with `identity`
    destination: str
    action: str
    asserted_action: str
    method: str
    path: str
    rule: Rule | None
    delegation: Delegation | None
    access_token: AccessToken | None
    on_behalf_of: str
    scopes: frozenset[str]
    findings: tuple[Finding, ...]
    policy_digest: str
    durations_ns: tuple[tuple[str, int], ...]
    elapsed_ns: int
    fault: str
    traceparent: str
    request_id: str
    rpc_method: str = ""  # of a call to a JSON-RPC endpoint, and its tool
    tool: str = ""
    shadow: ShadowVerdict | None = None  # what the shadow policy says, where that differs
    is_outbound: bool = False  # an outbound sidecar asked
    outbound: OutboundCall | None = None  # who calls whom then, as far as it was found out

    def attributes(self) -> dict[str, Value]:
        """Return the record as span attributes; empty ones are left out.

        A record that cannot be shown whole is shown in part: one that its sink could never write would stop all others.
        """
        try:
            return {key: value for key, value in self._attributes() if value not in ("", ())}
        except Exception as error:  # noqa: BLE001
            return {
                "policy.decision": "deny",
                "security.alert": True,
                "security.alert_reason": Reason.INTERNAL_ERROR.value,
                "ext_authz.decision_id": self.decision_id,
                "ext_authz.fault": place_of(error),
            }

    def _attributes(self) -> Iterator[tuple[str, Value]]:
        outcome = self.reason.meaning.outcome
        yield from zip(("agent.caller", "agent.target"), self._parties(), strict=True)
        yield "agent.action", self.action
        yield "policy.decision", "allow" if outcome is Outcome.ALLOW else "deny"
        yield "request.path", self.path
        if self.received_ns:
            yield "request.timestamp", utc(self.received_ns / 1e9)
        if outcome is not Outcome.ALLOW:
            yield "security.alert", True
            yield "security.alert_reason", self.reason.value
        yield "ext_authz.decision_id", self.decision_id
        yield "ext_authz.outcome", outcome.value
        yield "ext_authz.reason", self.reason.value
        yield "ext_authz.detail", self.detail
        yield "ext_authz.direction", EGRESS if self.is_outbound else ""
        yield "ext_authz.caller_verified", self.identity is not None or self.outbound is not None
        yield "ext_authz.asserted_action", self.asserted_action
        yield "ext_authz.method", self.method
        yield "ext_authz.rpc_method", self.rpc_method
        yield "ext_authz.tool", self.tool
        yield "ext_authz.request_id", self.request_id
        yield "ext_authz.certificate_sha256", self.identity.certificate_sha256 if self.identity else ""
        if self.rule:
            # A grant did not decide when something after the matrix refused the call.
            name = "rule" if self.reason is Reason.ALLOWED or self.rule.denies else "grant"
            yield f"ext_authz.{name}", self.rule.where
            yield f"ext_authz.{name}_text", self.rule.text
        yield "ext_authz.on_behalf_of", self.on_behalf_of
        yield "ext_authz.scopes", tuple(sorted(self.scopes))
        if self.delegation:
            yield "ext_authz.session_id", self.delegation.session_id or ""
            yield "ext_authz.actors", tuple(actor.uri for actor in self.delegation.actors)
            yield "ext_authz.hops", self.delegation.hops
            yield "ext_authz.root_issuer", self.delegation.root_issuer.uri
            yield "ext_authz.token_ids", self.delegation.token_ids
        if self.access_token:
            yield "ext_authz.oidc_issuer", self.access_token.issuer
            yield "ext_authz.oidc_client", self.access_token.client or ""
            yield "ext_authz.oidc_token_id", self.access_token.token_id or ""
            yield "ext_authz.oidc_session_id", self.access_token.session_id or ""
            yield "ext_authz.oidc_actors", self.access_token.actors
        if self.reason in _TAMPERING:
            yield "security.alert_type", TAMPERED_TOKEN
        yield "ext_authz.findings", tuple(f"{finding.rule}@{finding.place}" for finding in self.findings)
        yield "ext_authz.policy_digest", self.policy_digest
        if self.shadow:
            yield from _shadow_attributes(self.shadow)
        yield "ext_authz.fault", self.fault
        for stage, duration_ns in self.durations_ns:
            yield f"ext_authz.duration_us.{stage}", round(duration_ns / 1000)
        yield "ext_authz.duration_us.total", round(self.elapsed_ns / 1000)

    def _parties(self) -> tuple[str, str]:
        if self.identity is not None:
            return self.identity.subject.uri, self.identity.resource.uri
        if self.outbound is not None:
            return self.outbound.subject.uri, self.outbound.target
        return self.principal, self.destination


def _shadow_attributes(shadow: ShadowVerdict) -> Iterator[tuple[str, Value]]:
    yield "ext_authz.shadow_decision", "allow" if shadow.reason.meaning.outcome is Outcome.ALLOW else "deny"
    yield "ext_authz.shadow_reason", shadow.reason.value
    yield "ext_authz.shadow_rule", shadow.rule.where if shadow.rule else ""
    yield "ext_authz.shadow_digest", shadow.policy_digest


def to_record(decision: Decision) -> AuditRecord:
    """Return the record of a decision."""
    attributes = decision.attributes
    headers = attributes.headers
    return AuditRecord(
        decision_id=decision.decision_id,
        decided_at=decision.decided_at,
        received_ns=attributes.received_ns,
        reason=decision.reason,
        detail=decision.detail,
        identity=decision.identity,
        principal=attributes.principal[:MAX_ID_BYTES],
        destination=attributes.destination[:MAX_ID_BYTES],
        action=decision.action.name if decision.action else "",
        asserted_action=_shown(headers.get(AGENT_ACTION, ""), _ACTION_NAME),
        method=attributes.method,
        path=attributes.path,
        rule=decision.rule,
        delegation=decision.delegation,
        access_token=decision.access_token,
        on_behalf_of=decision.on_behalf_of,
        scopes=decision.scopes,
        findings=decision.findings,
        policy_digest=decision.policy_digest,
        durations_ns=decision.durations_ns,
        elapsed_ns=decision.elapsed_ns,
        fault=decision.fault,
        traceparent=headers.get(TRACEPARENT, "")[:MAX_CORRELATION_CHARACTERS],
        request_id=headers.get(REQUEST_ID, "")[:MAX_CORRELATION_CHARACTERS],
        rpc_method=_shown(decision.rpc.method, _RPC_METHOD) if decision.rpc else "",
        tool=_shown(decision.rpc.tool, _TOOL) if decision.rpc else "",
        shadow=decision.shadow,
        is_outbound=attributes.is_outbound,
        outbound=decision.outbound,
    )


def utc(timestamp: float) -> str:
    """Return seconds since 1970 as RFC 3339 text with microseconds."""
    return datetime.fromtimestamp(timestamp, tz=UTC).isoformat(timespec="microseconds")


def _shown(text: str, name: re.Pattern[str]) -> str:
    """Return what the caller calls something when it looks like a name of it; other text is not repeated."""
    return text if not text or name.fullmatch(text) else "(not a name)"
