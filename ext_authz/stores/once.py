"""One-time tokens, consumed without holding up the event loop."""

import asyncio
from pathlib import Path
from typing import NamedTuple, Self

from ext_authz.stores.control import ControlStore, OneTimeUse

# Seconds to wait for another process that writes; what uses this has 0.2 s in all.
BUSY_SECONDS = 0.1


class _Waiting(NamedTuple):
    use: OneTimeUse
    answer: asyncio.Future[bool]


class OnceRegister:
    """Consumes one-time tokens on a connection of its own.

    All that wait at one time share one transaction, and so one write to the disk, which takes milliseconds.
    """

    def __init__(self, store: ControlStore) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a control store that exists. Raises StoreError."""
        return cls(ControlStore.open(path, busy_seconds=BUSY_SECONDS))

    async def consume_once(self, root_token_id: str, leaf_token_id: str, keep_until: float) -> bool:
        """Mark a chain as used until it expires, seconds since 1970; False when it was used before, by any process.

        Raises StoreError when that cannot be known, EntryError for an id that no token has. Who is cancelled meanwhile
        may find the chain used.
        """
        use = OneTimeUse(root_token_id, leaf_token_id, keep_until)
        use.check()  # here, so that it fails alone and not with all that share its transaction
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(use, answer))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await answer

    async def close(self) -> None:
        """Finish what was begun and let go of the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.to_thread(self._store.close)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [each for each in self._waiting if not each.answer.done()]  # nobody waits for the others
                self._waiting = []
                await self._consume(batch)
        finally:
            self._writer = None

    async def _consume(self, batch: list[_Waiting]) -> None:
        try:
            answers = await asyncio.to_thread(self._store.consume, [each.use for each in batch])
        except Exception as error:  # noqa: BLE001  every one that waits must hear of it
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, first_time in zip(batch, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(first_time)
