"""A bounded memory for a pure function of text."""

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
