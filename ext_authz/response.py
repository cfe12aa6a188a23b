"""The decision to CheckResponse bytes: the only outbound code that sees protobuf.

1. Every response has an explicit status: an empty CheckResponse would allow.
2. Every header of ours is set or removed on allow, so that a forged one never survives a sidecar that does not strip.
3. A denial says why and what to do, never what the policy or the request holds; it has at most MAX_BODY_BYTES.
"""

import json
from collections.abc import Iterable, Iterator

from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue
from google.rpc.status_pb2 import Status

from ext_authz.action.jsonrpc import RpcCall
from ext_authz.attributes.request import CONTENT_TYPE
from ext_authz.decision.model import Decision
from ext_authz.errors import Outcome, Reason
from ext_authz.pb.core_pb2 import HeaderValue, HeaderValueOption
from ext_authz.pb.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from ext_authz.pb.http_status_pb2 import HttpStatus

# Bytes of a denial's body. The rendered Envoy configuration cuts at 4,096, which would cut JSON in the middle.
MAX_BODY_BYTES = 2048
# Characters of the detail in it: JSON writes one in up to twelve bytes, and the rest of the body takes less than 300, also
# with the longest id of a JSON-RPC request.
MAX_DETAIL_CHARACTERS = 140

DECISION_ID_HEADER = "x-authz-decision-id"
SUBJECT_HEADER = "x-authz-subject"
ACTION_HEADER = "x-authz-action"
RETRY_AFTER_HEADER = "retry-after"  # RFC 9110 section 10.2.3, in seconds
ON_BEHALF_OF_HEADER = "x-authz-on-behalf-of"
SCOPES_HEADER = "x-authz-scopes"
ACTORS_HEADER = "x-authz-actors"
# Set when a delegation chain or an access token was verified; removed otherwise.
AUTHORITY_HEADERS = (ON_BEHALF_OF_HEADER, SCOPES_HEADER, ACTORS_HEADER)
# Removed from every outbound call.
OWN_HEADERS = (DECISION_ID_HEADER, SUBJECT_HEADER, ACTION_HEADER, *AUTHORITY_HEADERS)


def to_check_response(decision: Decision) -> bytes:
    """Return the serialized CheckResponse of a decision."""
    response = _allow(decision) if decision.meaning.outcome is Outcome.ALLOW else _denial(decision)
    _set_metadata(response.dynamic_metadata, decision)
    return response.SerializeToString()


def emergency_response() -> bytes:
    """Return a denial that needs no decision, for when even answering fails."""
    meaning = Reason.INTERNAL_ERROR.meaning
    denied = DeniedHttpResponse(status=HttpStatus(code=meaning.http_status))
    return CheckResponse(status=Status(code=meaning.rpc_code), denied_response=denied).SerializeToString()


# Both answers are copies of a template that is filled in: building fifteen small messages anew takes three times as long.


def _allow(decision: Decision) -> CheckResponse:
    if decision.outbound is not None:
        response = CheckResponse()
        response.CopyFrom(_OUTBOUND_TEMPLATE)
        return response
    if decision.identity is None or decision.action is None:
        raise ValueError("an allow names its subject and its action")
    response = CheckResponse()
    response.CopyFrom(_ALLOW_TEMPLATE)
    decision_id, subject, action = response.ok_response.headers
    decision_id.header.value = decision.decision_id
    subject.header.value = decision.identity.subject.uri
    action.header.value = decision.action.name
    if decision.delegation is None and decision.access_token is None:
        response.ok_response.headers_to_remove.extend(AUTHORITY_HEADERS)
    else:
        response.ok_response.headers.extend(_authority_headers(decision))
        if decision.delegation is None:
            response.ok_response.headers_to_remove.append(ACTORS_HEADER)
    return response


def _authority_headers(decision: Decision) -> Iterator[HeaderValueOption]:
    """Tell the agent for whom it acts, with which scopes, and who acted before in a chain, as lists with spaces."""
    yield _option(ON_BEHALF_OF_HEADER, decision.on_behalf_of)
    yield _option(SCOPES_HEADER, " ".join(sorted(decision.scopes)))
    if decision.delegation is not None:
        yield _option(ACTORS_HEADER, " ".join(actor.uri for actor in decision.delegation.actors))


def _denial(decision: Decision) -> CheckResponse:
    media_type, body = _denied_body(decision)
    meaning = decision.meaning
    response = CheckResponse()
    response.CopyFrom(_DENIAL_TEMPLATE)
    response.status.code = meaning.rpc_code
    denied = response.denied_response
    denied.status.code = meaning.http_status
    decision_id, content_type, _ = denied.headers
    decision_id.header.value = decision.decision_id
    content_type.header.value = media_type
    if decision.reason is Reason.OIDC_SCOPE:
        denied.headers.append(_insufficient_scope(decision.needed_scopes))
    elif meaning.http_status == 401:
        denied.headers.append(_CHALLENGES.get(decision.reason, _CHALLENGE))
    if decision.retry_after_seconds:
        denied.headers.append(_option(RETRY_AFTER_HEADER, str(decision.retry_after_seconds)))
    denied.body = body[:MAX_BODY_BYTES]
    return response


