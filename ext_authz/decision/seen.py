"""What the costly stages of one request came to, so that a second policy need not run them again."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Seen:
    """Remembers results and failures by stage, for one request. `stage` names all that the result rests on."""

    __slots__ = ("_failures", "_results")

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}
        self._failures: dict[Hashable, Exception] = {}

    def once(self, stage: Hashable, run: Callable[[], ResultT]) -> ResultT:
        """Return what `run` returned for this stage, or raise what it raised, without running it twice."""
        if stage in self._failures:
            raise self._failures[stage]
        if stage not in self._results:
            try:
                self._results[stage] = run()
            except Exception as error:
                self._failures[stage] = error
                raise
        result: ResultT = self._results[stage]
        return result
