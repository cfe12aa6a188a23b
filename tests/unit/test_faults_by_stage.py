"""Whatever fails on the way of a decision denies, says so, and is recorded: never an allow, never an exception."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.authorizers import NOW, KeptRecords, default_snapshot, reason_of
from support.check_requests import QUESTION

from ext_authz import authorizer as authorizer_module
from ext_authz.audit.jsonlines import to_line
from ext_authz.authorizer import Authorizer
from ext_authz.decision.decide import Snapshot
from ext_authz.decision.model import Decision
from ext_authz.errors import Reason, Refusal, Undecided
from ext_authz.pb.external_auth_pb2 import CheckResponse

CANARY = "c4n4ry"
REQUEST = QUESTION.serialized()
WITH_PROMPT = QUESTION.but(headers=[("x-ai-prompt", "hello")]).serialized()


class Broken(Exception):
    """Nothing that the package knows."""


class Stub:
    """Does the same thing for every method of a stage."""

    def __init__(self, behaviour: Callable[..., Any]) -> None:
        self.identify = self.resolve = self.evaluate = self.scan = behaviour

    def endpoint(self, *_: object) -> None:
        return None

    def knows_clean(self, _texts: object) -> bool:
        return False


def _raise(*_: object, **__: object) -> None:
    raise Broken(CANARY)


def _exhausted(*_: object, **__: object) -> None:
    raise MemoryError(CANARY)


def _deep(*_: object, **__: object) -> None:
    raise RecursionError(CANARY)


def _returning(value: object) -> Callable[..., object]:
    return lambda *_, **__: value


def _with_identifier(stub: Any) -> Snapshot:
    return replace(default_snapshot(), identifier=stub)


def _with_registry(stub: Any) -> Snapshot:
    return replace(default_snapshot(), policy=replace(default_snapshot().policy, registry=stub))


def _with_matrix(stub: Any) -> Snapshot:
    return replace(default_snapshot(), policy=replace(default_snapshot().policy, matrix=stub))


def _with_screen(stub: Any) -> Snapshot:
    return replace(default_snapshot(), screen=stub)


STAGES = {
    "identity": _with_identifier,
    "action": _with_registry,
    "policy": _with_matrix,
    "injection": _with_screen,
}
RAISING = {"an error of its own": _raise, "no memory": _exhausted, "no stack": _deep}
VALUES: tuple[object, ...] = (None, True, 1, CANARY, b"", {}, [])
GARBAGE = {repr(value): _returning(value) for value in VALUES}
BEHAVIOURS = RAISING | GARBAGE


def _authorizer(snapshot: Snapshot | None = None, **settings: Any) -> tuple[Authorizer, KeptRecords]:
    recorder = KeptRecords()
    return Authorizer(snapshot or default_snapshot(), recorder, clock=lambda: NOW, **settings), recorder


def _check_failure(answer: bytes, recorder: KeptRecords, reason: Reason = Reason.INTERNAL_ERROR) -> None:
    """Check that an answer is a 503, and that the one record says why, without a value, in a form that can be written."""
    response = CheckResponse.FromString(answer)
    assert (14, 503) == (response.status.code, response.denied_response.status.code)
    [record] = recorder.records
    assert reason is record.reason
    assert (reason is Reason.INTERNAL_ERROR) is bool(record.fault)
    for text in (repr(record), to_line(record).decode(), str(response)):
        assert CANARY not in text


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("stage", STAGES)
def test_stage_that_fails(stage: str, behaviour: str, caplog: pytest.LogCaptureFixture) -> None:
    """A stage that raises or returns what is none of its results ends in internal_error, with a place and no values."""
    authorizer, recorder = _authorizer(STAGES[stage](Stub(BEHAVIOURS[behaviour])))
    _check_failure(authorizer.check(WITH_PROMPT), recorder)
    assert "failed inside: " in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("behaviour", RAISING)
def test_attributes_that_fail(behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while reading the request is recorded with what could be salvaged."""
    monkeypatch.setattr(authorizer_module, "parse_attributes", RAISING[behaviour])
    authorizer, recorder = _authorizer()
    _check_failure(authorizer.check(REQUEST), recorder)
    assert "/v1/search" == recorder.records[0].path


