"""Routes: every path of a virtual host, streams apart from calls."""

from datetime import timedelta

from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    Route,
    RouteAction,
    RouteActionMaxStreamDuration,
    RouteMatch,
)

from ext_authz.render import limits
from ext_authz.render.sidecar import Sidecar


def call_route(cluster: str, retry: RetryPolicy | None = None) -> Route:
    """Send every path to a cluster; the whole answer must come in time."""
    action = RouteAction(cluster=cluster, timeout=limits.ANSWER, retry_policy=retry)
    return Route(match=RouteMatch(prefix="/"), route=action)


def stream_routes(sidecar: Sidecar, cluster: str, retry: RetryPolicy | None = None) -> list[Route]:
    """Send the paths that stream to a cluster: they may last until the stream limit, as long as something moves.

    They come before `call_route`: the first match counts. `/a` matches `/a/b`, but not `/ab`.
    """
    return [
        Route(
            match=RouteMatch(path_separated_prefix=prefix),
            route=RouteAction(
                cluster=cluster,
                timeout=limits.NO_LIMIT,
                idle_timeout=limits.STREAM_IDLE,
                max_stream_duration=RouteActionMaxStreamDuration(max_stream_duration=sidecar.stream_limit),
                retry_policy=retry,
            ),
        )
        for prefix in sidecar.streams
    ]


def longest_request(sidecar: Sidecar) -> timedelta:
    """Say how long a request may take to arrive.

    Envoy has one such limit for all routes. Where some stream, the others are held to `limits.CALL` in all.
    """
    return sidecar.stream_limit if sidecar.streams else limits.REQUEST
