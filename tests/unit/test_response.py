"""The answer to Envoy: explicit status, headers that no forged copy survives, denials that tell and do not leak."""

import json
import re
from typing import Any

import pytest
from support.authorizers import NOW, answer, default_snapshot, new_authorizer
from support.check_requests import QUESTION, Question, agent

from ext_authz.action.jsonrpc import MAX_ID_CHARACTERS, MAX_ID_INTEGER, Protocol, RpcCall
from ext_authz.attributes.request import parse_attributes
from ext_authz.decision.decide import Call, refuse
from ext_authz.decision.model import Decision
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import InsufficientScope, NotAllowed, Outcome, Reason
from ext_authz.pb.core_pb2 import HeaderValueOption
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.response import MAX_BODY_BYTES, emergency_response, to_check_response

# The contract with callers: a change here is a breaking one.
STATUSES = {
    "allowed": ("allow", 200, 0),
    "identity_missing": ("deny", 401, 16),
    "identity_invalid": ("deny", 401, 16),
    "identity_mismatch": ("deny", 401, 16),
    "token_missing": ("deny", 401, 16),
    "token_malformed": ("deny", 401, 16),
    "token_signature": ("deny", 401, 16),
    "token_expired": ("deny", 401, 16),
    "token_not_yet_valid": ("deny", 401, 16),
    "token_issuer": ("deny", 401, 16),
    "token_key": ("deny", 401, 16),
    "token_revoked": ("deny", 401, 16),
    "token_chain": ("deny", 403, 7),
    "token_audience": ("deny", 403, 7),
    "token_presenter": ("deny", 403, 7),
    "token_replayed": ("deny", 401, 16),
    "token_scope": ("deny", 403, 7),
    "token_forbidden": ("deny", 403, 7),
    "hops_exceeded": ("deny", 403, 7),
    "oidc_missing": ("deny", 401, 16),
    "oidc_malformed": ("deny", 401, 16),
    "oidc_signature": ("deny", 401, 16),
    "oidc_expired": ("deny", 401, 16),
    "oidc_issuer": ("deny", 401, 16),
    "oidc_audience": ("deny", 401, 16),
    "oidc_lifetime": ("deny", 401, 16),
    "oidc_binding": ("deny", 401, 16),
    "oidc_scope": ("deny", 403, 7),
    "oidc_subject": ("deny", 403, 7),
    "revoked": ("deny", 403, 7),
    "trust_domain": ("deny", 403, 7),
    "resource_mismatch": ("deny", 403, 7),
    "action_unregistered": ("deny", 403, 7),
    "action_mismatch": ("deny", 403, 7),
    "not_in_matrix": ("deny", 403, 7),
    "denied_by_rule": ("deny", 403, 7),
    "outside_window": ("deny", 403, 7),
    "condition_false": ("deny", 403, 7),
    "timestamp_stale": ("deny", 403, 7),
    "egress_denied": ("deny", 403, 7),
    "injection_detected": ("deny", 400, 3),
    "request_malformed": ("deny", 400, 3),
    "header_ambiguous": ("deny", 400, 3),
    "path_ambiguous": ("deny", 400, 3),
    "body_malformed": ("deny", 400, 3),
    "body_duplicate_key": ("deny", 400, 3),
    "body_batch": ("deny", 400, 3),
    "body_trailing": ("deny", 400, 3),
    "body_encoding": ("deny", 400, 3),
    "body_missing": ("deny", 411, 11),
    "body_partial": ("deny", 413, 11),
    "body_too_large": ("deny", 413, 11),
    "body_content_type": ("deny", 415, 11),
    "rate_exceeded": ("deny", 429, 8),
    "internal_error": ("error", 503, 14),
    "condition_error": ("error", 503, 14),
    "keys_unavailable": ("error", 503, 14),
    "audit_unavailable": ("error", 503, 14),
    "store_unavailable": ("error", 503, 14),
    "deadline": ("error", 503, 14),
}
DENIALS = [reason for reason in Reason if reason is not Reason.ALLOWED]
GRPC = QUESTION.but(without=["content-type"], headers=[("content-type", "application/grpc+proto")])