def _insufficient_scope(scopes: Iterable[str]) -> HeaderValueOption:
    """RFC 6750 section 3.1: what the token should have had. Scopes of ours hold nothing that ends a quoted text."""
    return _option(_CHALLENGE_HEADER, f'{_BEARER}, error="insufficient_scope", scope="{" ".join(scopes)}"')


def _denied_body(decision: Decision) -> tuple[str, str]:
    """Return media type and text of a denial, in the form that the caller's client reads."""
    if decision.rpc is not None:
        return "application/json", _rpc_error(decision, decision.rpc)
    if decision.attributes.headers.get(CONTENT_TYPE, "").startswith("application/grpc"):
        return "text/plain", _line(decision)
    return "application/problem+json", _problem(decision)


def _problem(decision: Decision) -> str:
    """Return an RFC 9457 problem."""
    problem = {
        "type": "about:blank",
        "title": "could not decide" if decision.meaning.outcome is Outcome.ERROR else "request denied",
        "status": decision.meaning.http_status,
        "detail": decision.detail[:MAX_DETAIL_CHARACTERS],
        "reason": decision.reason,
        "decision_id": decision.decision_id,
    }
    return json.dumps(problem)


def _rpc_error(decision: Decision, rpc: RpcCall) -> str:
    """Return a JSON-RPC 2.0 error (section 5.1).

    The code is the HTTP status: an application's own, outside of those that JSON-RPC, MCP and A2A give a meaning.
    """
    data = {"reason": decision.reason, "decision_id": decision.decision_id}
    error = {"code": decision.meaning.http_status, "message": decision.detail[:MAX_DETAIL_CHARACTERS], "data": data}
    return json.dumps({"jsonrpc": "2.0", "id": rpc.id, "error": error})


def _line(decision: Decision) -> str:
    """Return one plain line: gRPC clients see it as the status message."""
    return f"{decision.reason}: {decision.detail[:MAX_DETAIL_CHARACTERS]} (decision {decision.decision_id})"


def _option(key: str, value: str = "") -> HeaderValueOption:
    """Say both what older and what newer Envoys read, or a client's own copy of the header stays."""
    return HeaderValueOption(
        header=HeaderValue(key=key, value=value),
        append=BoolValue(value=False),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _set_metadata(metadata: Struct, decision: Decision) -> None:
    """Set what Envoy's access log shows of the decision."""
    fields = metadata.fields
    fields["decision_id"].string_value = decision.decision_id
    fields["reason"].string_value = decision.reason.value
    if decision.identity is not None:
        fields["subject"].string_value = decision.identity.subject.uri
    elif decision.outbound is not None:
        fields["subject"].string_value = decision.outbound.subject.uri
    if decision.action is not None:
        fields["action"].string_value = decision.action.name


_ALLOW_TEMPLATE = CheckResponse(
    status=Status(code=Reason.ALLOWED.meaning.rpc_code),
    ok_response=OkHttpResponse(headers=[_option(DECISION_ID_HEADER), _option(SUBJECT_HEADER), _option(ACTION_HEADER)]),
)
# Nothing about who calls leaves with an outbound call: whoever is called may be anybody.
_OUTBOUND_TEMPLATE = CheckResponse(
    status=Status(code=Reason.ALLOWED.meaning.rpc_code),
    ok_response=OkHttpResponse(headers_to_remove=OWN_HEADERS),
)
_DENIAL_TEMPLATE = CheckResponse(
    denied_response=DeniedHttpResponse(
        headers=[_option(DECISION_ID_HEADER), _option("content-type"), _option("cache-control", "no-store")]
    )
)
# RFC 9110 section 11.6.1 wants a challenge; ours is the connection's certificate, for which no scheme is registered.
_CHALLENGE_HEADER = "www-authenticate"
_CHALLENGE = _option(_CHALLENGE_HEADER, 'SPIFFE realm="ext_authz"')
# RFC 6750 section 3: no error where nothing was shown.
_BEARER = 'Bearer realm="ext_authz"'
_CHALLENGES = {Reason.OIDC_MISSING: _option(_CHALLENGE_HEADER, _BEARER)} | {
    reason: _option(
        _CHALLENGE_HEADER, f'{_BEARER}, error="invalid_token", error_description="{reason.meaning.sentence}"'
    )
    for reason in (
        *(Reason.OIDC_MALFORMED, Reason.OIDC_SIGNATURE, Reason.OIDC_EXPIRED, Reason.OIDC_ISSUER),
        *(Reason.OIDC_AUDIENCE, Reason.OIDC_LIFETIME, Reason.OIDC_BINDING),
    )
}
