"""The decision to CheckResponse bytes: the only outbound code that sees protobuf.

1. Every response has an explicit status: an empty CheckResponse would allow.
2. Every header of ours is set or removed on allow, so that a forged one never survives a sidecar that does not strip.
3. A denial says why and what to do, never what the policy or the request holds; it has at most MAX_BODY_BYTES.
"""

import json
from collections.abc import Iterable

from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue
from google.rpc.status_pb2 import Status

from ext_authz.attributes.request import CONTENT_TYPE
from ext_authz.decision.model import Decision
from ext_authz.errors import Outcome, Reason
from ext_authz.pb.core_pb2 import HeaderValue, HeaderValueOption
from ext_authz.pb.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from ext_authz.pb.http_status_pb2 import HttpStatus

# Bytes of a denial's body. The rendered Envoy configuration cuts at 4,096, which would cut JSON in the middle.
MAX_BODY_BYTES = 2048

DECISION_ID_HEADER = "x-authz-decision-id"
SUBJECT_HEADER = "x-authz-subject"
ACTION_HEADER = "x-authz-action"
# Set when a delegation chain was verified; removed otherwise.
DELEGATION_HEADERS = ("x-authz-on-behalf-of", "x-authz-scopes", "x-authz-actors")

_NO_APPEND = BoolValue(value=False)
_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def to_check_response(decision: Decision) -> bytes:
    """Return the serialized CheckResponse of a decision."""
    meaning = decision.meaning
    response = CheckResponse(status=Status(code=meaning.rpc_code), dynamic_metadata=_metadata(decision))
    if meaning.outcome is Outcome.ALLOW:
        response.ok_response.CopyFrom(_allow(decision))
    else:
        response.denied_response.CopyFrom(_denial(decision))
    return response.SerializeToString()


def emergency_response() -> bytes:
    """Return a denial that needs no decision, for when even answering fails."""
    meaning = Reason.INTERNAL_ERROR.meaning
    denied = DeniedHttpResponse(status=HttpStatus(code=meaning.http_status))
    return CheckResponse(status=Status(code=meaning.rpc_code), denied_response=denied).SerializeToString()


def _allow(decision: Decision) -> OkHttpResponse:
    if decision.identity is None or decision.action is None:
        raise ValueError("an allow names its subject and its action")
    headers = (
        (DECISION_ID_HEADER, decision.decision_id),
        (SUBJECT_HEADER, decision.identity.subject.uri),
        (ACTION_HEADER, decision.action.name),
    )
    return OkHttpResponse(headers=_options(headers), headers_to_remove=DELEGATION_HEADERS)


def _denial(decision: Decision) -> DeniedHttpResponse:
    is_grpc = decision.attributes.headers.get(CONTENT_TYPE, "").startswith("application/grpc")
    body = _line(decision) if is_grpc else _problem(decision)
    headers = [
        ("content-type", "text/plain" if is_grpc else "application/problem+json"),
        ("cache-control", "no-store"),
        (DECISION_ID_HEADER, decision.decision_id),
    ]
    if decision.meaning.http_status == 401:
        # RFC 9110 section 11.6.1 wants a challenge; ours is the connection's certificate, for which no scheme exists.
        headers.append(("www-authenticate", 'SPIFFE realm="ext_authz"'))
    return DeniedHttpResponse(
        status=HttpStatus(code=decision.meaning.http_status), headers=_options(headers), body=body[:MAX_BODY_BYTES]
    )


def _problem(decision: Decision) -> str:
    """Return an RFC 9457 problem."""
    problem = {
        "type": "about:blank",
        "title": "could not decide" if decision.meaning.outcome is Outcome.ERROR else "request denied",
        "status": decision.meaning.http_status,
        "detail": decision.detail,
        "reason": decision.reason,
        "decision_id": decision.decision_id,
    }
    return json.dumps(problem)


def _line(decision: Decision) -> str:
    """Return one plain line: gRPC clients see it as the status message."""
    return f"{decision.reason}: {decision.detail} (decision {decision.decision_id})"


def _options(headers: Iterable[tuple[str, str]]) -> list[HeaderValueOption]:
    """Say both what older and what newer Envoys read, or a client's own copy of the header stays."""
    return [
        HeaderValueOption(header=HeaderValue(key=key, value=value), append=_NO_APPEND, append_action=_OVERWRITE)
        for key, value in headers
    ]


def _metadata(decision: Decision) -> Struct:
    """Return what Envoy's access log shows of the decision."""
    fields = {"decision_id": decision.decision_id, "reason": decision.reason.value}
    if decision.identity is not None:
        fields["subject"] = decision.identity.subject.uri
    if decision.action is not None:
        fields["action"] = decision.action.name
    metadata = Struct()
    metadata.update(fields)
    return metadata
