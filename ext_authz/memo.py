"""Bounded memories of what texts mean."""

from collections.abc import Callable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class Memo(Generic[ValueT]):
    """Remember what `compute` returned for recent texts.

    Two generations: when the young one is full it becomes the old one, and the old one is dropped; what is used again
    moves on. So at most twice `max_entries` are kept, nothing is ever evicted one by one, and a flood of new texts costs
    the same for each text as a miss does. Texts longer than `max_characters` and raised errors are not remembered.
    """

    __slots__ = ("_compute", "_max_characters", "_max_entries", "_old", "_young")

    def __init__(self, compute: Callable[[str], ValueT], *, max_entries: int, max_characters: int) -> None:
        self._compute = compute
        self._max_entries = max_entries
        self._max_characters = max_characters
        self._young: dict[str, ValueT] = {}
        self._old: dict[str, ValueT] = {}

    def __call__(self, text: str) -> ValueT:
        """Return `compute(text)`, remembered or fresh. Raises what `compute` raises."""
        try:
            return self._young[text]
        except KeyError:
            value = self._old[text] if text in self._old else self._compute(text)
        if len(text) <= self._max_characters:
            if len(self._young) >= self._max_entries:
                self._old, self._young = self._young, {}
            self._young[text] = value
        return value


class TextCache(Generic[ValueT]):
    """Values by text, bounded by the characters of the texts: two generations of at most `max_characters` each."""

    __slots__ = ("_max_characters", "_old", "_young", "_young_characters")

    def __init__(self, max_characters: int = 8 * 1024 * 1024) -> None:
        self._max_characters = max_characters
        self._young: dict[str, ValueT] = {}
        self._old: dict[str, ValueT] = {}
        self._young_characters = 0

    def get(self, text: str) -> ValueT | None:
        """Return what is remembered of a text that was seen lately."""
        value = self._young.get(text)
        if value is None and (value := self._old.get(text)) is not None:
            self.put(text, value)
        return value

    def put(self, text: str, value: ValueT) -> None:
        """Remember a value."""
        if self._young_characters + len(text) > self._max_characters:
            self._old, self._young, self._young_characters = self._young, {}, 0
        self._young[text] = value
        self._young_characters += len(text)
