"""The candidate of shadow mode: loaded beside the active policy, and never in its way.

1. A candidate that cannot be loaded is told of, and nothing else happens: the server starts and serves without it, or with
   the last good one.
2. Its directory may be away, and may come back.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from ext_authz.audit.event import MAX_PROBLEMS, Announcer, EventType, Severity
from ext_authz.audit.record import Value
from ext_authz.decision.shadow import Shadow
from ext_authz.errors import PolicyError
from ext_authz.policy.compile import Policy, load
from ext_authz.server.file_watch import directory_changes, directory_stamps
from ext_authz.server.memory import settle_memory
from ext_authz.tokens.key_files import Stamps

# Seconds between two looks for a directory that is not there.
ABSENT_SECONDS = 1.0

_LOG = logging.getLogger(__name__)


class ShadowReloader:
    """Loads the candidate off the event loop and swaps it in whole."""

    def __init__(self, directory: Path, shadow: Shadow, announcer: Announcer) -> None:
        self.is_current = False  # whether the candidate is what its directory says
        self._directory = directory
        self._shadow = shadow
        self._announcer = announcer
        self._before: Stamps = {}  # of the directory, from before it was read last
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> bool:
        """Load and swap. Return False when the directory is bad and the last good candidate stays, if there is one."""
        async with self._one_at_a_time:
            self._before = directory_stamps(self._directory)
            try:
                policy = await asyncio.to_thread(load, self._directory)
            except PolicyError as error:
                self._failed(error.problems)
            except Exception as error:  # noqa: BLE001  rule 1
                self._failed([type(error).__name__])
            else:
                self._swap(policy)
            return self.is_current

    async def watch(self) -> None:
        """Reload whenever a file of the directory changes, until cancelled."""
        while True:
            try:
                async for has_changed in directory_changes(self._directory, before=self._before):
                    if has_changed:
                        await self.reload()
            except FileNotFoundError:
                await asyncio.sleep(ABSENT_SECONDS)
                if await asyncio.to_thread(self._directory.exists):
                    await self.reload()
            except Exception as error:  # noqa: BLE001  rule 1
                _LOG.warning("shadow policy cannot be watched: %s", type(error).__name__)
                return  # SIGHUP still reloads it

    def _failed(self, problems: Sequence[str]) -> None:
        for problem in problems:
            _LOG.warning("shadow policy not loaded: %s", problem)
        self.is_current = False
        candidate = self._shadow.candidate
        details: dict[str, Value] = {
            "shadow": str(self._directory),
            "shadow_digest": candidate.digest if candidate else "",
            "problem_count": len(problems),
            "problems": tuple(problems[:MAX_PROBLEMS]),
        }
        self._announcer.announce(EventType.SHADOW_POLICY_FAILED, Severity.WARNING, details)

    def _swap(self, policy: Policy) -> None:
        self.is_current = True
        candidate = self._shadow.candidate
        if candidate is not None and candidate.digest == policy.digest:
            return
        self._shadow.candidate = policy
        settle_memory()
        _LOG.info("shadow policy loaded: %d grants, digest %s", policy.grant_count, policy.digest[:12])
