"""The thread that writes records, and the bounded queue in front of it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from unit.audit.records import numbered, record_of

from ext_authz.audit import writer
from ext_authz.audit.event import Entry
from ext_authz.audit.record import AuditRecord
from ext_authz.audit.writer import MAX_BATCH, AuditWriter

# Long enough for a thread of a busy machine, short enough for a test that fails.
WAIT_SECONDS = 5.0


class _Sink:
    """A sink that keeps what it was given, after it failed as often as it was told to, while it is open."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[str]] = []
        self.failures = failures
        self.closed = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def write(self, records: Sequence[Entry]) -> None:
        assert self.open.wait(WAIT_SECONDS)
        if self.failures:
            self.failures -= 1
            raise OSError("canary")
        self.batches.append([record.decision_id for record in records if isinstance(record, AuditRecord)])

    def close(self) -> None:
        self.closed.set()

    @property
    def ids(self) -> list[str]:
        return [decision_id for batch in self.batches for decision_id in batch]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_records_are_written_in_order() -> None:
    """Every record that was taken reaches every sink once, in order."""
    sinks, records = [_Sink(), _Sink()], numbered(3)
    audit = AuditWriter(sinks)
    assert [True] * 3 == [audit.offer(record) for record in records]
    _until(lambda: audit.waiting == 0)
    assert 0 == audit.close(WAIT_SECONDS)
    for sink in sinks:
        assert [record.decision_id for record in records] == sink.ids
        assert sink.closed.is_set()


def test_close_writes_everything() -> None:
    """What waits when the end comes is written first, in batches of a bounded size."""
    sink, record = _Sink(), record_of()
    sink.open.clear()
    audit = AuditWriter([sink])
    records = [record._replace(decision_id=str(number)) for number in range(2 * MAX_BATCH + 10)]
    assert {True} == set(map(audit.offer, records))
    sink.open.set()
    assert 0 == audit.close(WAIT_SECONDS)
    assert [one.decision_id for one in records] == sink.ids
    assert max(map(len, sink.batches)) <= MAX_BATCH


def test_full_queue_takes_nothing() -> None:
    """A full queue refuses at once; it takes records again when there is room."""
    sink, records = _Sink(), numbered(4)
    sink.open.clear()
    audit = AuditWriter([sink], max_waiting=2)
    assert [True, True, False, False] == [audit.offer(record) for record in records]
    assert (2, 2) == (audit.waiting, audit.refused)
    sink.open.set()
    _until(lambda: audit.waiting == 0)
    assert audit.offer(records[3])
    assert 0 == audit.close(WAIT_SECONDS)
    assert [records[index].decision_id for index in (0, 1, 3)] == sink.ids


def test_failing_sink_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that fails gets the same records again; nothing is lost, and the log says it once, without values."""
    broken, sound, records = _Sink(failures=3), _Sink(), numbered(3)
    with caplog.at_level(logging.WARNING):
        audit = AuditWriter([broken, sound])
        for record in records:
            audit.offer(record)
        assert 0 == audit.close(WAIT_SECONDS)
    for sink in (broken, sound):
        assert [record.decision_id for record in records] == sink.ids
    assert 2 == len(caplog.records)
    assert "OSError" in caplog.text
    assert "canary" not in caplog.text


def test_records_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that stays broken fills the queue; at the end the number of lost records is returned and logged."""
    sink = _Sink(failures=1_000_000)
    audit = AuditWriter([sink], max_waiting=2)
    assert [True, True, False] == [audit.offer(record) for record in numbered(3)]
    assert 2 == audit.close(0.1)
    assert "2 audit records could not be written" in caplog.text
    sink.failures = 0  # lets the thread end
    assert sink.closed.wait(WAIT_SECONDS)


def test_closed_writer_takes_nothing() -> None:
    """After the end nothing is taken, so nothing is allowed."""
    sink = _Sink()
    audit = AuditWriter([sink])
    audit.close(WAIT_SECONDS)
    assert not audit.offer(record_of())
    assert [] == sink.ids


def test_sink_that_hangs_does_not_hold_up_the_others() -> None:
    """Each sink has its queue and its thread; when one queue is full nothing more is taken for any."""
    hanging, sound, records = _Sink(), _Sink(), numbered(4)
    hanging.open.clear()
    audit = AuditWriter([hanging, sound], max_waiting=2)
    assert [True, True, False] == [audit.offer(record) for record in records[:3]]
    _until(lambda: len(sound.ids) == 2)
    assert ([], 2) == (hanging.ids, audit.waiting)
    hanging.open.set()
    _until(lambda: audit.waiting == 0)
    assert audit.offer(records[3])
    assert 0 == audit.close(WAIT_SECONDS)
    assert [records[index].decision_id for index in (0, 1, 3)] == sound.ids == hanging.ids


def test_withdrawn_decisions_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log says when decisions begin to be withdrawn, and how many were when it is over."""
    sink, records = _Sink(), numbered(5)
    sink.open.clear()
    audit = AuditWriter([sink], max_waiting=1)
    assert [True, False, False, False] == [audit.offer(record) for record in records[:4]]
    assert 1 == caplog.text.count("decisions are withdrawn")
    sink.open.set()
    _until(lambda: audit.waiting == 0)
    with caplog.at_level(logging.WARNING):
        assert audit.offer(records[4])
    assert 1 == caplog.text.count("3 decisions were withdrawn")
    audit.close(WAIT_SECONDS)


def test_writer_without_sinks() -> None:
    """A writer that has nowhere to write keeps nothing back."""
    audit = AuditWriter([])
    assert (True, 0, 0) == (audit.offer(record_of()), audit.waiting, audit.close(WAIT_SECONDS))


def test_many_threads() -> None:
    """Records of many threads arrive once each."""
    sink, record = _Sink(), record_of()
    audit = AuditWriter([sink], max_waiting=100_000)

    def offer(thread: int) -> None:
        for number in range(500):
            assert audit.offer(record._replace(decision_id=f"{thread}-{number}"))

    threads = [threading.Thread(target=offer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 == audit.close(WAIT_SECONDS)
    assert sorted(f"{thread}-{number}" for thread in range(4) for number in range(500)) == sorted(sink.ids)
