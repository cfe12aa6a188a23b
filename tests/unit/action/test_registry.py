"""Which action a request is, and what can be wrong with the registration of actions."""

from pathlib import Path

import pytest
from support.check_requests import agent

from ext_authz.action.a2a import A2A_METHODS, A2aMethod
from ext_authz.action.compile import compile_registry
from ext_authz.action.jsonrpc import Protocol, RpcCall
from ext_authz.action.registry import Action, Registry
from ext_authz.attributes.salvage import NOTHING
from ext_authz.documents.loader import load_policy
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId

NAMES = Names("agents.example.com")
DATABASE, SEARCH = (SpiffeId.parse_workload(agent(name)) for name in ("database-agent", "retrieval-agent"))
REGISTRY = """\
kind: ActionRegistry
actions:
  search: {http: [POST /v1/search, GET /v1/search]}
  read: {http: ["GET /records/{id}"], resources: [database-agent]}
  execute: {http: [POST /v1/execute], asserted: true, screen: headers}
  summarize: {asserted: true}
  audit: {asserted: true, resources: [database-agent, spiffe://agents.example.com/ns/x]}
"""


def compiled(directory: Path, *texts: str) -> tuple[Registry, list[str]]:
    """Compile texts, each a file; return the registry and the problems, paths shortened."""
    for number, text in enumerate(texts):
        (directory / f"{number}.yaml").write_text(text)
    problems: list[str] = []
    registry = compile_registry(load_policy(directory), NAMES, problems)
    return registry, [problem.replace(f"{directory}/", "") for problem in problems]


def resolved(registry: Registry, request_line: tuple[str, str], resource: SpiffeId, asserted: str | None) -> Action:
    """Return the action of a request of which nothing else is known."""
    method, path = request_line
    headers = {} if asserted is None else {"x-agent-action": asserted}
    return registry.resolve(NOTHING._replace(method=method, path=path, headers=headers), resource)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Compile REGISTRY."""
    found, problems = compiled(tmp_path, REGISTRY)
    assert problems == []
    return found


def test_actions_have_what_was_written(registry: Registry) -> None:
    """An action knows whether it may be asserted, where, and whether its body is screened."""
    written = {
        name: (action.asserted, action.resources and {each.path for each in action.resources}, action.screens_body)
        for name, action in registry.actions.items()
    }
    assert {
        "search": (False, None, True),
        "read": (False, {"/database-agent"}, True),
        "execute": (True, None, False),
        "summarize": (True, None, True),
        "audit": (True, {"/database-agent", "/ns/x"}, True),
    } == written


RESOLVED = {
    "route": ("POST", "/v1/search", SEARCH, None, "search"),
    "second route": ("GET", "/v1/search", SEARCH, None, "search"),
    "route and the same word": ("POST", "/v1/search", SEARCH, "search", "search"),
    "route on its resource": ("GET", "/records/7", DATABASE, None, "read"),
    "route of an action that may be asserted": ("POST", "/v1/execute", SEARCH, None, "execute"),
    "asserted away from its route": ("POST", "/rpc", SEARCH, "execute", "execute"),
    "asserted": ("POST", "/rpc", SEARCH, "summarize", "summarize"),
    "asserted on its resource": ("POST", "/rpc", DATABASE, "audit", "audit"),
}


@pytest.mark.parametrize(("method", "path", "resource", "asserted", "name"), RESOLVED.values(), ids=RESOLVED)
def test_request_is_an_action(
    registry: Registry, *, method: str, path: str, resource: SpiffeId, asserted: str | None, name: str
) -> None:
    """The route decides; the caller's word counts where there is no route and the entry allows it."""
    assert name == resolved(registry, (method, path), resource, asserted).name


