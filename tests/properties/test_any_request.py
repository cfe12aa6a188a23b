"""Whatever reaches the authorizer: an explicit answer, one record, and no allow that the policy does not grant."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from properties.oracles import is_granted
from properties.strategies import (
    ACTIONS,
    AGENTS,
    EXAMPLES,
    METHODS,
    PATHS,
    bodies,
    caller_headers,
    changes,
    header_values,
    json_values,
    questions,
    texts,
)
from support.authorizers import KeptRecords, new_authorizer
from support.check_requests import CERTIFICATE_SHA256, QUESTION, Question, agent

from ext_authz.audit.jsonlines import to_line
from ext_authz.authorizer import Authorizer
from ext_authz.errors import Outcome, Reason
from ext_authz.pb.external_auth_pb2 import CheckRequest, CheckResponse

AUTHORIZER, RECORDER = new_authorizer()


def _check(data: bytes, authorizer: Authorizer = AUTHORIZER, recorder: KeptRecords = RECORDER) -> Reason:
    """Ask, check what must hold of every answer and record, and return the reason."""
    recorder.records.clear()
    response = CheckResponse.FromString(authorizer.check(data))
    [record] = recorder.records
    meaning = record.reason.meaning
    assert response.HasField("status")
    assert meaning.rpc_code == response.status.code
    assert (meaning.outcome is Outcome.ALLOW) is response.HasField("ok_response")
    assert (meaning.outcome is not Outcome.ALLOW) is response.HasField("denied_response")
    assert (record.decision_id, record.reason.value) == (
        response.dynamic_metadata["decision_id"],
        response.dynamic_metadata["reason"],
    )
    assert record.reason is not Reason.INTERNAL_ERROR, record.fault
    assert len(response.denied_response.body.encode()) <= 2048
    line = to_line(record)
    assert (b"\n", 1) == (line[-1:], line.count(b"\n"))
    assert record.decision_id == json.loads(line)["attributes"]["ext_authz.decision_id"]
    return record.reason


def _is_allowed(question: Question) -> bool:
    return _check(question.serialized()) is Reason.ALLOWED


def test_question_that_the_others_change() -> None:
    """The request that the others begin with is allowed, so that an allow can be lost or won."""
    assert _is_allowed(QUESTION)
    assert is_granted(QUESTION.message())


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no CheckRequest, or one by chance, are answered, recorded and denied."""
    assert _check(data) is not Reason.ALLOWED


@EXAMPLES
@given(st.data())
def test_damaged_bytes(data: st.DataObject) -> None:
    """Of a good request with bytes changed, cut or added, an allow is one that the policy grants to what is left."""
    serialized = bytearray(QUESTION.serialized())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(serialized) - 1))
        end = data.draw(st.integers(place, min(len(serialized), place + 8)))
        serialized[place:end] = data.draw(st.binary(max_size=4))
    damaged = bytes(serialized)
    if _check(damaged) is Reason.ALLOWED:
        assert is_granted(CheckRequest.FromString(damaged))


@EXAMPLES
@given(questions)
def test_any_request(question: Question) -> None:
    """An allow is one that the policy grants, whatever the request looks like."""
    if _is_allowed(question):
        assert is_granted(question.message())


@EXAMPLES
@given(questions | st.just(QUESTION), st.lists(changes, min_size=1, max_size=3))
def test_any_field(question: Question, changed: Sequence[Callable[[CheckRequest], None]]) -> None:
    """No field, whoever fills it with whatever, makes an allow that the policy does not grant."""
    message = question.message()
    for change in changed:
        change(message)
    if _check(message.SerializeToString()) is Reason.ALLOWED:
        assert is_granted(message)


# Callers that nothing is granted to: nothing that they write can help them.
STRANGERS = [
    *(QUESTION.but(caller=caller) for caller in (agent("database-agent"), agent("nobody"), "", "O=SPIRE,C=US")),
    QUESTION.but(caller="spiffe://partner.test/planner-agent"),
    QUESTION.but(caller="spiffe://agents.example.com"),
    QUESTION.but(xfcc=None),
    QUESTION.but(xfcc=f"Hash={CERTIFICATE_SHA256};URI={agent('nobody')}"),
    QUESTION.but(xfcc=f"By={agent('nobody')};Hash={CERTIFICATE_SHA256};URI={agent('planner-agent')}"),
    QUESTION.but(caller=agent("code-executor-agent"), target=agent("database-agent")),  # denied by a rule
    QUESTION.but(extensions={"direction": "egress", "workload": agent("retrieval-agent")}),
    QUESTION.but(extensions={"workload": agent("nobody")}),
]


what_callers_write = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "path": st.sampled_from(PATHS) | texts,
        "headers": caller_headers,
        "body": bodies,
        "partial": st.sampled_from(["false", "true", None]),
    }
)


@EXAMPLES
@given(st.sampled_from(STRANGERS), what_callers_write)
def test_caller_cannot_write_itself_an_allow(stranger: Question, written: dict[str, Any]) -> None:
    """A caller without a grant is denied, whatever it puts into method, path, headers and body."""
    assert not _is_allowed(stranger.but(**written))


ASSERTED = [
    "x-agent-action",
    "x-target-resource",
    "x-request-timestamp",
    "x-ai-prompt",
    "x-delegation-token",
    "authorization",
]


@EXAMPLES
@given(
    st.sampled_from(AGENTS),
    st.sampled_from(AGENTS),
    st.sampled_from([("POST", "/v1/search"), ("GET", "/v1/documents/1"), ("GET", "/records/1"), ("PUT", "/files/a")]),
    st.lists(
        st.tuples(st.sampled_from(ASSERTED), header_values | st.sampled_from(ACTIONS) | texts), min_size=1, max_size=3
    ),
)
def test_assertions_never_widen(
    caller: str, target: str, route: tuple[str, str], headers: list[tuple[str, str | bytes]]
) -> None:
    """Where a route says what a request is, headers that a caller asserts can lose it an allow and never win one."""
    plain = QUESTION.but(caller=caller, target=target, method=route[0], path=route[1])
    if _is_allowed(plain.but(headers=headers)):
        assert _is_allowed(plain)


@EXAMPLES
@given(json_values)
def test_any_json_body(value: object) -> None:
    """A JSON body is screened to an allow, a finding or a body that is too large; nothing in it fails inside."""
    reason = _check(QUESTION.but(body=json.dumps(value).encode()).serialized())
    assert reason in {Reason.ALLOWED, Reason.INJECTION_DETECTED, Reason.BODY_TOO_LARGE}
