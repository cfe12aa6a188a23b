"""The runner of the vectors fails where it should: a runner that cannot fail proves nothing."""

from pathlib import Path
from typing import Any

import pytest
from vectors.envoys import Seen, judge_answer
from vectors.runner import Vector, expected_result, judge

DENIED = Seen(403, b"x" * 8, None, {"denied": 1}, was_asked=True)
ALLOWED = Seen(200, b"", {"x-a": "b"}, {"ok": 1}, was_asked=True)


def _vector(**content: Any) -> Vector:
    return Vector(Path("here.json"), {}, content)


@pytest.mark.parametrize(
    ("expectation", "seen", "problems", "not_compared"),
    [
        ("DENY 403", DENIED, 0, 0),
        ("DENY", DENIED, 0, 0),
        ("DENY 403, body truncated to 8, stat denied", DENIED, 0, 0),
        ("LOCAL REPLY 403", DENIED, 0, 0),
        ("ALLOW, upstream sees x-a: b, upstream lacks x-b", ALLOWED, 0, 0),
        ("ALLOW", DENIED, 1, 0),
        ("DENY 403", ALLOWED, 2, 0),
        ("DENY 401", DENIED, 1, 0),
        ("ERROR 403", DENIED, 1, 0),
        ("DENY 403, body truncated to 9, stat error", DENIED, 2, 0),
        ("ALLOW, upstream sees x-a: c, upstream lacks x-a, no check call", ALLOWED, 3, 0),
        ("DENY 403 (default)", DENIED, 0, 1),
        ("ALLOW, with a song", ALLOWED, 0, 1),
    ],
)
def test_expectations_on_envoy(expectation: str, seen: Seen, problems: int, not_compared: int) -> None:
    """Every part of an expectation is compared, or named as not compared."""
    judgement = judge_answer(expectation, seen)
    assert (problems, not_compared) == (len(judgement.problems), len(judgement.not_compared))


def test_expectation_without_verdict_is_an_error() -> None:
    """A word that is no verdict is not taken for one."""
    with pytest.raises(ValueError, match="cannot read"):
        judge_answer("ALLOWED", ALLOWED)


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "token"},
        {"kind": "spiffe_id"},
        {"kind": "check_request", "config": {"leeway": 5}, "attributes": {}},
        {"kind": "check_request", "attributes": {"sauce": {}}},
    ],
    ids=str,
)
def test_what_the_runner_does_not_understand_is_an_error(content: dict[str, Any]) -> None:
    """An unknown kind, a missing input, an unknown setting and an unknown field are never a verdict."""
    with pytest.raises(KeyError):
        judge(_vector(**content))


def test_unknown_expectations_are_errors() -> None:
    """What a vector expects and the runner cannot compare is not skipped."""
    with pytest.raises(KeyError, match="colour"):
        expected_result(_vector(expect={"ok": True, "colour": "red"}))
    assert {"path": "/x"} == expected_result(_vector(expect={"ok": True, "result": {"path": "/x"}}))