UNREGISTERED, MISMATCH = Reason.ACTION_UNREGISTERED, Reason.ACTION_MISMATCH
UNKNOWN = "x-agent-action names no registered action"
REFUSED = {
    "no route, no word": ("GET", "/", SEARCH, None, UNREGISTERED, UNREGISTERED.meaning.sentence),
    "other word than the route": (
        *("POST", "/v1/search", SEARCH, "summarize"),
        *(MISMATCH, "the request is `search`, x-agent-action says otherwise"),
    ),
    "word nobody registered, on a route": (
        *("POST", "/v1/search", SEARCH, "delete"),
        *(MISMATCH, "the request is `search`, x-agent-action says otherwise"),
    ),
    "empty word on a route": (
        *("POST", "/v1/search", SEARCH, ""),
        *(MISMATCH, "the request is `search`, x-agent-action says otherwise"),
    ),
    "word nobody registered": ("POST", "/rpc", SEARCH, "delete", UNREGISTERED, UNKNOWN),
    "empty word": ("POST", "/rpc", SEARCH, "", UNREGISTERED, UNKNOWN),
    "other case": ("POST", "/rpc", SEARCH, "Summarize", UNREGISTERED, UNKNOWN),
    "space": ("POST", "/rpc", SEARCH, " summarize", UNREGISTERED, UNKNOWN),
    "every action": ("POST", "/rpc", SEARCH, "*", UNREGISTERED, UNKNOWN),
    "known by its route alone": (
        *("POST", "/rpc", SEARCH, "search"),
        *(UNREGISTERED, "`search` is known by its route and cannot be asserted"),
    ),
    "route on another resource": (
        *("GET", "/records/7", SEARCH, None),
        *(UNREGISTERED, UNREGISTERED.meaning.sentence),
    ),
    "route of another resource, asserted": (
        *("GET", "/records/7", SEARCH, "read"),
        *(UNREGISTERED, "`read` is known by its route and cannot be asserted"),
    ),
    "asserted on another resource": (
        *("POST", "/rpc", SEARCH, "audit"),
        *(UNREGISTERED, "`audit` is not registered for this resource"),
    ),
}


@pytest.mark.parametrize(("method", "path", "resource", "asserted", "reason", "detail"), REFUSED.values(), ids=REFUSED)
def test_request_is_no_action(
    registry: Registry,
    *,
    method: str,
    path: str,
    resource: SpiffeId,
    asserted: str | None,
    reason: Reason,
    detail: str,
) -> None:
    """What fits no route and is no assertable word is refused; a word never makes a request something else."""
    with pytest.raises(Refusal) as caught:
        resolved(registry, (method, path), resource, asserted)
    assert (reason, detail) == (caught.value.reason, caught.value.detail)


def test_empty_registry_knows_nothing() -> None:
    """Without registered actions no request is one."""
    with pytest.raises(Refusal) as caught:
        resolved(Registry(), ("GET", "/"), SEARCH, "read")
    assert UNREGISTERED is caught.value.reason