# What a denial challenges its caller with, where it is not the certificate of the connection.
CHALLENGES = {
    "oidc_missing": 'Bearer realm="ext_authz"',
    **{
        reason: f'Bearer realm="ext_authz", error="invalid_token", error_description="{Reason(reason).meaning.sentence}"'
        for reason in (
            *("oidc_malformed", "oidc_signature", "oidc_expired", "oidc_issuer"),
            *("oidc_audience", "oidc_lifetime", "oidc_binding"),
        )
    },
}


def _denied(reason: Reason, detail: str = "", question: Question = QUESTION) -> Decision:
    attributes = parse_attributes(question.serialized())
    call = Call("0" * 32, NOW, Stopwatch(lambda: 0))
    refusal = InsufficientScope(["kb:search", "hr:read"]) if reason is Reason.OIDC_SCOPE else NotAllowed(reason, detail)
    return refuse(attributes, default_snapshot(), call, refusal)


def _answer(decision: Decision) -> CheckResponse:
    return CheckResponse.FromString(to_check_response(decision))


def _headers(options: Any) -> dict[str, str]:
    names = [option.header.key for option in options]
    assert len(names) == len(set(names))
    return {option.header.key: option.header.value for option in options}


def test_statuses_are_pinned() -> None:
    """Every reason keeps its name, its outcome and its statuses."""
    meanings = {reason.value: reason.meaning for reason in Reason}
    assert STATUSES == {
        name: (meaning.outcome, meaning.http_status, meaning.rpc_code) for name, meaning in meanings.items()
    }


def test_no_denial_looks_like_success() -> None:
    """A denial has no 2xx status, and no gRPC code of 0: either would let it pass."""
    for reason in DENIALS:
        assert 400 <= reason.meaning.http_status < 600
        assert 0 != reason.meaning.rpc_code


def test_allow() -> None:
    """An allow has the explicit status 0, sets each header of ours or removes it, and nothing else."""
    response = answer(new_authorizer()[0], QUESTION.serialized())
    assert response.HasField("status")
    assert 0 == response.status.code
    decision_id = response.dynamic_metadata["decision_id"]
    expected = {
        "x-authz-decision-id": decision_id,
        "x-authz-subject": agent("planner-agent"),
        "x-authz-action": "search",
    }
    assert expected == _headers(response.ok_response.headers)
    assert ["x-authz-on-behalf-of", "x-authz-scopes", "x-authz-actors"] == list(response.ok_response.headers_to_remove)
    metadata = {"decision_id": decision_id, "reason": "allowed", "subject": agent("planner-agent"), "action": "search"}
    assert metadata == dict(response.dynamic_metadata.items())
    assert [] == list(response.ok_response.response_headers_to_add)


@pytest.mark.parametrize("reason", Reason)
def test_headers_overwrite(reason: Reason) -> None:
    """Each header says append=false for older Envoys and OVERWRITE for newer ones, or a forged copy would survive."""
    if reason is Reason.ALLOWED:
        options = answer(new_authorizer()[0], QUESTION.serialized()).ok_response.headers
    else:
        options = _answer(_denied(reason)).denied_response.headers
    assert options
    for option in options:
        assert option.HasField("append")
        assert not option.append.value
        assert HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD == option.append_action


def test_two_allows_do_not_share_anything() -> None:
    """What one answer holds does not show in the next."""
    authorizer, _ = new_authorizer()
    first, fetch = (
        answer(authorizer, question.serialized())
        for question in (QUESTION, QUESTION.but(method="GET", path="/v1/documents/1", body=b"", partial=None))
    )
    again = answer(authorizer, QUESTION.serialized())
    assert ["search", "fetch", "search"] == [str(one.dynamic_metadata["action"]) for one in (first, fetch, again)]
    assert 3 == len({str(one.dynamic_metadata["decision_id"]) for one in (first, fetch, again)})


