"""A demo agent: it tells what it saw, and the retrieval agent asks the database agent as a real one would.

What speaks JSON-RPC is answered in JSON-RPC: the vector store's tools are called by MCP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ext_authz.client import DELEGATION_TOKEN, DelegationAuth, LinkSigner, Narrowing
from ext_authz.identity.spiffe_id import SpiffeId

METHODS = ["GET", "POST", "PUT", "DELETE"]
DATABASE = {"database-agent": SpiffeId.parse_workload("spiffe://agents.example.com/database-agent")}
READ_ONLY = Narrowing(scopes=["read"], allowed_targets=list(DATABASE.values()))
MCP_PATH = "/mcp"
# Seconds for one call of an agent to another.
CALL_SECONDS = 5.0


@asynccontextmanager
async def running_agent(
    name: str, socket: Path, outbound: str, signer: Callable[[], LinkSigner]
) -> AsyncIterator[None]:
    """Serve an agent on a unix socket that only its inbound sidecar knows.

    `outbound` is the URL of its other sidecar, `signer` what passes on a chain with the agent's current SVID.
    """
    async with httpx.AsyncClient(base_url=outbound, timeout=CALL_SECONDS) as sidecar:

        async def act(request: Request) -> JSONResponse:
            answer = await _act(name, request, sidecar, signer)
            if request.url.path == MCP_PATH:
                answer = {"jsonrpc": "2.0", "id": (await request.json())["id"], "result": answer}
            return JSONResponse(answer)

        app = Starlette(routes=[Route("/{path:path}", act, methods=METHODS)])
        server = _Server(uvicorn.Config(app, uds=str(socket), log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """A server that leaves the signals of the process to the demo."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _act(
    name: str, request: Request, sidecar: httpx.AsyncClient, signer: Callable[[], LinkSigner]
) -> dict[str, object]:
    """Do the action that the authorization server named. The agent believes its sidecar and nobody else."""
    action = request.headers.get("x-authz-action", "")
    answer: dict[str, object] = {
        "agent": name,
        "action": action,
        "subject": request.headers.get("x-authz-subject", ""),
        "on_behalf_of": request.headers.get("x-authz-on-behalf-of", ""),
        "decision_id": request.headers.get("x-authz-decision-id", ""),
    }
    if name == "retrieval-agent" and action == "search" and request.method == "POST":
        chain = request.headers.get(DELEGATION_TOKEN)
        auth = DelegationAuth(chain, signer(), audiences=DATABASE, narrowing=READ_ONLY) if chain else None
        found = await sidecar.get("/records/42", headers={"host": "database-agent"}, auth=auth)
        answer["found"] = found.json()
    return answer
