"""Child processes that end with their parent, whatever ends it."""

import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from ext_authz.errors import ExtAuthzError

# Seconds between two looks at whether a child is ready.
POLL_SECONDS = 0.02
# Lines of a child's log that an error shows.
SHOWN_LINES = 15


class ChildError(ExtAuthzError):
    """A child process did not start, or ended by itself."""


class Child:
    """A running program. Its output goes to a file, it gets no signal from the terminal, and it dies with its parent."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(
        cls, name: str, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Start a program by its argument list."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *_dying_with_parent(arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        return cls(name, process, log)

    async def wait_until(self, is_ready: Callable[[], Awaitable[bool]], timeout_seconds: float) -> None:
        """Wait until `is_ready` says so. Raises ChildError when the program ends or the time does."""
        deadline = time.monotonic() + timeout_seconds
        while not await is_ready():
            if self._process.returncode is not None:
                raise ChildError(f"{self.name} ended with code {self._process.returncode}:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} was not ready after {timeout_seconds:g} s:\n{self._last_lines()}")
            await asyncio.sleep(POLL_SECONDS)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._process.send_signal(number)

    async def stop(self, timeout_seconds: float = 5) -> int:
        """Ask the program to end, make it end after the timeout, and return its exit code."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-SHOWN_LINES:])


def _dying_with_parent(arguments: Sequence[str | Path]) -> list[str | Path]:
    """Let the kernel end the child when we are killed without a chance to; Linux only, elsewhere it would live on."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *arguments] if setpriv else list(arguments)
