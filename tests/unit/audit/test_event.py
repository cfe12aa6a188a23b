"""Events: logged, written where records are written, and never in the way."""

import json
import logging
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from unit.audit.records import record_of

from ext_authz.audit.event import Announcer, Event, EventType, Severity
from ext_authz.audit.jsonlines import JsonLinesSink
from ext_authz.audit.spans import SpanSink
from ext_authz.audit.writer import AuditWriter

FAILED = Event(
    EventType.POLICY_RELOAD_FAILED,
    Severity.ERROR,
    1_795_299_009.0,
    {"problem_count": 1, "problems": ("a:1:1: b",), "x": ""},
)
ATTRIBUTES = {
    "ext_authz.event": "policy_reload_failed",
    "ext_authz.severity": "error",
    "ext_authz.problem_count": 1,
    "ext_authz.problems": ["a:1:1: b"],
}


def test_event_as_a_line(tmp_path: Path) -> None:
    """An event is a line of its own among records, in order."""
    path = tmp_path / "audit.jsonl"
    audit = AuditWriter([JsonLinesSink.to_file(path)])
    assert [True] * 3 == [audit.offer(entry) for entry in (record_of(), FAILED, record_of())]
    assert 0 == audit.close(5)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["a2a.policy.decision", "policy_reload_failed", "a2a.policy.decision"] == [line["name"] for line in lines]
    assert {
        "time": "2026-11-21T22:10:09.000000+00:00",
        "name": "policy_reload_failed",
        "attributes": ATTRIBUTES,
    } == lines[1]


def test_event_as_a_span() -> None:
    """An event is a span without length; one that is an error says so."""
    exporter = InMemorySpanExporter()
    sink = SpanSink(exporter)
    sink.write([record_of(), FAILED, FAILED._replace(severity=Severity.WARNING)])
    _, span, warning = exporter.get_finished_spans()
    assert ("policy_reload_failed", span.start_time) == (span.name, span.end_time)
    assert ATTRIBUTES | {"ext_authz.problems": ("a:1:1: b",)} == dict(span.attributes or {})
    assert [StatusCode.ERROR, StatusCode.UNSET] == [each.status.status_code for each in (span, warning)]
    sink.close()


def test_announce(caplog: pytest.LogCaptureFixture) -> None:
    """What is announced is offered with the time, and logged with its details at its severity."""
    offered: list[Event] = []

    def offer(event: Event) -> bool:
        offered.append(event)
        return True

    announcer = Announcer(offer, clock=lambda: 7.0)
    announcer.announce(EventType.POLICY_RELOAD_FAILED, Severity.WARNING, {"problem_count": 2})
    assert [Event(EventType.POLICY_RELOAD_FAILED, Severity.WARNING, 7.0, {"problem_count": 2})] == offered
    [line] = caplog.records
    assert (logging.WARNING, 'event policy_reload_failed: {"problem_count": 2}') == (line.levelno, line.getMessage())


def _fail(_: Event) -> bool:
    raise MemoryError("c4n4ry")


@pytest.mark.parametrize(("offer", "why"), [(lambda _: False, "no room"), (_fail, "MemoryError")])
def test_event_that_cannot_be_written(offer: object, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """It stops nothing, and the log says so."""
    Announcer(offer).announce(EventType.POLICY_RELOAD_FAILED, Severity.ERROR, {})  # type: ignore[arg-type]
    assert f"event policy_reload_failed could not be written: {why}" == caplog.messages[-1]
