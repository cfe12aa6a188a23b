"""The time that a decision takes, by stage, and the time that it may take."""

from collections.abc import Callable

from ext_authz.errors import Reason, Undecided


class Stopwatch:
    """Splits the time since its start into stages and stops a decision whose caller has given up.

    The clock is an argument, so the core stays free of clocks. `deadline_ns` is on that clock; None: no deadline.
    """

    __slots__ = ("_clock", "_deadline_ns", "_last_ns", "_started_ns", "durations_ns")

    def __init__(self, clock: Callable[[], int], deadline_ns: int | None = None) -> None:
        self._clock = clock
        self._deadline_ns = deadline_ns
        self._started_ns = self._last_ns = clock()
        self.durations_ns: list[tuple[str, int]] = []

    def split(self, stage: str) -> None:
        """End `stage` now. Raises Undecided when the deadline has passed."""
        now_ns = self._clock()
        self.durations_ns.append((stage, now_ns - self._last_ns))
        self._last_ns = now_ns
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            raise Undecided(Reason.DEADLINE, f"the time for this decision ran out after stage {stage}")

    def again(self, at_most_ns: int) -> "Stopwatch":
        """Return a stopwatch that starts now, with the same deadline, or an earlier one in `at_most_ns`."""
        latest_ns = self._clock() + at_most_ns
        return Stopwatch(self._clock, latest_ns if self._deadline_ns is None else min(latest_ns, self._deadline_ns))

    @property
    def started_ns(self) -> int:
        """When the decision began, on the clock of this stopwatch."""
        return self._started_ns

    @property
    def elapsed_ns(self) -> int:
        """Nanoseconds since the start, those of a stage that did not come to its end included."""
        return self._clock() - self._started_ns
