"""A policy with MCP and A2A endpoints, and calls to them."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ext_authz.decision.decide import Snapshot
from ext_authz.identity.identify import Identifier
from ext_authz.policy.compile import Policy, load
from support.authorizers import default_screen
from support.check_requests import Question, agent

# The tools agent speaks MCP at /mcp and A2A in all bindings; every other agent does neither.
POLICY = """\
kind: PermissionMatrix
trust_domain: agents.example.com
matrix:
  planner-agent:
    tools-agent: [search, mcp.session, mcp.answer, ask, follow, stream, index]
    retrieval-agent: [search, plain, index]
---
kind: ActionRegistry
endpoints:
  mcp: [POST /mcp]
  a2a: {jsonrpc: [POST /a2a], http: [/v1], grpc: true}
  resources: [tools-agent]
actions:
  search: {mcp: {tools: [search, find]}, http: [POST /v1/search]}
  delete: {mcp: {tools: [delete]}}
  mcp.session: {mcp: {methods: [initialize, notifications/initialized, ping, tools/list, prompts/get, resources/read]}}
  mcp.answer: {mcp: {responses: true}}
  ask: {a2a: [message/send]}
  follow: {a2a: [GetTask, tasks/resubscribe]}
  cancel: {a2a: [tasks/cancel]}
  stream: {http: [GET /mcp]}
  plain: {http: [POST /mcp, POST /a2a], resources: [retrieval-agent]}
  index: {grpc: [search.v1.Index/Query, Plain/Query]}
  anything: {asserted: true}
"""


@cache
def rpc_policy() -> Policy:
    """Return the compiled policy."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "policy.yaml").write_text(POLICY, "utf-8")
        return load(Path(directory))


def rpc_snapshot() -> Snapshot:
    """Return a snapshot of the policy."""
    return Snapshot(rpc_policy(), Identifier(), default_screen())


def message(method: str = "tools/call", /, **members: Any) -> dict[str, Any]:
    """Return a JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": 7, "method": method, **members}


def tool_call(name: str, /, **params: Any) -> dict[str, Any]:
    """Return a call of a tool."""
    return message(params={"name": name, **params})


def calling(body: Any, path: str = "/mcp", **changes: Any) -> Question:
    """Return a POST of a body, a value or its bytes, to the tools agent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Question(target=agent("tools-agent"), path=path, body=data).but(**changes)


def grpc_call(path: str, content_type: str | None = "application/grpc", **changes: Any) -> Question:
    """Return a gRPC call as Envoy shows it: a POST without a body."""
    headers = [("te", "trailers")] + ([] if content_type is None else [("content-type", content_type)])
    return Question(target=agent("tools-agent"), path=path, body=b"", partial=None, headers=headers).but(**changes)
