"""The demo's processes: identity provider and agents here; the authorization server, the exchange and the Envoys as children."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_authz.client import LinkSigner
from ext_authz.exchange.keys import KeyRing, add_key
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.demo.agent import running_agent
from ext_authz.local.demo.delegation import ExchangeKeys, TokenService, signer_of
from ext_authz.local.envoy import Envoy
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.local.processes import Child
from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar

TRUST_DOMAIN = "agents.example.com"
AGENTS = (
    *("planner-agent", "retrieval-agent", "database-agent", "vector-store-agent"),
    *("code-executor-agent", "sandbox-agent"),
)
# The token exchange: reached through an inbound sidecar like any agent, and calling nobody.
EXCHANGE = "token-exchange"
RUN_PREFIX = "ext-authz-demo-"
# What a sidecar waits for a decision here: eighteen processes share a laptop's cores.
AUTHZ_TIMEOUT = "250ms"
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where an agent's sidecars listen on 127.0.0.1."""

    inbound: int
    outbound: int


@dataclass
class World:
    """Everything that runs."""

    directory: Path
    policies: Path
    ca: DevelopmentCa
    provider: LocalIdentityProvider
    token_service: TokenService
    ports: dict[str, Ports]
    authorization_server: Child | None = field(default=None, repr=False)
    exchange: Child | None = field(default=None, repr=False)

    @property
    def audit_file(self) -> Path:
        """The audit records, one JSON line each."""
        return self.directory / "audit.jsonl"

    @property
    def control_store(self) -> Path:
        """The store of revocations and quarantine."""
        return self.directory / "control" / "control.sqlite"

    def signer(self, agent: str) -> LinkSigner:
        """Return what signs links with an agent's current SVID."""
        return signer_of(self.provider.svid(spiffe_id(agent)))

    def outbound_url(self, agent: str) -> str:
        """Where `agent` calls others: its outbound sidecar, in plain HTTP."""
        return f"http://127.0.0.1:{self.ports[agent].outbound}"

    def inbound_url(self, agent: str) -> str:
        """Where others reach `agent`: its inbound sidecar, mTLS only."""
        return f"https://127.0.0.1:{self.ports[agent].inbound}"

    async def start_authorization_server(self) -> None:
        """Start `ext-authz serve` and wait until it says that it serves."""
        address = f"unix:{self._authz_socket}"
        arguments = [
            *(sys.executable, "-m", "ext_authz", "serve"),
            *("--policies", str(self.policies), "--listen", address, "--audit-file", str(self.audit_file)),
        ]
        environment = {**_plain_environment(), "EXT_AUTHZ_CONTROL_STORE": str(self.control_store)}
        child = await Child.start("ext-authz serve", arguments, self.directory / "serve.log", environment)
        self.authorization_server = child
        async with grpc.aio.insecure_channel(
            address, options=[("grpc.max_reconnect_backoff_ms", 50), ("grpc.initial_reconnect_backoff_ms", 50)]
        ) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def is_serving() -> bool:
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=False)
                except grpc.aio.AioRpcError:
                    return False
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await child.wait_until(is_serving, START_SECONDS)

    async def stop_authorization_server(self) -> None:
        """Stop it as Kubernetes would."""
        if self.authorization_server is not None:
            await self.authorization_server.stop(10)
            self.authorization_server = None

    async def start_exchange(self) -> None:
        """Start `ext-authz exchange serve`, which listens for its sidecar alone, and wait until it does."""
        arguments = [
            *(sys.executable, "-m", "ext_authz", "exchange", "serve", "--spiffe-id", spiffe_id(EXCHANGE).uri),
            *("--policies", str(self.policies), "--keys", str(self.exchange_keys)),
            *("--control-store", str(self.control_store), "--listen", f"unix:{self.app_socket(EXCHANGE)}"),
            *("--audit-file", str(self.directory / "exchanges.jsonl")),
        ]
        child = await Child.start(
            "ext-authz exchange", arguments, self.directory / "exchange.log", _plain_environment()
        )
        self.exchange = child

        async def is_listening() -> bool:
            return self.app_socket(EXCHANGE).exists()

        await child.wait_until(is_listening, START_SECONDS)

    async def stop_exchange(self) -> None:
        """Stop it as Kubernetes would."""
        if self.exchange is not None:
            await self.exchange.stop(10)
            self.exchange = None

    @property
    def exchange_keys(self) -> Path:
        """The directory of the exchange's keys."""
        return self.directory / "exchange-keys"

    @property
    def _authz_socket(self) -> Path:
        return self.directory / "authz.sock"

    async def start_sidecar(self, agent: str, sidecar: InboundSidecar | OutboundSidecar) -> Envoy:
        """Render a configuration and start the real Envoy on it."""
        name = f"{agent}-{sidecar.role}"
        path = self.directory / f"{name}.yaml"
        path.write_text(render(sidecar))
        return await Envoy.start(name, path, self._admin_socket(agent, sidecar.role), self.directory / f"{name}.log")

    def sidecars(self, agent: str) -> tuple[InboundSidecar, OutboundSidecar]:
        """Describe an agent's two sidecars, exactly as `ext-authz envoy render` does."""
        common: dict[str, Any] = {
            "spiffe_id": spiffe_id(agent).uri,
            "certificates": f"unix:{self.provider.socket_path(spiffe_id(agent))}",
        }
        inbound = InboundSidecar.parse(
            **common,
            listen=f"127.0.0.1:{self.ports[agent].inbound}",
            app=f"unix:{self.app_socket(agent)}",
            authz=f"unix:{self._authz_socket}",
            admin=f"unix:{self._admin_socket(agent, 'inbound')}",
            hosts=[agent],
            timeout=AUTHZ_TIMEOUT,
            access_log=str(self.directory / f"{agent}-access.jsonl"),
        )
        others = (other for other in (*AGENTS, EXCHANGE) if other != agent)
        outbound = OutboundSidecar.parse(
            **common,
            listen=f"127.0.0.1:{self.ports[agent].outbound}",
            admin=f"unix:{self._admin_socket(agent, 'outbound')}",
            upstreams=[f"{other}=127.0.0.1:{self.ports[other].inbound},{spiffe_id(other)}" for other in others],
            access_log=str(self.directory / f"{agent}-egress.jsonl"),
        )
        return inbound, outbound

    def app_socket(self, agent: str) -> Path:
        """Where an agent itself listens."""
        return self.directory / f"{agent}.app"

    def _admin_socket(self, agent: str, role: str) -> Path:
        return self.directory / f"{agent}-{role}.adm"


