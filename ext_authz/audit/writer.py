"""The threads that write records, and the bounded queues in front of them.

1. `offer` never waits and never raises. When it returns False nothing was recorded, and the caller must not allow.
2. A sink that fails is tried again with the same records; meanwhile its queue fills, and then decisions are withdrawn:
   what cannot be recorded is not allowed.
3. `close` writes what is waiting, for as long as it was given, and returns how many records are lost.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from ext_authz.audit.event import Entry

# Records that may wait unless the settings say otherwise: about 1.5 kB each, a few seconds of a busy server.
MAX_WAITING = 8192
# Records in one batch: what one write or one export carries.
MAX_BATCH = 512
# Seconds that records may gather before they are written together; a wake-up for each would cost the decision's thread.
GATHER_SECONDS = 0.02
# Seconds between two tries at a sink that fails.
RETRY_SECONDS = 0.5

_LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """Where records go. `write` takes all records or raises; after an error it is called with the same ones again."""

    def write(self, records: Sequence[Entry]) -> None: ...
    def close(self) -> None: ...


class AuditWriter:
    """Writes records to sinks, each on a thread of its own: one that hangs does not hold up the others."""

    def __init__(self, sinks: Sequence[Sink], max_waiting: int = MAX_WAITING) -> None:
        self._lanes = [_Lane(sink, max_waiting) for sink in sinks]
        self._is_closing = False
        self._refused_in_a_row = 0
        self.refused = 0  # records that `offer` did not take

    @property
    def waiting(self) -> int:
        """Number of records that are not written everywhere yet."""
        return max((lane.waiting for lane in self._lanes), default=0)

    def offer(self, record: Entry) -> bool:
        """Take a record for writing. False: it was not taken."""
        if self._is_closing or any(lane.is_full for lane in self._lanes):
            self._count_refusal()
            return False
        if self._refused_in_a_row:
            _LOG.warning("%d decisions were withdrawn because they could not be recorded", self._refused_in_a_row)
            self._refused_in_a_row = 0
        for lane in self._lanes:
            lane.append(record)
        return True

    def close(self, timeout_seconds: float) -> int:
        """Write what is waiting and stop. Return the number of records that could not be written in time."""
        self._is_closing = True
        deadline = time.monotonic() + timeout_seconds
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.join(deadline - time.monotonic())
        if self.waiting:
            _LOG.error("%d audit records could not be written before the end", self.waiting)
        return self.waiting

    def _count_refusal(self) -> None:
        if not self._refused_in_a_row:
            _LOG.error("%d audit records wait to be written: decisions are withdrawn until there is room", self.waiting)
        self._refused_in_a_row += 1
        self.refused += 1


class _Lane:
    """One sink, the records that wait for it, and the thread that writes them."""

    def __init__(self, sink: Sink, max_waiting: int) -> None:
        self._sink = sink
        self._max_waiting = max_waiting
        self._records: deque[Entry] = deque()
        self._arrived = threading.Event()
        self._finishing = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._records)

    @property
    def is_full(self) -> bool:
        return len(self._records) >= self._max_waiting

    def append(self, record: Entry) -> None:
        self._records.append(record)
        if not self._arrived.is_set():
            self._arrived.set()

    def finish(self) -> None:
        self._finishing.set()
        self._arrived.set()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(max(0, timeout_seconds))

    def _run(self) -> None:
        while not (self._finishing.is_set() and not self._records):
            self._arrived.wait()
            self._arrived.clear()
            self._finishing.wait(GATHER_SECONDS)
            while self._records:
                self._write(list(islice(self._records, MAX_BATCH)))
        self._sink.close()

    def _write(self, batch: Sequence[Entry]) -> None:
        """Write a batch, however long it takes; only then does it stop waiting."""
        while not self._wrote(batch):
            time.sleep(RETRY_SECONDS)
        for _ in batch:
            self._records.popleft()

    def _wrote(self, batch: Sequence[Entry]) -> bool:
        try:
            self._sink.write(batch)
        except Exception as error:  # noqa: BLE001  rule 2: whatever fails is tried again
            if not self._is_failing:
                self._is_failing = True
                _LOG.error("audit records cannot be written to %s: %s", type(self._sink).__name__, type(error).__name__)
            return False
        if self._is_failing:
            self._is_failing = False
            _LOG.warning("audit records are written to %s again", type(self._sink).__name__)
        return True
