"""A real Envoy for tests.

    async with EnvoyProcess("inbound", render(sidecar), directory) as envoy:
        await envoy.stats("ssl.handshake")

`directory` takes the configuration, the log and, if the configuration says so, the sockets: keep its path short, a unix
socket's has at most 107 bytes (`short_directory` makes such a one).
"""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from ext_authz.local.envoy import Envoy


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
        self._name = name
        self._config_path = directory / f"{name}.yaml"
        self._config_path.write_text(configuration, encoding="utf-8")
        self._log_path = directory / f"{name}.log"
        self._admin_path = Path(yaml.safe_load(configuration)["admin"]["address"]["pipe"]["path"])
        self._envoy: Envoy | None = None

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
        self._envoy = await Envoy.start(self._name, self._config_path, self._admin_path, self._log_path)

    async def wait_until_live(self) -> None:
        """Wait until /ready says LIVE; fails with Envoy's log when it does not."""
        await self._running.wait_until_ready()

    async def state(self) -> str:
        """Return what /ready says: LIVE, INITIALIZING and so on; empty while nothing answers."""
        return await self._running.state()

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match a regular expression."""
        return await self._running.stats(pattern)

    @property
    def admin(self) -> httpx.AsyncClient:
        """A client of the admin interface."""
        return self._running.admin

    def log(self) -> str:
        """Return what Envoy printed."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    async def stop(self) -> None:
        """End it; may be called twice."""
        if self._envoy is not None:
            envoy, self._envoy = self._envoy, None
            await envoy.stop()

    @property
    def _running(self) -> Envoy:
        assert self._envoy is not None
        return self._envoy
