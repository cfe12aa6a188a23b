"""The trace that a record belongs to: the caller's, when it sent a valid one."""

from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ext_authz.attributes.request import TRACEPARENT

_PROPAGATOR = TraceContextTextMapPropagator()


def remote_parent(traceparent: str) -> SpanContext | None:
    """Read a W3C traceparent header; None when it is absent or malformed."""
    if not traceparent:
        return None
    context = get_current_span(_PROPAGATOR.extract({TRACEPARENT: traceparent})).get_span_context()
    return context if context.is_valid else None
