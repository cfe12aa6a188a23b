"""Who watches decisions: told of each that does not allow, and without a say in it."""

import logging

import pytest
from support.authorizers import answer, new_authorizer, reason_of
from support.check_requests import QUESTION

from ext_authz.decision.model import Decision

ALLOWED, DENIED = (
    QUESTION.but(**changes).message().SerializeToString() for changes in ({}, {"path": "/nobody/registered/this"})
)


def test_observers_see_what_does_not_allow() -> None:
    """A denial is shown to each observer, an allow to none."""
    seen: list[str] = []

    def observe(decision: Decision) -> None:
        seen.append(decision.reason)

    authorizer, _ = new_authorizer()
    authorizer.observers = (observe, observe)
    assert ["allowed", "action_unregistered"] == [reason_of(answer(authorizer, data)) for data in (ALLOWED, DENIED)]
    assert ["action_unregistered"] * 2 == seen


async def test_observers_see_what_is_decided_with_effects() -> None:
    """So it is where effects are awaited."""
    seen: list[str] = []

    def observe(decision: Decision) -> None:
        seen.append(decision.reason)

    authorizer, _ = new_authorizer()
    authorizer.observers = (observe,)
    await authorizer.check_with_effects(DENIED)
    assert ["action_unregistered"] == seen


def test_observer_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The answer, the record and the other observers are not touched; the log names type and place, not the text."""
    caplog.set_level(logging.ERROR)
    seen: list[str] = []

    def fail(_: Decision) -> None:
        raise RuntimeError("secret")

    def observe(decision: Decision) -> None:
        seen.append(decision.reason)

    authorizer, recorder = new_authorizer()
    authorizer.observers = (fail, observe)
    assert "action_unregistered" == reason_of(answer(authorizer, DENIED))
    assert (["action_unregistered"], 1) == (seen, len(recorder.records))
    [message] = caplog.messages
    assert "could not be observed: RuntimeError" in message
    assert "secret" not in message
