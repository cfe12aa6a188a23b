"""Follow the control store: a change is in force within a second, a store that cannot be read keeps what was in force."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from ext_authz.errors import ConfigurationError
from ext_authz.stores.control import ControlStore
from ext_authz.stores.snapshot import ControlSnapshot

# Seconds between two looks at the store.
LOOK_SECONDS = 0.25
# Seconds between two removals of what has ended.
PURGE_SECONDS = 60.0

_LOG = logging.getLogger(__name__)


class ControlWatcher:
    """Looks at the store again and again, and publishes each change.

    `snapshot` is what was read at start. `publish` is called on the event loop. The store is used by this watcher alone.
    """

    def __init__(
        self,
        store: ControlStore,
        snapshot: ControlSnapshot,
        publish: Callable[[ControlSnapshot], None],
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = snapshot  # its `read_at` moves on with every look that succeeds
        self._store = store
        self._publish = publish
        self._clock = clock
        self._timer = timer
        self._confirmed_at = self._purged_at = timer()
        self._failing = False

    @property
    def age_seconds(self) -> float:
        """Seconds since `current` was last known to be what the store says; no clock that is set changes it."""
        return self._timer() - self._confirmed_at

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Look once. Return False when the store cannot be read and what was in force stays."""
        began_at, now = self._timer(), self._clock()
        try:
            changed = await asyncio.to_thread(self._read, now, began_at)
            if changed is not None:
                self._publish(changed)
        except Exception as error:  # noqa: BLE001  whatever is wrong with the store, serving goes on
            self._failed(error)
            return False
        self.current = changed or replace(self.current, read_at=now)
        self._confirmed_at = began_at
        self._succeeded(changed)
        return True

    def _read(self, now: float, began_at: float) -> ControlSnapshot | None:
        """Return what the store says, None when it says what it said. Runs in a thread."""
        if began_at - self._purged_at >= PURGE_SECONDS:
            self._purged_at = began_at  # also when it fails: reading must go on
            self._store.purge(now)
        return None if self._store.version() == self.current.version else self._store.snapshot(now)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            # The text of another error may hold anything.
            sentence = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
            _LOG.error("control store failed, what was in force stays: %s", sentence)

    def _succeeded(self, changed: ControlSnapshot | None) -> None:
        if self._failing:
            self._failing = False
            _LOG.info("control store works again")
        if changed is not None:
            _LOG.info("control store changed: %d in quarantine", len(changed.quarantined))
