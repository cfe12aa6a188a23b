"""Policy reload: on SIGHUP and on file changes; a bad change keeps the last good policy."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ext_authz.audit.event import MAX_PROBLEMS, Announcer, EventType, Severity
from ext_authz.audit.record import Value
from ext_authz.authorizer import Authorizer
from ext_authz.errors import PolicyError
from ext_authz.policy.compile import Policy, load
from ext_authz.server.file_watch import LOOK_SECONDS, FileWatch, directory_changes, directory_stamps
from ext_authz.server.key_fetcher import KeyFetcher
from ext_authz.server.memory import settle_memory
from ext_authz.tokens.key_files import Stamps, stamps_now

_LOG = logging.getLogger(__name__)


class PolicyReloader:
    """Loads the policy directory off the event loop and swaps it in whole."""

    def __init__(
        self,
        directory: Path,
        authorizer: Authorizer,
        keys: KeyFetcher,
        *,
        announcer: Announcer,
        told: Callable[[bool], Awaitable[None]],
        before: Stamps | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reload for `authorizer` what stands in `directory`. `told` hears after each try whether it is in force.

        `before` are the stamps of the directory from before it was loaded: what changed since then is read once more.
        """
        self.is_current = True  # whether the active policy is what the directory says
        self.loaded_at = clock()  # seconds since 1970
        self.failures = 0
        self._directory = directory
        self._authorizer = authorizer
        self._keys = keys
        self._announcer = announcer
        self._told = told
        self._clock = clock
        self._before = directory_stamps(directory) if before is None else before
        self._elsewhere = FileWatch(authorizer.snapshot.policy.watched_files)
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> bool:
        """Load and swap. Return False when the directory is bad and the last good policy stays."""
        async with self._one_at_a_time:
            try:
                policy = await asyncio.to_thread(load, self._directory)
            except PolicyError as error:
                self._failed(error.problems)
            except Exception as error:  # noqa: BLE001  whatever a file makes the loader do, serving goes on
                self._failed([type(error).__name__])
            else:
                self._swap(policy)
            await self._told(self.is_current)
            return self.is_current

    async def watch(self) -> None:
        """Reload whenever a file of the directory, or one that its documents name, changes; until cancelled."""
        async with asyncio.TaskGroup() as watching:
            watching.create_task(self._watch_directory())
            watching.create_task(self._watch_elsewhere())

    async def _watch_directory(self) -> None:
        async for has_changed in directory_changes(self._directory, before=self._before):
            if has_changed:
                await self.reload()

    async def _watch_elsewhere(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            expected = self._elsewhere.expected
            if expected and self._elsewhere.is_change(await asyncio.to_thread(stamps_now, expected)):
                await self.reload()

    def _failed(self, problems: Sequence[str]) -> None:
        for problem in problems:
            _LOG.error("policy not reloaded: %s", problem)
        self.is_current = False
        self.failures += 1
        details: dict[str, Value] = {
            "policies": str(self._directory),
            "policy_digest": self._authorizer.snapshot.policy.digest,
            "problem_count": len(problems),
            "problems": tuple(problems[:MAX_PROBLEMS]),
        }
        self._announcer.announce(EventType.POLICY_RELOAD_FAILED, Severity.ERROR, details)

    def _swap(self, policy: Policy) -> None:
        self.is_current = True
        active = self._authorizer.snapshot
        self._elsewhere.expect(policy.watched_files)
        if policy.digest == active.policy.digest:
            _LOG.info("policy unchanged, digest %s", policy.digest[:12])
            return
        found = self._keys.follow(policy.key_sources)  # what was fetched for the old policy counts in the new one
        self._authorizer.snapshot = replace(active, policy=policy.with_keys(found))
        self.loaded_at = self._clock()
        settle_memory()
        _LOG.info("policy reloaded: %d grants, digest %s", policy.grant_count, policy.digest[:12])
