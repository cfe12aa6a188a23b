"""The methods of the A2A protocol, and how each looks in the three bindings.

One method is one thing to allow, however it comes. docs/mcp-and-a2a.md says which versions the names are from.
"""

from collections.abc import Mapping
from typing import NamedTuple

# The gRPC services of version 1.0 and of version 0.3.
_SERVICES = ("lf.a2a.v1.A2AService", "a2a.v1.A2AService")


class A2aMethod(NamedTuple):
    """One method, by all its names."""

    rpc_names: tuple[str, ...]  # JSON-RPC `method`; a policy may use any of them
    http: tuple[str, ...]  # METHOD /path below the base path of the HTTP+JSON binding
    grpc_names: tuple[str, ...]  # methods of the gRPC service

    @property
    def grpc(self) -> tuple[str, ...]:
        """Return `package.Service/Method` in every version."""
        return tuple(f"{service}/{name}" for service in _SERVICES for name in self.grpc_names)


_CONFIGS = "/tasks/{id}/pushNotificationConfigs"
A2A_METHODS = (
    A2aMethod(("SendMessage", "message/send"), ("POST /message:send",), ("SendMessage",)),
    A2aMethod(("SendStreamingMessage", "message/stream"), ("POST /message:stream",), ("SendStreamingMessage",)),
    A2aMethod(("GetTask", "tasks/get"), ("GET /tasks/{id}",), ("GetTask",)),
    A2aMethod(("ListTasks", "tasks/list"), ("GET /tasks",), ("ListTasks",)),
    A2aMethod(("CancelTask", "tasks/cancel"), ("POST /tasks/{id}:cancel",), ("CancelTask",)),
    A2aMethod(
        ("SubscribeToTask", "tasks/resubscribe"),
        ("GET /tasks/{id}:subscribe", "POST /tasks/{id}:subscribe"),
        ("SubscribeToTask", "TaskSubscription"),
    ),
    A2aMethod(
        ("CreateTaskPushNotificationConfig", "tasks/pushNotificationConfig/set"),
        (f"POST {_CONFIGS}",),
        ("CreateTaskPushNotificationConfig", "SetTaskPushNotificationConfig"),
    ),
    A2aMethod(
        ("GetTaskPushNotificationConfig", "tasks/pushNotificationConfig/get"),
        (f"GET {_CONFIGS}/{{config_id}}",),
        ("GetTaskPushNotificationConfig",),
    ),
    A2aMethod(
        ("ListTaskPushNotificationConfigs", "tasks/pushNotificationConfig/list"),
        (f"GET {_CONFIGS}",),
        ("ListTaskPushNotificationConfigs", "ListTaskPushNotificationConfig"),
    ),
    A2aMethod(
        ("DeleteTaskPushNotificationConfig", "tasks/pushNotificationConfig/delete"),
        (f"DELETE {_CONFIGS}/{{config_id}}",),
        ("DeleteTaskPushNotificationConfig",),
    ),
    A2aMethod(
        ("GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"),
        ("GET /extendedAgentCard", "GET /card"),
        ("GetExtendedAgentCard", "GetAgentCard"),
    ),
)
# By each name that a policy may use.
A2A_METHOD_BY_NAME: Mapping[str, A2aMethod] = {name: method for method in A2A_METHODS for name in method.rpc_names}
