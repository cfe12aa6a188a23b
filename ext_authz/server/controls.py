"""The control store in a running server: changes in force within a second, one-time chains consumed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from ext_authz.authorizer import Authorizer, Effect
from ext_authz.decision.controls import Controls
from ext_authz.decision.model import Decision
from ext_authz.errors import Reason, Refusal, Undecided
from ext_authz.server.control import LOOK_SECONDS, ControlWatcher
from ext_authz.stores.control import ControlStore
from ext_authz.stores.database import StoreError
from ext_authz.stores.once import OnceRegister
from ext_authz.stores.snapshot import ControlSnapshot

# Looks at the store at once and puts into force what it says; False when it cannot be read.
Look = Callable[[], Awaitable[bool]]

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def following_store(path: Path | None, max_age_seconds: float, authorizer: Authorizer) -> AsyncIterator[Look]:
    """Keep the authorizer's controls as the store says, and let it consume one-time chains. Raises StoreError at start.

    Without a store nothing is revoked, and chains that may be used once are refused. Yields what looks at it at once.
    """
    if path is None:
        yield _nothing_to_look_at
        return
    with ControlStore.open(path, create=True) as store:
        once = OnceRegister.open(path)
        watcher = ControlWatcher(store, store.snapshot(time.time()), lambda _: None)
        _put_in_force(authorizer, watcher.current, max_age_seconds)
        authorizer.effects = (consuming(once),)
        one_at_a_time = asyncio.Lock()

        async def look() -> bool:
            async with one_at_a_time:  # of two at a time, the one that read first could end last
                if not await watcher.look():
                    return False
                _put_in_force(authorizer, watcher.current, max_age_seconds)
                return True

        following = asyncio.create_task(_follow(look))
        try:
            yield look
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await once.close()


async def _follow(look: Look) -> None:
    while True:
        await look()
        await asyncio.sleep(LOOK_SECONDS)


async def _nothing_to_look_at() -> bool:
    return False


def _put_in_force(authorizer: Authorizer, found: ControlSnapshot, max_age_seconds: float) -> None:
    authorizer.snapshot = replace(authorizer.snapshot, controls=controls_of(found, max_age_seconds))


def controls_of(found: ControlSnapshot, max_age_seconds: float) -> Controls:
    """Return what a store says as decisions use it: chains are believed until it is older than `max_age_seconds`."""
    return Controls(
        revocations=found.revocations,
        quarantined=found.quarantined,
        quarantined_sessions=found.quarantined_sessions,
        fresh_until=found.read_at + max_age_seconds,
        consumes_once=True,
    )


def consuming(once: OnceRegister) -> Effect:
    """Return the effect that uses up a chain which may be used once."""

    async def consume(decision: Decision) -> None:
        delegation = decision.delegation
        if delegation is None or not delegation.once:
            return
        root, leaf = delegation.token_ids[0], delegation.token_ids[-1]
        try:
            is_first = await once.consume_once(root, leaf, delegation.expires_at)
        except StoreError as error:
            _LOG.error("a one-time chain could not be consumed: %s", error)
            raise Undecided(Reason.STORE_UNAVAILABLE) from None
        if not is_first:
            raise Refusal(Reason.TOKEN_REPLAYED)

    return consume