@pytest.mark.parametrize("reason", DENIALS)
def test_denial(reason: Reason) -> None:
    """A denial is an RFC 9457 problem with reason, decision id and a sentence for people."""
    response = _answer(_denied(reason))
    outcome, http_status, rpc_code = STATUSES[reason.value]
    assert (rpc_code, http_status) == (response.status.code, response.denied_response.status.code)
    expected = {
        "type": "about:blank",
        "title": "could not decide" if outcome == "error" else "request denied",
        "status": http_status,
        "detail": reason.meaning.sentence,
        "reason": reason.value,
        "decision_id": "0" * 32,
    }
    assert expected == json.loads(response.denied_response.body)
    headers = {"content-type": "application/problem+json", "cache-control": "no-store", "x-authz-decision-id": "0" * 32}
    if http_status == 401:
        headers["www-authenticate"] = CHALLENGES.get(reason.value, 'SPIFFE realm="ext_authz"')
    if reason is Reason.OIDC_SCOPE:
        headers["www-authenticate"] = 'Bearer realm="ext_authz", error="insufficient_scope", scope="kb:search hr:read"'
    assert headers == _headers(response.denied_response.headers)
    assert {"decision_id": "0" * 32, "reason": reason.value} == dict(response.dynamic_metadata.items())


@pytest.mark.parametrize("reason", DENIALS)
def test_denial_for_grpc_clients(reason: Reason) -> None:
    """A gRPC client sees the body as the status message: one plain line."""
    denied = _answer(_denied(reason, question=GRPC)).denied_response
    assert f"{reason.value}: {reason.meaning.sentence} (decision {'0' * 32})" == denied.body
    assert "text/plain" == _headers(denied.headers)["content-type"]


@pytest.mark.parametrize("question", [QUESTION, GRPC], ids=["problem", "line"])
@pytest.mark.parametrize("character", ["x", '"', "\u00e9", "\U0001f600", "\\"])
def test_denied_body_is_bounded(question: Question, character: str) -> None:
    """However long a detail gets, the body has at most 2,048 bytes, and is still what its content type says."""
    body = _answer(_denied(Reason.NOT_IN_MATRIX, character * 5_000, question)).denied_response.body
    assert len(body.encode()) <= 2048 == MAX_BODY_BYTES
    if question is QUESTION:
        assert "not_in_matrix" == json.loads(body)["reason"]


@pytest.mark.parametrize("reason", CHALLENGES)
def test_challenge_is_quoted_text(reason: str) -> None:
    """RFC 6750 section 3: a description has printable ASCII without quotes and backslashes."""
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", Reason(reason).meaning.sentence)


@pytest.mark.parametrize("character", ["x", '"', "\u00e9", "\U0001f600", "\\"])
@pytest.mark.parametrize("request_id", ["\\" * MAX_ID_CHARACTERS, -MAX_ID_INTEGER, None])
def test_json_rpc_error_is_bounded(character: str, request_id: str | int | None) -> None:
    """With the longest detail and the longest id, a JSON-RPC error is whole, with its HTTP status as code."""
    decision = _denied(Reason.BODY_CONTENT_TYPE, character * 5_000)._replace(rpc=RpcCall(Protocol.MCP, request_id))
    body = _answer(decision).denied_response.body
    assert len(body.encode()) <= MAX_BODY_BYTES
    error = {
        "code": 415,
        "message": character * 140,
        "data": {"reason": "body_content_type", "decision_id": "0" * 32},
    }
    assert {"jsonrpc": "2.0", "id": request_id, "error": error} == json.loads(body)


def test_subject_and_action_of_a_denial() -> None:
    """Envoy's access log shows who was denied what, as far as it was known."""
    response = answer(new_authorizer()[0], QUESTION.but(caller=agent("database-agent")).serialized())
    assert agent("database-agent") == response.dynamic_metadata["subject"]
    assert "search" == response.dynamic_metadata["action"]


def test_allow_needs_subject_and_action() -> None:
    """An allow without a subject or an action cannot be written."""
    with pytest.raises(ValueError, match="names its subject"):
        to_check_response(_denied(Reason.ALLOWED))


def test_emergency_response() -> None:
    """What is answered when even answering fails is an explicit 503 that failure_mode_allow cannot open."""
    response = CheckResponse.FromString(emergency_response())
    assert (14, 503) == (response.status.code, response.denied_response.status.code)
    assert Outcome.ERROR is Reason.INTERNAL_ERROR.meaning.outcome