AMBIGUOUS_PATH = "no request can have this path: the path can be read in more than one way; send it normalised"
NO_SPIFFE_ID = "not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"
PROBLEMS: dict[str, tuple[str, list[str]]] = {
    "no way to be it": (
        "  read: {}\n",
        ["0.yaml:3:3: no request can be action `read`: add `http` routes or `asserted: true`"],
    ),
    "empty routes": (
        "  read:\n    http: []\n",
        ["0.yaml:3:3: no request can be action `read`: add `http` routes or `asserted: true`"],
    ),
    "no path": (
        "  read: {http: [GET /a/../b]}\n",
        [
            f"0.yaml:3:17: route `GET /a/../b`: {AMBIGUOUS_PATH}",
        ],
    ),
    "query": ("  read: {http: ['GET /a?b']}\n", ["0.yaml:3:17: route `GET /a?b`: a route has no query"]),
    "no workload": (
        "  read:\n    asserted: true\n    resources: [database-agent, a b, spiffe://x]\n",
        [
            f"0.yaml:5:33: `a b` names no workload: {NO_SPIFFE_ID}",
            "0.yaml:5:38: `spiffe://x` names no workload: a workload's SPIFFE ID has a path",
        ],
    ),
    "same route": (
        "  read: {http: [GET /a]}\n  list: {http: [GET /a]}\n",
        ["0.yaml:4:17: a request for `GET /a` could also be action `read` (0.yaml:3)"],
    ),
    "overlapping routes": (
        "  read: {http: ['GET /a/{id}']}\n  list: {http: [GET /b, GET /a/all]}\n",
        ["0.yaml:4:25: a request for `GET /a/all` could also be action `read` (0.yaml:3)"],
    ),
    "overlapping on a shared resource": (
        "  read: {http: [GET /a], resources: [database-agent]}\n  list: {http: [GET /a]}\n",
        ["0.yaml:4:17: a request for `GET /a` could also be action `read` (0.yaml:3)"],
    ),
    "three": (
        "  a: {http: [GET /a]}\n  b: {http: [GET /b]}\n  c: {http: ['GET /{x}']}\n",
        [
            "0.yaml:5:14: a request for `GET /{x}` could also be action `a` (0.yaml:3)",
            "0.yaml:5:14: a request for `GET /{x}` could also be action `b` (0.yaml:4)",
        ],
    ),
    "twice the same route of one action": ("  read: {http: ['GET /{x}', GET /a]}\n", []),
    "gRPC and HTTP": (
        "  a: {http: [POST /p.S/M]}\n  b: {grpc: [p.S/M]}\n",
        ["0.yaml:4:14: a request for `POST /p.S/M` could also be action `a` (0.yaml:3)"],
    ),
    "gRPC under a pattern": (
        "  a: {grpc: [p.S/M]}\n  b: {http: ['POST /{service}/{method}', 'POST /**']}\n",
        [
            "0.yaml:4:14: a request for `POST /{service}/{method}` could also be action `a` (0.yaml:3) over gRPC",
            "0.yaml:4:42: a request for `POST /**` could also be action `a` (0.yaml:3) over gRPC",
        ],
    ),
    "gRPC and HTTP of one action": (
        "  a:\n    http: [POST /p.S/M]\n    grpc: [p.S/M]\n",
        ["0.yaml:5:12: a request for `POST /p.S/M` could also be action `a` (0.yaml:3)"],
    ),
    "one gRPC method twice": (
        "  a: {grpc: [p.S/M]}\n  b: {grpc: [p.S/N, p.S/M]}\n",
        ["0.yaml:4:21: a request for `POST /p.S/M` could also be action `a` (0.yaml:3) over gRPC"],
    ),
    "calls without endpoints": (
        "  a: {mcp: {tools: [x]}}\n  b: {a2a: [message/send]}\n",
        [
            '0.yaml:3:7: no mcp endpoint is declared: write where it is, such as `endpoints: {mcp: ["POST /mcp"]}`',
            '0.yaml:4:7: no a2a endpoint is declared: write where it is, such as `endpoints: {a2a: ["POST /a2a"]}`',
        ],
    ),
    "nothing to call": (
        "  a: {mcp: {}}\nendpoints: {mcp: [POST /mcp]}\n",
        ["0.yaml:3:3: no request can be action `a`: add `http` routes or `asserted: true`"],
    ),
    "an endpoint elsewhere": (
        "  a: {mcp: {tools: [x]}, resources: [database-agent]}\nendpoints: {mcp: [POST /mcp], resources: [retrieval-agent]}\n",
        [
            '0.yaml:3:7: no mcp endpoint is declared on its resources: write where it is, such as `endpoints: {mcp: ["POST /mcp"]}`'
        ],
    ),
    "an endpoint nowhere": (
        "  a: {mcp: {tools: [x]}}\nendpoints: {mcp: [POST /mcp], resources: [a b]}\n",
        [f"0.yaml:4:43: `a b` names no workload: {NO_SPIFFE_ID}"],
    ),
    "one tool twice": (
        "  a: {mcp: {tools: [x, w]}}\n  b: {mcp: {tools: [z, x]}}\nendpoints: {mcp: [POST /mcp]}\n",
        ["0.yaml:4:24: tool `x` could also be action `a` (0.yaml:3)"],
    ),
    "one method twice": (
        "  a: {mcp: {methods: [ping]}}\n  b: {mcp: {methods: [ping], responses: true}}\n  c: {mcp: {responses: true}}\nendpoints: {mcp: [POST /mcp]}\n",
        [
            "0.yaml:4:23: method `ping` could also be action `a` (0.yaml:3)",
            "0.yaml:5:24: a response could also be action `b` (0.yaml:4)",
        ],
    ),
    "one tool on other resources": (
        "  a: {mcp: {tools: [x]}, resources: [database-agent]}\n  b: {mcp: {tools: [x]}, resources: [retrieval-agent]}\nendpoints: {mcp: [POST /mcp]}\n",
        [],
    ),
    "one tool on a shared resource": (
        "  a: {mcp: {tools: [x]}, resources: [database-agent]}\n  b: {mcp: {tools: [x]}}\nendpoints: {mcp: [POST /mcp]}\n",
        ["0.yaml:4:21: tool `x` could also be action `a` (0.yaml:3)"],
    ),
    "every tool": (
        "  a: {mcp: {methods: [tools/call]}}\nendpoints: {mcp: [POST /mcp]}\n",
        ["0.yaml:3:23: `tools/call` is decided by its tool: name the tools in `tools`"],
    ),
    "one A2A method by two names": (
        "  a: {a2a: [message/send]}\n  b: {a2a: [SendMessage]}\nendpoints: {a2a: [POST /a2a]}\n",
        [
            "0.yaml:4:13: method `SendMessage` could also be action `a` (0.yaml:3)",
            "0.yaml:4:13: method `message/send` could also be action `a` (0.yaml:3)",
        ],
    ),
    "both names in one action": ("  a: {a2a: [message/send, SendMessage]}\nendpoints: {a2a: [POST /a2a]}\n", []),
    "an A2A method that there is not": (
        "  a: {a2a: [message/sent, x]}\nendpoints: {a2a: [POST /a2a]}\n",
        [
            "0.yaml:3:13: unknown A2A method `message/sent`: did you mean `message/send`?",
            "0.yaml:3:27: unknown A2A method `x`",
        ],
    ),
    "a route on an endpoint": (
        "  a: {http: [POST /mcp, GET /mcp]}\n  b: {http: ['POST /{x}/**']}\nendpoints: {mcp: [POST /mcp, POST /mcp/two]}\n",
        [
            "0.yaml:3:14: a request for `POST /mcp` could also be a call to the mcp endpoint (0.yaml:5)",
            "0.yaml:4:14: a request for `POST /{x}/**` could also be a call to the mcp endpoint (0.yaml:5)",
        ],
    ),
    "a route in the HTTP+JSON binding": (
        "  a: {http: ['GET /v1/tasks/{id}', GET /v1/other]}\nendpoints: {a2a: {http: [/v1]}}\n",
        ["0.yaml:3:14: a request for `GET /v1/tasks/{id}` could also be a call to the a2a endpoint (0.yaml:4)"],
    ),
    "two protocols on one path": (
        "  a: {asserted: true}\nendpoints: {mcp: [POST /rpc], a2a: [POST /rpc]}\n",
        ["0.yaml:4:37: a request for `POST /rpc` could also be a call to the mcp endpoint (0.yaml:4)"],
    ),
    "one endpoint twice": ("  a: {asserted: true}\nendpoints: {mcp: [POST /rpc, POST /rpc]}\n", []),
    "an endpoint that no request can have": (
        "  a: {asserted: true}\nendpoints: {mcp: [POST /a;b], a2a: {http: [/a//b, /v1?x=y]}}\n",
        [
            f"0.yaml:4:19: route `POST /a;b`: {AMBIGUOUS_PATH}",
            f"0.yaml:4:44: route `POST /a//b/message:send`: {AMBIGUOUS_PATH}",
            "0.yaml:4:51: route `POST /v1?x=y/message:send`: a route has no query",
        ],
    ),
    "same route on other resources": (
        "  a: {http: [GET /a], resources: [database-agent]}\n  b: {http: [GET /a], resources: [retrieval-agent]}\n",
        [],
    ),
}


