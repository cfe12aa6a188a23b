"""The thread that writes records, and the bounded queue in front of it.

1. `offer` never waits and never raises. When it returns False nothing was recorded, and the caller must not allow.
2. A sink that fails is tried again with the same records; meanwhile the queue fills, and then decisions are refused:
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

from ext_authz.audit.record import AuditRecord

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

    def write(self, records: Sequence[AuditRecord]) -> None: ...
    def close(self) -> None: ...


class AuditWriter:
    """Writes records to sinks on a thread of its own."""

    def __init__(self, sinks: Sequence[Sink], max_waiting: int = MAX_WAITING) -> None:
        self._sinks = tuple(sinks)
        self._max_waiting = max_waiting
        self._waiting: deque[AuditRecord] = deque()
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self.refused = 0  # records that `offer` did not take
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of records that are not written yet."""
        return len(self._waiting)

    def offer(self, record: AuditRecord) -> bool:
        """Take a record for writing. False: it was not taken."""
        if len(self._waiting) >= self._max_waiting or self._closing.is_set():
            self.refused += 1
            return False
        self._waiting.append(record)
        if not self._arrived.is_set():
            self._arrived.set()
        return True

    def close(self, timeout_seconds: float) -> int:
        """Write what is waiting and stop. Return the number of records that could not be written in time."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(timeout_seconds)
        lost = len(self._waiting)
        if lost:
            _LOG.error("%d audit records could not be written before the end", lost)
        return lost

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._waiting):
            self._arrived.wait()
            self._arrived.clear()
            self._closing.wait(GATHER_SECONDS)
            while self._waiting:
                batch = list(islice(self._waiting, MAX_BATCH))
                for sink in self._sinks:
                    self._write(sink, batch)
                for _ in batch:  # only now: what waits is what is not written everywhere
                    self._waiting.popleft()
        for sink in self._sinks:
            sink.close()

    def _write(self, sink: Sink, batch: Sequence[AuditRecord]) -> None:
        while True:
            try:
                sink.write(batch)
            except Exception as error:  # noqa: BLE001  rule 2: whatever fails is tried again
                if not self._failing:
                    self._failing = True
                    _LOG.error("audit records cannot be written, decisions will be refused: %s", type(error).__name__)
                time.sleep(RETRY_SECONDS)
            else:
                if self._failing:
                    self._failing = False
                    _LOG.warning("audit records are written again")
                return
