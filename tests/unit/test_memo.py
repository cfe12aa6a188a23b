"""A bounded memory of a pure function; tests/properties says that it equals the function."""

import pytest

from ext_authz.memo import Memo


def _counted(max_entries: int = 2, max_characters: int = 3) -> tuple[Memo[str], list[str]]:
    computed: list[str] = []

    def compute(text: str) -> str:
        computed.append(text)
        if not text:
            raise ValueError("no text")
        return text.upper()

    return Memo(compute, max_entries=max_entries, max_characters=max_characters), computed


def test_recent_texts_are_not_computed_again() -> None:
    """A text is computed once while it is remembered."""
    memo, computed = _counted()
    assert ["A", "A", "B", "A"] == [memo(text) for text in ("a", "a", "b", "a")]
    assert ["a", "b"] == computed


def test_two_generations() -> None:
    """What is used moves to the younger generation; what is not is forgotten with the older one."""
    memo, computed = _counted()
    for text in ("a", "b", "c", "a", "d", "b"):  # a moves on when it is used again, b does not
        memo(text)
    assert ["a", "b", "c", "d", "b"] == computed
    assert len(memo._young) + len(memo._old) <= 4


def test_long_texts_are_not_remembered() -> None:
    """A text of exactly the limit is remembered, one character more is computed each time."""
    memo, computed = _counted()
    for text in ("abc", "abc", "abcd", "abcd"):
        memo(text)
    assert ["abc", "abcd", "abcd"] == computed


def test_errors_are_not_remembered() -> None:
    """What is raised passes through, each time anew."""
    memo, computed = _counted()
    for _ in range(2):
        with pytest.raises(ValueError, match="no text"):
            memo("")
    assert ["", ""] == computed


def test_memory_is_bounded() -> None:
    """A flood of new texts leaves at most twice the entries."""
    memo, _ = _counted(max_entries=10)
    for number in range(1000):
        memo(str(number))
    assert len(memo._young) + len(memo._old) <= 20
