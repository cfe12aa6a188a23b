"""The canonical action registry: what is not registered is not allowed, whatever the matrix says.

1. An action is what the request is: its method and path decide, and on a JSON-RPC endpoint its body.
2. What the caller asserts counts only where no route fits and the action's entry says `asserted: true`.
3. When both exist they must agree.
4. A path that belongs to a gRPC method or to an endpoint belongs to nothing else, whatever the content type says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ext_authz.action.by_resource import ByResource, Resources
from ext_authz.action.jsonrpc import Protocol, RpcCall
from ext_authz.action.routes import RouteTable
from ext_authz.attributes.media_type import is_grpc
from ext_authz.attributes.request import AGENT_ACTION, Attributes
from ext_authz.documents.models import AccessTokenMode
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True)
class Action:
    """A registered action."""

    name: str
    asserted: bool
    resources: Resources
    screens_body: bool
    scope: str  # needed in a delegation chain, and in an access token
    access_token: AccessTokenMode | None = None  # unless a cell says otherwise; None: not looked at


class CallKey(NamedTuple):
    """A method of MCP or A2A: what decides the action of a call to an endpoint."""

    protocol: Protocol
    method: str  # empty: a response
    tool: str = ""


class Route(NamedTuple):
    """What a request with a certain method and path is: exactly one of the first three is there."""

    action: Action | None = None
    call: CallKey | None = None  # a method of A2A, over HTTP+JSON or gRPC
    protocol: Protocol | None = None  # a JSON-RPC call, whose body says which method it is
    is_grpc: bool = False
    text: str = ""  # for errors of policy authors


@dataclass(frozen=True, slots=True)
class Registry:
    """All registered actions of a policy."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    routes: RouteTable[Route] = field(default_factory=RouteTable)
    calls: Mapping[CallKey, ByResource[Action]] = field(default_factory=dict)
    has_endpoints: bool = False

    def endpoint(self, attributes: Attributes, resource: SpiffeId) -> RpcCall | None:
        """Return the call that a request to a JSON-RPC endpoint is, with its body still unread; None for any other."""
        if not self.has_endpoints:
            return None
        route = self.routes.find(attributes.method, attributes.path, resource)
        return None if route is None or route.protocol is None else RpcCall(route.protocol)

    def resolve(self, attributes: Attributes, resource: SpiffeId, rpc: RpcCall | None = None) -> Action:
        """Return the action that a request is; `rpc` is what its body says, on a JSON-RPC endpoint. Raises Refusal."""
        asserted = attributes.headers.get(AGENT_ACTION)
        if rpc is not None:
            action = self._called(CallKey(rpc.protocol, rpc.method, rpc.tool), resource)
        else:
            route = self.routes.find(attributes.method, attributes.path, resource)
            if route is None:
                return self._asserted(asserted, resource)
            action = self._routed(route, attributes, resource)
        if asserted is not None and asserted != action.name:
            raise Refusal(Reason.ACTION_MISMATCH, f"the request is `{action.name}`, x-agent-action says otherwise")
        return action

    def _routed(self, route: Route, attributes: Attributes, resource: SpiffeId) -> Action:
        if route.is_grpc and not is_grpc(attributes.headers):
            raise Refusal(Reason.ACTION_UNREGISTERED, "the path is that of a gRPC method, the content type is not")
        if route.action is not None:
            action = route.action
        elif route.call is not None:
            action = self._called(route.call, resource)
        else:
            raise ValueError("a JSON-RPC call was not read")
        # A gRPC message is binary and may be one of a stream: there is no body to screen.
        return replace(action, screens_body=False) if route.is_grpc and action.screens_body else action

    def _called(self, key: CallKey, resource: SpiffeId) -> Action:
        actions = self.calls.get(key)
        action = None if actions is None else actions.find(resource)
        if action is None:
            what = "tool" if key.tool else "method"
            raise Refusal(Reason.ACTION_UNREGISTERED, f"the {what} that is called is no registered action here")
        return action

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
