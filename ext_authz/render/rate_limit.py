"""The local rate limit: one bucket for each caller and one for all, before anything expensive is done."""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import RuntimeFractionalPercent
from envoy_data_plane.envoy.config.route.v3 import RateLimit, RateLimitAction
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import (
    LocalRateLimitDescriptor,
    RateLimitDescriptorEntry,
    XRateLimitHeadersRfcVersion,
)
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.rate_limit_descriptors.expr.v3 import Descriptor
from envoy_data_plane.envoy.type.v3 import FractionalPercent, HttpStatus, StatusCode, TokenBucket

from ext_authz.render import limits
from ext_authz.render.extension import extension, http_filter

# CEL over the certificate that Envoy verified: no header can move a call to another caller's bucket.
CALLER = "connection.uri_san_peer_certificate"


def rate_limit_filter(caller_rate: int) -> HttpFilter:
    """Answer 429 to a caller with more than `caller_rate` calls in a second."""
    # The generated module imports protobuf's own Descriptor too, and type checkers take this class for that one.
    caller = Descriptor(descriptor_key="caller", text=CALLER)  # type: ignore[call-arg]
    action = RateLimitAction(extension=extension("envoy.rate_limit_descriptors.expr", caller))  # type: ignore[arg-type]
    # Without a value in its entry, a descriptor gets a bucket of its own for each value that comes.
    each_caller = LocalRateLimitDescriptor(
        entries=[RateLimitDescriptorEntry(key="caller")], token_bucket=_calls_a_second(caller_rate)
    )
    return http_filter(
        "envoy.filters.http.local_ratelimit",
        LocalRateLimit(
            stat_prefix="inbound",
            status=HttpStatus(code=StatusCode.TooManyRequests),
            token_bucket=_calls_a_second(caller_rate * limits.CALLERS_AT_FULL_RATE),
            filter_enabled=_always(),
            filter_enforced=_always(),
            enable_x_ratelimit_headers=XRateLimitHeadersRfcVersion.DRAFT_VERSION_03,
            max_dynamic_descriptors=limits.MAX_RATE_LIMITED_CALLERS,
            rate_limits=[RateLimit(actions=[action])],
            descriptors=[each_caller],
        ),
    )


def _calls_a_second(count: int) -> TokenBucket:
    return TokenBucket(max_tokens=count, tokens_per_fill=count, fill_interval=timedelta(seconds=1))


def _always() -> RuntimeFractionalPercent:
    return RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100))
