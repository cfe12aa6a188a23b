"""Calls out through a rendered outbound sidecar in the real Envoy, decided by a real server on a socket of its own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
import pytest_asyncio
from e2e.envoy_process import EnvoyProcess, free_port, short_directory
from e2e.http_agent import serving
from support.server_process import ServerProcess

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRIEVAL, DATABASE = (
    SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}-agent") for name in ("retrieval", "database")
)
# The third upstream is one of the sidecar, and of no entry.
UPSTREAMS = ("database-agent", "records.example.com", "unlisted-agent")


def policy(port: int) -> str:
    """Return a policy in which the retrieval agent may read records, by two names."""
    return f"""kind: PermissionMatrix
trust_domain: agents.example.com
matrix: {{retrieval-agent: {{database-agent: [read]}}}}
---
kind: ActionRegistry
actions: {{read: {{http: ["GET /records/{{id}}", "GET /secrets/{{id}}"]}}}}
---
kind: EgressAllowlist
egress:
  retrieval-agent:
    - {{hosts: [database-agent, "*.example.com"], ports: [{port}], methods: [GET], paths: ["/records/**"]}}
"""


class _Agent(BaseHTTPRequestHandler):
    """Answers with the headers that it got."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = str(self.headers).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Print nothing."""


@dataclass(frozen=True)
class Outside:
    """An agent's way out, and who decides about it."""

    base_url: str
    authz: ServerProcess
    port: int  # of the sidecar that is called

    async def get(
        self, host: str, path: str = "/records/7", method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Call as the agent does: plain HTTP to its own sidecar."""
        async with httpx.AsyncClient(base_url=self.base_url) as client:
            return await client.request(method, path, headers={"host": host, **(headers or {})})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outside() -> AsyncIterator[Outside]:
    """Run the retrieval agent's outbound sidecar, the database agent's inbound one, and a server for each."""
    ca = DevelopmentCa.create("agents.example.com")
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(short_directory())
        agent_port = stack.enter_context(serving(_Agent))
        inbound_port, outbound_port = free_port(), free_port()
        policies = directory / "policies"
        policies.mkdir()
        (policies / "policy.yaml").write_text(policy(inbound_port), "utf-8")
        provider = await stack.enter_async_context(LocalIdentityProvider(ca, [RETRIEVAL, DATABASE], directory / "sds"))
        stack.enter_context(ServerProcess.running(policies, listen=f"unix:{directory}/in-authz.sock"))
        authz = stack.enter_context(
            ServerProcess.running(policies, listen=f"unix:{directory}/out-authz.sock", socket_workload=RETRIEVAL.uri)
        )
        inbound = InboundSidecar.parse(
            spiffe_id=DATABASE.uri,
            listen=f"127.0.0.1:{inbound_port}",
            app=f"127.0.0.1:{agent_port}",
            authz=f"unix:{directory}/in-authz.sock",
            admin=f"unix:{directory}/in.sock",
            certificates=f"unix:{provider.socket_path(DATABASE)}",
            hosts=UPSTREAMS,
            timeout="2s",
        )
        outbound = OutboundSidecar.parse(
            spiffe_id=RETRIEVAL.uri,
            listen=f"127.0.0.1:{outbound_port}",
            admin=f"unix:{directory}/out.sock",
            certificates=f"unix:{provider.socket_path(RETRIEVAL)}",
            upstreams=[f"{name}=127.0.0.1:{inbound_port},{DATABASE}" for name in UPSTREAMS],
            authz=f"unix:{directory}/out-authz.sock",
            timeout="2s",
        )
        await stack.enter_async_context(EnvoyProcess("inbound", render(inbound), directory))
        await stack.enter_async_context(EnvoyProcess("outbound", render(outbound), directory))
        yield Outside(f"http://127.0.0.1:{outbound_port}", authz, inbound_port)


@pytest.mark.parametrize("host", ["database-agent", "records.example.com", "RECORDS.example.com.:80"])
async def test_host_on_the_list(outside: Outside, host: str) -> None:
    """A call to a listed host reaches it, under the port that the route connects to; the record says so."""
    response = await outside.get(host)
    assert (200, True) == (response.status_code, "x-authz-subject" in response.text)
    name = host.partition(":")[0].removesuffix(".").lower()
    wanted = ("allow", RETRIEVAL.uri, f"{name}:{outside.port}")
    outside.authz.wait_for(lambda: wanted in _recorded(outside), f"{wanted}")


def _recorded(outside: Outside) -> list[tuple[str, str, str]]:
    attributes = [record["attributes"] for record in outside.authz.records]
    return [(each["policy.decision"], each["agent.caller"], each.get("agent.target", "")) for each in attributes]


REFUSED = {
    "an upstream of no entry": ("unlisted-agent", "/records/7", "GET"),
    "no upstream at all": ("evil.example.net", "/records/7", "GET"),
    "another path": ("database-agent", "/secrets/7", "GET"),
    "another method": ("database-agent", "/records/7", "DELETE"),
    "an address": ("127.0.0.1", "/records/7", "GET"),
}


@pytest.mark.parametrize(("host", "path", "method"), REFUSED.values(), ids=REFUSED)
async def test_call_that_is_not_on_the_list(outside: Outside, host: str, path: str, method: str) -> None:
    """The agent gets 403 with the reason and a decision to look up."""
    response = await outside.get(host, path, method)
    assert (403, "egress_denied") == (response.status_code, response.json()["reason"])
    assert response.json()["decision_id"] == response.headers["x-authz-decision-id"]


async def test_forged_headers_do_not_help(outside: Outside) -> None:
    """What the agent says of direction, workload or decision changes nothing."""
    forged = {"x-authz-subject": DATABASE.uri, "x-envoy-auth-partial-body": "true", "x-forwarded-client-cert": "URI=x"}
    assert 200 == (await outside.get("database-agent", headers=forged)).status_code
    assert 403 == (await outside.get("unlisted-agent", headers=forged)).status_code


async def test_server_is_gone(outside: Outside) -> None:
    """Without a decision nothing leaves: 503, for a listed host too. The last test of this file: it ends the server."""
    outside.authz.stop()
    assert [503, 503] == [(await outside.get(host)).status_code for host in ("database-agent", "evil.example.net")]
