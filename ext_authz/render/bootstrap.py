"""What surrounds listeners and clusters: node, admin interface, overload manager."""

from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ext_authz.render import limits
from ext_authz.render.cluster import address_message
from ext_authz.render.extension import packed
from ext_authz.render.sidecar import Sidecar

# Only the user that runs Envoy may open its sockets.
PIPE_MODE = 0o600

# What probes, metrics and people read. The agent shares the machine with its sidecar: with /quitquitquit, /logging or
# /runtime_modify it could switch its guard off.
ADMIN_PATHS = (
    StringMatcher(exact="/ready"),
    StringMatcher(prefix="/stats"),
    StringMatcher(prefix="/config_dump"),
    StringMatcher(prefix="/certs"),
    StringMatcher(prefix="/clusters"),
    StringMatcher(prefix="/listeners"),
)

_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"

# Share of the heap -> what is given up then, the least harm first.
_OVERLOAD_ACTIONS = (
    (0.90, "envoy.overload_actions.shrink_heap"),
    (0.92, "envoy.overload_actions.disable_http_keepalive"),
    (0.95, "envoy.overload_actions.stop_accepting_requests"),
    (0.98, "envoy.overload_actions.stop_accepting_connections"),
)


def bootstrap(sidecar: Sidecar, listeners: list[Listener], clusters: list[Cluster]) -> Bootstrap:
    """Put a whole configuration together."""
    workload = sidecar.spiffe_id.path.removeprefix("/")
    return Bootstrap(
        node=Node(id=f"{workload}-{sidecar.role}", cluster=workload),
        admin=Admin(address=address_message(sidecar.admin, PIPE_MODE), allow_paths=list(ADMIN_PATHS)),
        overload_manager=_overload_manager(),
        static_resources=BootstrapStaticResources(listeners=listeners, clusters=clusters),
    )


def _overload_manager() -> OverloadManager:
    return OverloadManager(
        refresh_interval=timedelta(milliseconds=250),
        resource_monitors=[
            _monitor(_HEAP, FixedHeapConfig(max_heap_size_bytes=limits.MAX_HEAP_BYTES)),
            _monitor(
                _CONNECTIONS, DownstreamConnectionsConfig(max_active_downstream_connections=limits.MAX_CONNECTIONS)
            ),
        ],
        actions=[
            OverloadAction(name=action, triggers=[Trigger(name=_HEAP, threshold=ThresholdTrigger(value=share))])
            for share, action in _OVERLOAD_ACTIONS
        ],
    )


def _monitor(name: str, message: Message) -> ResourceMonitor:
    return ResourceMonitor(name=name, typed_config=packed(message))
