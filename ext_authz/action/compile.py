"""ActionRegistry documents to one registry: once at load, with every problem at once.

1. Endpoints come first, so that every route is compared with them, whichever document they stand in.
2. Two actions that could be the same request are a problem, however they are recognised: HTTP, gRPC or JSON-RPC.
3. What nothing can ever be is a problem: an action without a way to it, a call without an endpoint.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ext_authz.action.a2a import A2A_METHOD_BY_NAME, A2A_METHODS
from ext_authz.action.by_resource import ByResource, Resources, share
from ext_authz.action.jsonrpc import TOOLS_CALL, Protocol
from ext_authz.action.registry import Action, CallKey, Registry, Route
from ext_authz.action.routes import RouteError, RouteTable
from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import ActionEntry, ActionRegistry
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeIdError

_EXAMPLES = {Protocol.MCP: '{mcp: ["POST /mcp"]}', Protocol.A2A: '{a2a: ["POST /a2a"]}'}


def compile_registry(documents: PolicyDocuments, names: Names, problems: list[str]) -> Registry:
    """Compile every ActionRegistry document into one registry; add what is wrong to `problems`."""
    compiler = _Compiler(names, problems)
    sources = documents.of(ActionRegistry)
    for source in sources:
        compiler.add_endpoints(source)
    for source in sources:
        if not (source.model.actions or source.model.presets or source.model.endpoints):
            problems.append(f"{source.locate()}: nothing is registered here: write `actions`, `presets` or `endpoints`")
        for name, entry in source.model.actions.items():
            compiler.add(_Entry(source, name, entry))
    return compiler.registry()


class _Entry(NamedTuple):
    """An entry and where it stands."""

    source: Source[ActionRegistry]
    name: str
    model: ActionEntry

    def locate(self, *steps: str | int) -> str:
        return self.source.locate("actions", self.name, *steps)

    @property
    def here(self) -> str:
        return self.source.locate_key("actions", self.name)

    @property
    def line(self) -> str:
        return self.source.line("actions", self.name)


class _Compiler:
    def __init__(self, names: Names, problems: list[str]) -> None:
        self._actions: dict[str, Action] = {}
        self._lines: dict[str, str] = {}  # where each action was written first
        self._routes: RouteTable[Route] = RouteTable()
        self._calls: dict[CallKey, ByResource[Action]] = {}
        self._spoken: dict[Protocol, list[Resources]] = {protocol: [] for protocol in Protocol}
        self._incomplete: set[tuple[str, Protocol]] = set()  # presets without their endpoint, told once
        self._names = names
        self._problems = problems

    def registry(self) -> Registry:
        return Registry(self._actions, self._routes, self._calls, any(self._spoken.values()))

    def add_endpoints(self, source: Source[ActionRegistry]) -> None:
        """Add the endpoints of a document; each owns its paths, also those of methods that are no action."""
        endpoints = source.model.endpoints
        if endpoints is None:
            return
        resources = self._resources(source, endpoints.resources, "endpoints", "resources")
        for index, route in enumerate(endpoints.mcp):
            self._add_endpoint(source, ("mcp", index), (route, resources), Route(protocol=Protocol.MCP))
        for index, route in enumerate(endpoints.a2a.jsonrpc):
            steps = _steps_of_route(source, index)
            self._add_endpoint(source, steps, (route, resources), Route(protocol=Protocol.A2A))
        for index, base in enumerate(endpoints.a2a.http):
            for name, route in _http_binding(base):
                target = Route(call=CallKey(Protocol.A2A, name))
                if not self._add_endpoint(source, ("a2a", "http", index), (route, resources), target):
                    break  # what is wrong with one path is wrong with the base path of all
        if endpoints.a2a.grpc:
            for name, route in _grpc_binding():
                target = Route(call=CallKey(Protocol.A2A, name), is_grpc=True)
                self._add_endpoint(source, ("a2a", "grpc"), (route, resources), target)

    def _add_endpoint(
        self, source: Source[ActionRegistry], steps: tuple[str | int, ...], where: tuple[str, Resources], route: Route
    ) -> bool:
        """Add one route of an endpoint; say whether it is one."""
        protocol = route.protocol or Protocol.A2A
        place = ("endpoints", *steps)
        text = f"a call to the {protocol} endpoint ({source.line(*place)})"
        self._spoken[protocol].append(where[1])
        return self._add_route(source.locate(*place), where, route._replace(text=text))

    def add(self, entry: _Entry) -> None:
        """Add an action with every way in which it is recognised."""
        name, model = entry.name, entry.model
        if name in self._actions:
            self._problems.append(
                f"{entry.here}: action {quoted(name)} is registered twice, first in {self._lines[name]}"
            )
            return
        has_calls = model.mcp is not None and (model.mcp.tools or model.mcp.methods or model.mcp.responses)
        if not (model.http or model.grpc or model.a2a or has_calls or model.asserted):
            self._problems.append(
                f"{entry.here}: no request can be action {quoted(name)}: add `http` routes or `asserted: true`"
            )
        self._lines[name] = entry.line
        resources = self._resources(entry.source, model.resources, "actions", name, "resources")
        action = Action(
            name=name,
            asserted=model.asserted,
            resources=resources,
            screens_body=model.screen == "body",
            scope=model.scope or name,
            access_token=model.access_token,
        )
        self._actions[name] = action
        for index, route in enumerate(model.http):
            self._add_route(entry.locate("http", index), (route, resources), Route(action, text=self._text(action)))
        for index, method in enumerate(model.grpc):
            target = Route(action, is_grpc=True, text=f"{self._text(action)} over gRPC")
            self._add_route(entry.locate("grpc", index), (f"POST /{method}", resources), target)
        self._add_mcp(entry, action)
        self._add_a2a(entry, action)

    def _resources(self, source: Source[ActionRegistry], names: Iterable[str] | None, *steps: str) -> Resources:
        if names is None:
            return None
        resources = set()
        for index, name in enumerate(names):
            try:
                resources.add(self._names.resolve(name))
            except SpiffeIdError as error:
                self._problems.append(f"{source.locate(*steps, index)}: {quoted(name)} names no workload: {error}")
        return frozenset(resources)

    def _text(self, action: Action) -> str:
        return f"action {quoted(action.name)} ({self._lines[action.name]})"

    def _add_route(self, here: str, where: tuple[str, Resources], target: Route) -> bool:
        """Add a route, say what else its requests could be, and return whether it is one."""
        try:
            rivals = self._routes.add(*where, target)
        except RouteError as error:
            self._problems.append(f"{here}: route {quoted(where[0])}: {error}")
            return False
        others = [rival.text for rival in rivals if rival._replace(text="") != target._replace(text="")]
        for text in dict.fromkeys(others):
            self._problems.append(f"{here}: a request for {quoted(where[0])} could also be {text}")
        return True

    def _add_mcp(self, entry: _Entry, action: Action) -> None:
        mcp = entry.model.mcp
        if mcp is None or not self._check_spoken(entry, Protocol.MCP, action.resources):
            return
        for index, tool in enumerate(mcp.tools):
            self._add_call(entry.locate("mcp", "tools", index), CallKey(Protocol.MCP, TOOLS_CALL, tool), action)
        for index, method in enumerate(mcp.methods):
            here = entry.locate("mcp", "methods", index)
            if method == TOOLS_CALL:
                self._problems.append(f"{here}: {quoted(method)} is decided by its tool: name the tools in `tools`")
                continue
            self._add_call(here, CallKey(Protocol.MCP, method), action)
        if mcp.responses:
            self._add_call(entry.locate("mcp", "responses"), CallKey(Protocol.MCP, ""), action)

    def _add_a2a(self, entry: _Entry, action: Action) -> None:
        if not entry.model.a2a or not self._check_spoken(entry, Protocol.A2A, action.resources):
            return
        for index, name in enumerate(entry.model.a2a):
            here = entry.locate("a2a", index)
            method = A2A_METHOD_BY_NAME.get(name)
            if method is None:
                known = suggestion(name, A2A_METHOD_BY_NAME)
                self._problems.append(f"{here}: unknown A2A method {quoted(name)}{known}")
                continue
            for rpc_name in method.rpc_names:
                self._add_call(here, CallKey(Protocol.A2A, rpc_name), action)

    def _check_spoken(self, entry: _Entry, protocol: Protocol, resources: Resources) -> bool:
        """Whether some endpoint of the protocol is where the action is; a problem where none is."""
        if any(share(resources, spoken) for spoken in self._spoken[protocol]):
            return True
        if entry.source.is_preset and (entry.source.path, protocol) in self._incomplete:
            return False
        self._incomplete.add((entry.source.path, protocol))
        here = entry.source.locate_key("actions", entry.name, protocol.value)
        where = " on its resources" if self._spoken[protocol] else ""
        self._problems.append(
            f"{here}: no {protocol} endpoint is declared{where}: write where it is, such as `endpoints: {_EXAMPLES[protocol]}`"
        )
        return False

    def _add_call(self, here: str, key: CallKey, action: Action) -> None:
        actions = self._calls.setdefault(key, ByResource())
        rivals = {rival.name for rival in actions.sharing(action.resources)} - {action.name}
        actions.add(action.resources, action)
        what = (
            f"tool {quoted(key.tool)}" if key.tool else f"method {quoted(key.method)}" if key.method else "a response"
        )
        for rival in sorted(rivals):
            self._problems.append(f"{here}: {what} could also be action {quoted(rival)} ({self._lines[rival]})")


def _steps_of_route(source: Source[ActionRegistry], index: int) -> tuple[str | int, ...]:
    """Return the steps to a route of the JSON-RPC binding of A2A, in the short form or the long one."""
    short, long = ("a2a", index), ("a2a", "jsonrpc", index)
    is_long = source.places.find(("endpoints", *long)) > source.places.find(("endpoints", *short))
    return long if is_long else short


def _http_binding(base: str) -> Iterator[tuple[str, str]]:
    """Yield name and route of every A2A method in the HTTP+JSON binding."""
    for method in A2A_METHODS:
        for route in method.http:
            verb, path = route.split(" ")
            yield method.rpc_names[0], f"{verb} {base.rstrip('/')}{path}"


def _grpc_binding() -> Iterator[tuple[str, str]]:
    """Yield name and route of every A2A method in the gRPC binding."""
    for method in A2A_METHODS:
        for name in method.grpc:
            yield method.rpc_names[0], f"POST /{name}"
