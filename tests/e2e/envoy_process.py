"""A real Envoy for tests.

    async with EnvoyProcess("inbound", render(sidecar), directory) as envoy:
        await envoy.stats("ssl.handshake")

`directory` takes the configuration, the log and, if the configuration says so, the sockets: keep its path short, a unix
socket's has at most 107 bytes (`short_directory` makes such a one).
"""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from ext_authz.render.validation import envoy_path

START_SECONDS = 30.0
STOP_SECONDS = 5.0

# One worker, no shared memory with other Envoys, and an access log that a test need not wait for.
OPTIONS = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "100"]


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory of our own for sockets."""
    with tempfile.TemporaryDirectory(prefix="ea-") as directory:
        yield Path(directory)


def free_port() -> int:
    """Return a TCP port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


class EnvoyProcess:
    """An Envoy that runs while it is entered; its admin interface must be a unix socket."""

    def __init__(self, name: str, configuration: str, directory: Path) -> None:
        """Take the whole configuration as YAML."""
        self._config_path = directory / f"{name}.yaml"
        self._config_path.write_text(configuration, encoding="utf-8")
        self._log_path = directory / f"{name}.log"
        pipe = yaml.safe_load(configuration)["admin"]["address"]["pipe"]["path"]
        transport = httpx.AsyncHTTPTransport(uds=pipe)
        self.admin = httpx.AsyncClient(transport=transport, base_url="http://admin")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start, and wait until Envoy is LIVE."""
        try:
            await self.start()
            await self.wait_until_live()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, whatever happened."""
        await self.stop()

    async def start(self) -> None:
        """Start without waiting, for configurations that shall not become live."""
        with self._log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                envoy_path(),
                *OPTIONS,
                "--config-path",
                self._config_path,
                stdout=log,
                stderr=log,
                start_new_session=True,  # one process group, which is stopped as a whole
            )

    async def wait_until_live(self) -> None:
        """Wait until /ready says LIVE; fails with Envoy's log when it does not."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while await self.state() != "LIVE":
                    assert self._process is not None
                    assert self._process.returncode is None, f"Envoy stopped during its start:\n{self.log()}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"Envoy is not live after {START_SECONDS} s:\n{self.log()}") from None

    async def state(self) -> str:
        """Return what /ready says: LIVE, INITIALIZING and so on; empty while nothing answers."""
        try:
            return (await self.admin.get("/ready")).text.strip()
        except httpx.TransportError:
            return ""

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match a regular expression."""
        answer = await self.admin.get("/stats", params={"format": "json", "filter": pattern})
        return {stat["name"]: stat["value"] for stat in answer.json()["stats"] if "name" in stat}

    def log(self) -> str:
        """Return what Envoy printed."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    async def stop(self) -> None:
        """End the process group; may be called twice."""
        await self.admin.aclose()
        if self._process is None:
            return
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