def spiffe_id(agent: str) -> SpiffeId:
    """Return an agent's SPIFFE ID."""
    return SpiffeId.parse_workload(f"spiffe://{TRUST_DOMAIN}/{agent}")


@asynccontextmanager
async def running_world(policies: Path) -> AsyncIterator[World]:
    """Start everything, wait until it is ready, and take it all down at the end, files included."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(run_directory())
        ca = DevelopmentCa.create(TRUST_DOMAIN)
        copied = directory / "policies"
        shutil.copytree(policies, copied)
        token_service = TokenService(spiffe_id("delegation-sts"))
        exchange_keys = directory / "exchange-keys"
        add_key(exchange_keys, time.time())
        key_set = KeyRing.load(exchange_keys).key_set(time.time())
        token_service.write_policy(copied, ca.bundle_pem, ExchangeKeys(spiffe_id(EXCHANGE), key_set))
        provider = LocalIdentityProvider(ca, map(spiffe_id, (*AGENTS, EXCHANGE)), directory / "ids")
        await stack.enter_async_context(provider)
        world = World(directory, copied, ca, provider, token_service, _free_ports())
        stack.push_async_callback(world.stop_authorization_server)
        stack.push_async_callback(world.stop_exchange)
        starting = [asyncio.create_task(start()) for start in (world.start_authorization_server, world.start_exchange)]
        envoys = []
        for agent in AGENTS:
            serving = running_agent(
                agent, world.app_socket(agent), world.outbound_url(agent), partial(world.signer, agent)
            )
            await stack.enter_async_context(serving)
            for sidecar in world.sidecars(agent):
                envoy = await world.start_sidecar(agent, sidecar)
                stack.push_async_callback(envoy.stop)
                envoys.append(envoy)
        inbound, _ = world.sidecars(EXCHANGE)
        envoy = await world.start_sidecar(EXCHANGE, inbound)
        stack.push_async_callback(envoy.stop)
        envoys.append(envoy)
        await asyncio.gather(*starting, *(envoy.wait_until_ready() for envoy in envoys))
        yield world


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a directory for sockets, configurations and logs; remove it at the end, and those of runs that were killed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{RUN_PREFIX}*"):
        if not _is_alive(left.name.removeprefix(RUN_PREFIX).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-", dir=root))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _is_alive(process_id: str) -> bool:
    """Whether the process that owns a directory still runs; a name that is not ours counts as alive."""
    if not process_id.isdecimal():
        return True
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free_ports() -> dict[str, Ports]:
    """Ask the system for ports that nobody uses; all are held until the last is known."""
    names = (*AGENTS, EXCHANGE)
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * len(names))]
    numbers = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return {
        agent: Ports(*pair) for agent, pair in zip(names, zip(numbers[::2], numbers[1::2], strict=True), strict=True)
    }


def _plain_environment() -> dict[str, str]:
    """Return our environment without settings that would change what the demo shows."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("EXT_AUTHZ_", "OTEL_"))}
