"""What a request of an action looks like, for authors who name the action alone."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ext_authz.action.jsonrpc import TOOLS_CALL
from ext_authz.attributes.request import AGENT_ACTION, CONTENT_TYPE
from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionEntry, ActionRegistry, Endpoints

# What stands in a route for `{name}` and for `**`.
_PARAMETER_VALUE = "1"
_PATTERN = re.compile(r"\{[a-z][a-z0-9_]*\}|\*\*")


class Asked(NamedTuple):
    """The parts of a request that make it some action."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: object = None  # None: what the action is does not depend on it


def requests_of(action: str, documents: PolicyDocuments) -> Iterator[Asked]:
    """Yield requests that are `action` by a route, by the body of a JSON-RPC call, or by assertion, in this order."""
    registries = [source.model for source in documents.of(ActionRegistry)]
    endpoints = [registry.endpoints for registry in registries if registry.endpoints is not None]
    for registry in registries:
        entry = registry.actions.get(action)
        if entry is not None:
            yield from _by_route(entry)
            yield from _by_call(entry, endpoints)
            if entry.asserted:
                yield Asked("POST", "/", {AGENT_ACTION: action})


def _by_route(entry: ActionEntry) -> Iterator[Asked]:
    for route in entry.http:
        yield Asked(*_filled(route))
    for method in entry.grpc:
        yield Asked("POST", f"/{method}", {CONTENT_TYPE: "application/grpc"})


def _by_call(entry: ActionEntry, endpoints: list[Endpoints]) -> Iterator[Asked]:
    mcp = [route for each in endpoints for route in each.mcp]
    a2a = [route for each in endpoints for route in each.a2a.jsonrpc]
    for route in mcp if entry.mcp is not None else ():
        for tool in entry.mcp.tools if entry.mcp else ():
            yield Asked(*_filled(route), {}, _message(TOOLS_CALL, {"name": tool, "arguments": {}}))
        for method in entry.mcp.methods if entry.mcp else ():
            yield Asked(*_filled(route), {}, _message(method, {}))
    for route in a2a:
        for method in entry.a2a:
            yield Asked(*_filled(route), {}, _message(method, {}))


def _message(method: str, params: Mapping[str, object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _filled(route: str) -> tuple[str, str]:
    """Return method and path of a route, with a value for each of its patterns."""
    method, _, path = route.partition(" ")
    return method, _PATTERN.sub(_PARAMETER_VALUE, path)