@pytest.mark.parametrize(("actions", "problems"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_of_a_registry(tmp_path: Path, actions: str, problems: list[str]) -> None:
    """What no request could be, or two actions at once, is told with its place."""
    assert problems == compiled(tmp_path, f"kind: ActionRegistry\nactions:\n{actions}")[1]


def test_problems_across_documents(tmp_path: Path) -> None:
    """All documents make one registry: an action stands once, and routes of different files must not overlap."""
    first = "kind: ActionRegistry\nactions:\n  read: {http: [GET /a]}\n"
    second = "kind: ActionRegistry\nactions:\n  list: {http: ['GET /{x}']}\n  read:\n    asserted: true\n"
    assert [
        "1.yaml:3:17: a request for `GET /{x}` could also be action `read` (0.yaml:3)",
        "1.yaml:4:3: action `read` is registered twice, first in 0.yaml:3",
    ] == compiled(tmp_path, first, second)[1]


def test_endpoints_of_one_document_own_routes_of_another(tmp_path: Path) -> None:
    """An endpoint counts for all documents, also for those that are read before its own."""
    first = "kind: ActionRegistry\nactions:\n  a: {http: [POST /mcp]}\n  b: {mcp: {tools: [x]}}\n"
    second = "kind: ActionRegistry\nendpoints: {mcp: [POST /mcp]}\nactions:\n  c: {mcp: {tools: [w, x]}}\n"
    assert [
        "0.yaml:3:14: a request for `POST /mcp` could also be a call to the mcp endpoint (1.yaml:2)",
        "1.yaml:4:24: tool `x` could also be action `b` (0.yaml:4)",
    ] == compiled(tmp_path, first, second)[1]


BINDINGS = "kind: ActionRegistry\nendpoints: {a2a: {http: ['/{tenant}/a2a', /], grpc: true}}\nactions:\n"


@pytest.mark.parametrize("method", A2A_METHODS, ids=lambda method: method.rpc_names[0])
def test_every_a2a_method_in_every_binding(tmp_path: Path, method: A2aMethod) -> None:
    """One name in the registry covers both names, all routes below each base path, and both gRPC services."""
    others = [other.rpc_names[0] for other in A2A_METHODS if other is not method]
    text = f"  one: {{a2a: [{method.rpc_names[1]}]}}\n  others: {{a2a: [{', '.join(others)}]}}\n"
    registry, problems = compiled(tmp_path, BINDINGS + text)
    assert [] == problems
    for name in method.rpc_names:
        call = RpcCall(Protocol.A2A, method=name)
        assert "one" == registry.resolve(NOTHING, SEARCH, call).name
    for route in method.http:
        verb, path = route.replace("{id}", "7").replace("{config_id}", "8").split(" ")
        for base in ("", "/acme/a2a"):
            assert "one" == resolved(registry, (verb, base + path), SEARCH, None).name
    for service in ("lf.a2a.v1.A2AService", "a2a.v1.A2AService"):
        for name in method.grpc_names:
            request = NOTHING._replace(
                method="POST", path=f"/{service}/{name}", headers={"content-type": "application/grpc"}
            )
            found = registry.resolve(request, SEARCH)
            assert ("one", False) == (found.name, found.screens_body)


def test_grpc_is_not_screened_and_http_of_the_same_action_is(tmp_path: Path) -> None:
    """An action that is known by HTTP and gRPC screens the bodies of one and not of the other."""
    registry, problems = compiled(tmp_path, "kind: ActionRegistry\nactions:\n  a: {http: [POST /a], grpc: [p.S/M]}\n")
    assert [] == problems
    grpc = NOTHING._replace(method="POST", path="/p.S/M", headers={"content-type": "application/grpc"})
    assert [True, False] == [
        registry.resolve(request, SEARCH).screens_body for request in (NOTHING._replace(method="POST", path="/a"), grpc)
    ]
