"""The canonical action registry: what is not registered is not allowed, whatever the matrix says.

1. An action is what the request is: its method and path decide.
2. What the caller asserts counts only where no route fits and the action's entry says `asserted: true`.
3. When both exist they must agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.action.routes import RouteError, RouteTable
from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import AccessTokenMode, ActionEntry, ActionRegistry
from ext_authz.documents.reader import quoted
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError


@dataclass(frozen=True, slots=True)
class Action:
    """A registered action."""

    name: str
    asserted: bool
    resources: frozenset[SpiffeId] | None  # None: every resource
    screens_body: bool
    scope: str  # needed in a delegation chain, and in an access token
    access_token: AccessTokenMode | None = None  # unless a cell says otherwise; None: not looked at


@dataclass(frozen=True, slots=True)
class Registry:
    """All registered actions of a policy."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    routes: RouteTable[Action] = field(default_factory=RouteTable)

    def resolve(self, method: str, path: str, resource: SpiffeId, asserted: str | None) -> Action:
        """Return the action that a request is. `asserted` is the value of x-agent-action. Raises Refusal."""
        routed = self.routes.find(method, path, resource)
        if routed is None:
            return self._asserted(asserted, resource)
        if asserted is not None and asserted != routed.name:
            raise Refusal(Reason.ACTION_MISMATCH, f"the request is `{routed.name}`, x-agent-action says otherwise")
        return routed

    def _asserted(self, name: str | None, resource: SpiffeId) -> Action:
        if name is None:
            raise Refusal(Reason.ACTION_UNREGISTERED)
        action = self.actions.get(name)
        if action is None:
            raise Refusal(Reason.ACTION_UNREGISTERED, "x-agent-action names no registered action")
        if not action.asserted:
            raise Refusal(Reason.ACTION_UNREGISTERED, f"`{name}` is known by its route and cannot be asserted")
        if action.resources is not None and resource not in action.resources:
            raise Refusal(Reason.ACTION_UNREGISTERED, f"`{name}` is not registered for this resource")
        return action


def compile_registry(documents: PolicyDocuments, names: Names, problems: list[str]) -> Registry:
    """Compile every ActionRegistry document into one registry; add what is wrong to `problems`."""
    compiler = _Compiler(names, problems)
    for source in documents.of(ActionRegistry):
        for name, entry in source.model.actions.items():
            compiler.add(source, name, entry)
    return Registry(compiler.actions, compiler.routes)


class _Compiler:
    def __init__(self, names: Names, problems: list[str]) -> None:
        self.actions: dict[str, Action] = {}
        self.routes: RouteTable[Action] = RouteTable()
        self._names = names
        self._problems = problems
        self._lines: dict[str, str] = {}  # where each action was written first

    def add(self, source: Source[ActionRegistry], name: str, entry: ActionEntry) -> None:
        here = source.locate_key("actions", name)
        if name in self.actions:
            self._problems.append(f"{here}: action {quoted(name)} is registered twice, first in {self._lines[name]}")
            return
        if not entry.http and not entry.asserted:
            self._problems.append(
                f"{here}: no request can be action {quoted(name)}: add `http` routes or `asserted: true`"
            )
        self._lines[name] = source.line("actions", name)
        action = Action(
            name=name,
            asserted=entry.asserted,
            resources=self._resources(source, name, entry),
            screens_body=entry.screen == "body",
            scope=entry.scope or name,
            access_token=entry.access_token,
        )
        self.actions[name] = action
        for index, route in enumerate(entry.http):
            self._add_route(source.locate("actions", name, "http", index), route, action)

    def _resources(self, source: Source[ActionRegistry], name: str, entry: ActionEntry) -> frozenset[SpiffeId] | None:
        if entry.resources is None:
            return None
        resources = set()
        for index, resource in enumerate(entry.resources):
            try:
                resources.add(self._names.resolve(resource))
            except SpiffeIdError as error:
                here = source.locate("actions", name, "resources", index)
                self._problems.append(f"{here}: {quoted(resource)} names no workload: {error}")
        return frozenset(resources)

    def _add_route(self, here: str, route: str, action: Action) -> None:
        try:
            rivals = self.routes.add(route, action.resources, action)
        except RouteError as error:
            self._problems.append(f"{here}: route {quoted(route)}: {error}")
            return
        self._problems.extend(
            f"{here}: a request for {quoted(route)} could also be action {quoted(rival.name)} ({self._lines[rival.name]})"
            for rival in rivals
            if rival is not action
        )
