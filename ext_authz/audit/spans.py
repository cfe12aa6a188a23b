"""Records as OpenTelemetry spans, exported over OTLP.

1. A span continues the caller's trace, but the caller's sampling flag is not obeyed: nobody may hide by clearing it.
2. A batch counts as written when the collector took it; until then it is tried again, and nothing is dropped.
"""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanKind, Status, StatusCode, set_span_in_context

from ext_authz.audit.event import Entry, Event, Severity
from ext_authz.audit.record import SPAN_NAME, AuditRecord
from ext_authz.audit.trace import remote_parent
from ext_authz.errors import Outcome

# A record is bounded already; limits for the spans of an application would drop attributes of it.
_NO_LIMITS = SpanLimits(
    max_attributes=SpanLimits.UNSET,
    max_span_attributes=SpanLimits.UNSET,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)


class ExportError(Exception):
    """The collector did not take a batch."""


class SpanSink:
    """Makes a span of each record and hands batches to an exporter."""

    def __init__(self, exporter: SpanExporter, service_name: str = "ext_authz") -> None:
        self._exporter = exporter
        self._finished = _Finished()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": service_name}),
            span_limits=_NO_LIMITS,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._finished)
        self._tracer = provider.get_tracer("ext_authz.audit")

    def write(self, records: Sequence[Entry]) -> None:
        """Export all records or raise ExportError; call again with the same ones after an error."""
        if not self._finished.spans:
            for record in records:
                self._make_event(record) if isinstance(record, Event) else self._make_span(record)
        if len(self._finished.spans) != len(records):
            self._finished.spans.clear()
            raise ExportError("the OpenTelemetry SDK did not make a span of each record")
        if self._exporter.export(self._finished.spans) is not SpanExportResult.SUCCESS:
            raise ExportError("the collector did not take the audit spans")
        self._finished.spans.clear()

    def close(self) -> None:
        """Release the exporter."""
        self._exporter.shutdown()

    def _make_span(self, record: AuditRecord) -> None:
        parent = remote_parent(record.traceparent)
        end_ns = round(record.decided_at * 1e9) + record.elapsed_ns
        span = self._tracer.start_span(
            SPAN_NAME,
            context=set_span_in_context(NonRecordingSpan(parent)) if parent else None,
            kind=SpanKind.SERVER,
            attributes=record.attributes(),
            start_time=end_ns - record.elapsed_ns,
        )
        if record.reason.meaning.outcome is Outcome.ERROR:
            span.set_status(Status(StatusCode.ERROR, record.reason.value))
        span.end(end_ns)

    def _make_event(self, event: Event) -> None:
        """Make a span without length: the exporter of spans is the only one there is."""
        at_ns = round(event.at * 1e9)
        span = self._tracer.start_span(event.name.value, attributes=event.attributes(), start_time=at_ns)
        if event.severity is Severity.ERROR:
            span.set_status(Status(StatusCode.ERROR, event.name.value))
        span.end(at_ns)


def otlp_sink() -> SpanSink:
    """Return a sink that exports over OTLP/gRPC, configured by the standard OTEL_EXPORTER_OTLP_* variables."""
    return SpanSink(OTLPSpanExporter())


class _Finished(SpanProcessor):
    """Keeps ended spans until the sink exports them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)
