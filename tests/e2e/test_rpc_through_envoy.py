"""Calls to an MCP endpoint and over gRPC through a rendered sidecar in the real Envoy, decided by a real server."""

import json
import ssl
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from e2e.envoy_process import EnvoyProcess, free_port, short_directory
from e2e.http_agent import serving
from support.rpc_policies import POLICY, message, tool_call
from support.server_process import ServerProcess

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS, PLANNER = (SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}-agent") for name in ("tools", "planner"))


class _Agent(BaseHTTPRequestHandler):
    """Answers every POST with the action that it was told."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        content = self.headers.get("x-authz-action", "").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Print nothing."""


def _client_tls(ca: DevelopmentCa, directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.bundle_pem.decode())
    context.check_hostname = False  # the peer's name is its SPIFFE ID
    directory.mkdir()
    context.load_cert_chain(*ca.issue(PLANNER).write_to(directory))
    return context


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["http1", "http2"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """Call the tools agent's sidecar as the planner."""
    ca = DevelopmentCa.create("agents.example.com")
    with short_directory() as directory, serving(_Agent) as agent_port:
        policies = directory / "policies"
        policies.mkdir()
        (policies / "policy.yaml").write_text(POLICY, "utf-8")
        provider = LocalIdentityProvider(ca, [TOOLS], directory / "sds")
        socket, port = directory / "authz.sock", free_port()
        sidecar = InboundSidecar.parse(
            spiffe_id=TOOLS.uri,
            listen=f"127.0.0.1:{port}",
            app=f"127.0.0.1:{agent_port}",
            authz=f"unix:{socket}",
            admin=f"unix:{directory}/admin.sock",
            certificates=f"unix:{provider.socket_path(TOOLS)}",
            timeout="2s",
        )
        with ServerProcess.running(policies, listen=f"unix:{socket}"):
            async with (
                provider,
                EnvoyProcess("inbound", render(sidecar), directory),
                httpx.AsyncClient(
                    base_url=f"https://127.0.0.1:{port}",
                    headers={"host": "tools-agent"},
                    verify=_client_tls(ca, directory / "planner"),
                    http1=request.param == "http1",
                    http2=request.param == "http2",
                ) as calling,
            ):
                yield calling


ALLOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "search": ("/mcp", tool_call("search", arguments={"q": "x"})),
    "mcp.session": ("/mcp", message("tools/list")),
    "ask": ("/a2a", message("SendMessage", params={})),
}


@pytest.mark.parametrize("action", ALLOWED)
async def test_call_reaches_the_agent_with_its_action(client: httpx.AsyncClient, action: str) -> None:
    """What the body says is decided, and the agent is told what was allowed."""
    path, body = ALLOWED[action]
    response = await client.post(path, json=body)
    assert (200, action) == (response.status_code, response.text)


REFUSED: dict[str, tuple[int, str, object, bytes]] = {
    "a tool nobody registered": (403, "action_unregistered", 7, json.dumps(tool_call("drop")).encode()),
    "a tool that is not granted": (403, "not_in_matrix", 7, json.dumps(tool_call("delete")).encode()),
    "a batch": (400, "body_batch", None, json.dumps([tool_call("search")]).encode()),
    "two methods": (400, "body_duplicate_key", None, b'{"jsonrpc":"2.0","id":7,"method":"ping","Method":"tools/call"}'),
    "two messages": (400, "body_trailing", None, json.dumps(message("ping")).encode() * 2),
    "nothing": (411, "body_missing", None, b""),
}


@pytest.mark.parametrize(("status", "reason", "request_id", "body"), REFUSED.values(), ids=REFUSED)
async def test_denial_is_a_json_rpc_error(
    client: httpx.AsyncClient, *, status: int, reason: str, request_id: object, body: bytes
) -> None:
    """The client gets a JSON-RPC error with the reason, and its id where the body could be read."""
    response = await client.post("/mcp", content=body, headers={"content-type": "application/json"})
    error = response.json()
    assert (status, "application/json") == (response.status_code, response.headers["content-type"])
    assert (request_id, reason, status) == (error["id"], error["error"]["data"]["reason"], error["error"]["code"])


async def test_chunked_call(client: httpx.AsyncClient) -> None:
    """A body that comes in pieces is read whole."""

    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(tool_call("search")).encode():
            yield bytes([byte])

    response = await client.post("/mcp", content=pieces(), headers={"content-type": "application/json"})
    assert 200 == response.status_code


@pytest.mark.parametrize(
    ("status", "content_type"), [(200, "application/grpc"), (200, "application/grpc+proto"), (403, "application/json")]
)
async def test_grpc_path(client: httpx.AsyncClient, status: int, content_type: str) -> None:
    """A gRPC path belongs to its method, and to nothing that comes with another type."""
    response = await client.post(
        "/search.v1.Index/Query", content=b"\0\0\0\0\0", headers={"content-type": content_type, "te": "trailers"}
    )
    assert status == response.status_code
