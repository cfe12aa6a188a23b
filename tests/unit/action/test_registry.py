"""Which action a request is, and what can be wrong with the registration of actions."""

from pathlib import Path

import pytest
from support.check_requests import agent

from ext_authz.action.registry import Registry, compile_registry
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
    assert name == registry.resolve(method, path, resource, asserted).name


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
        registry.resolve(method, path, resource, asserted)
    assert (reason, detail) == (caught.value.reason, caught.value.detail)


def test_empty_registry_knows_nothing() -> None:
    """Without registered actions no request is one."""
    with pytest.raises(Refusal) as caught:
        Registry().resolve("GET", "/", SEARCH, "read")
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