@pytest.mark.parametrize("behaviour", GARBAGE)
def test_attributes_that_are_garbage(behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that are none are an emergency: no allow, no exception."""
    monkeypatch.setattr(authorizer_module, "parse_attributes", GARBAGE[behaviour])
    authorizer, _ = _authorizer()
    response = CheckResponse.FromString(authorizer.check(REQUEST))
    assert (14, 503) == (response.status.code, response.denied_response.status.code)


@pytest.mark.parametrize("behaviour", RAISING)
@pytest.mark.parametrize("request_bytes", [REQUEST, b"\xff"], ids=["would-be allow", "denial"])
def test_response_that_fails(behaviour: str, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """When even the answer cannot be made, the emergency answer denies, and the record says what happened."""
    monkeypatch.setattr(authorizer_module, "to_check_response", RAISING[behaviour])
    authorizer, recorder = _authorizer()
    _check_failure(authorizer.check(request_bytes), recorder)


@pytest.mark.parametrize("behaviour", RAISING)
@pytest.mark.parametrize("request_bytes", [REQUEST, b"\xff"], ids=["would-be allow", "denial"])
def test_record_that_fails(behaviour: str, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision whose record cannot be made is withdrawn."""
    monkeypatch.setattr(authorizer_module, "to_record", RAISING[behaviour])
    authorizer, recorder = _authorizer()
    response = CheckResponse.FromString(authorizer.check(request_bytes))
    assert (503, "audit_unavailable") == (response.denied_response.status.code, reason_of(response))
    assert [] == recorder.records


class _BrokenRecorder:
    def __init__(self, behaviour: Callable[..., Any]) -> None:
        self.offer = behaviour


@pytest.mark.parametrize("behaviour", [*RAISING.values(), _returning(False), _returning(None)])  # noqa: FBT003
@pytest.mark.parametrize("request_bytes", [REQUEST, b"\xff"], ids=["would-be allow", "denial"])
def test_recorder_that_fails(
    behaviour: Callable[..., Any], request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A decision that nobody keeps is withdrawn."""
    authorizer = Authorizer(default_snapshot(), _BrokenRecorder(behaviour), clock=lambda: NOW)
    response = CheckResponse.FromString(authorizer.check(request_bytes))
    assert (14, 503, "audit_unavailable") == (
        response.status.code,
        response.denied_response.status.code,
        reason_of(response),
    )
    assert CANARY not in caplog.text


def test_recorder_and_response_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """When neither record nor answer can be made, the emergency answer denies."""
    monkeypatch.setattr(authorizer_module, "to_check_response", _raise)
    authorizer = Authorizer(default_snapshot(), KeptRecords(refusing=True), clock=lambda: NOW)
    response = CheckResponse.FromString(authorizer.check(REQUEST))
    assert (14, 503) == (response.status.code, response.denied_response.status.code)


@pytest.mark.parametrize("remaining_seconds", [None, float("inf"), float("nan"), 1e300])
async def test_clock_or_snapshot_that_fails(remaining_seconds: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """Where no decision can be made at all the emergency answer denies."""
    broken = Authorizer(default_snapshot(), KeptRecords(), clock=_raise)  # type: ignore[arg-type]
    without = Authorizer(None, KeptRecords(), clock=lambda: NOW)  # type: ignore[arg-type]
    for authorizer in (broken, without):
        for data in (REQUEST, b"\xff"):
            answers = (
                authorizer.check(data, remaining_seconds),
                await authorizer.check_with_effects(data, remaining_seconds),
            )
            for answer in answers:
                response = CheckResponse.FromString(answer)
                assert (14, 503) == (response.status.code, response.denied_response.status.code)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("remaining_seconds", [0.0, -1.0, 1e-9])
@pytest.mark.parametrize(
    "request_bytes", [REQUEST, QUESTION.but(caller="").serialized()], ids=["would-be allow", "denial"]
)
async def test_deadline_that_has_passed(remaining_seconds: float, request_bytes: bytes) -> None:
    """What cannot be decided in time is a recorded 503, and no later stage runs."""
    for with_effects in (False, True):
        authorizer, recorder = _authorizer(_with_identifier(Stub(_raise)), effects=(_effect(_raise),))
        if with_effects:
            answer = await authorizer.check_with_effects(request_bytes, remaining_seconds)
        else:
            answer = authorizer.check(request_bytes, remaining_seconds)
        _check_failure(answer, recorder, Reason.DEADLINE)
        assert "deadline" == reason_of(CheckResponse.FromString(answer))


def _effect(behaviour: Callable[..., Any]) -> Callable[[Decision], Awaitable[None]]:
    async def effect(decision: Decision) -> None:
        behaviour(decision)

    return effect


async def _hang(_decision: Decision) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("behaviour", RAISING)
async def test_effect_that_fails(behaviour: str, caplog: pytest.LogCaptureFixture) -> None:
    """An effect that raises withdraws the allow before it is answered and recorded."""
    authorizer, recorder = _authorizer(effects=(_effect(RAISING[behaviour]),))
    _check_failure(await authorizer.check_with_effects(REQUEST, 5.0), recorder)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("remaining_seconds", [None, 0.05])
async def test_effect_that_hangs(remaining_seconds: float | None) -> None:
    """An effect gets as long as the caller waits, or Envoy's default; then the decision is `deadline`."""
    authorizer, recorder = _authorizer(effects=(_hang,))
    async with asyncio.timeout(5):
        answer = await authorizer.check_with_effects(REQUEST, remaining_seconds)
    _check_failure(answer, recorder, Reason.DEADLINE)


@pytest.mark.parametrize(
    ("http_status", "error"),
    [
        (403, Refusal(Reason.DENIED_BY_RULE)),
        (503, Undecided(Reason.KEYS_UNAVAILABLE, "no keys")),
        (503, TimeoutError(CANARY)),
    ],
)
async def test_effect_that_refuses(http_status: int, error: Exception) -> None:
    """An effect that refuses gives its own reason, and the record says the same."""

    def refuse(_decision: Decision) -> None:
        raise error

    authorizer, recorder = _authorizer(effects=(_effect(refuse),))
    response = CheckResponse.FromString(await authorizer.check_with_effects(REQUEST, 5.0))
    [record] = recorder.records
    assert http_status == response.denied_response.status.code
    assert getattr(error, "reason", Reason.DEADLINE) == record.reason == reason_of(response)
    assert CANARY not in repr(record) + str(response)


async def test_effects_run_once_and_in_order() -> None:
    """Effects run for a would-be allow, one after the other, until one refuses; a denial has none."""
    ran: list[str] = []

    def refuse(_decision: Decision) -> None:
        ran.append("b")
        raise Refusal(Reason.DENIED_BY_RULE)

    effects = (_effect(lambda _: ran.append("a")), _effect(refuse), _effect(lambda _: ran.append("c")))
    authorizer, _ = _authorizer(effects=effects)
    await authorizer.check_with_effects(QUESTION.but(caller="").serialized(), 5.0)
    assert [] == ran
    await authorizer.check_with_effects(REQUEST, 5.0)
    assert ["a", "b"] == ran


async def test_effects_that_pass() -> None:
    """When every effect passes the allow stands, and is answered and recorded once."""
    authorizer, recorder = _authorizer(effects=(_effect(lambda _: None),) * 2)
    response = CheckResponse.FromString(await authorizer.check_with_effects(REQUEST, 5.0))
    assert ["allowed", "allowed"] == [reason_of(response), *(record.reason for record in recorder.records)]


async def test_cancelled_call_is_recorded() -> None:
    """A caller that gives up while an effect runs leaves a record that is no allow."""
    authorizer, recorder = _authorizer(effects=(_hang,))
    task = asyncio.create_task(authorizer.check_with_effects(REQUEST, 5.0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [record] = recorder.records
    assert (Reason.DEADLINE, "the caller gave up") == (record.reason, record.detail)


async def test_effects_and_recorder_that_fails() -> None:
    """An allow that passed its effects and cannot be recorded is withdrawn all the same."""
    authorizer = Authorizer(default_snapshot(), KeptRecords(refusing=True), effects=(_effect(lambda _: None),))
    response = CheckResponse.FromString(await authorizer.check_with_effects(REQUEST, 5.0))
    assert "audit_unavailable" == reason_of(response)


def test_fault_is_logged_with_the_decision(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which decision failed, and where."""
    authorizer, recorder = _authorizer(_with_screen(None))
    with caplog.at_level(logging.ERROR):
        authorizer.check(WITH_PROMPT)
    [record] = recorder.records
    assert f"decision {record.decision_id} failed inside: {record.fault}" in caplog.text
    assert record.fault.startswith("AttributeError at decision/screening.py:")
