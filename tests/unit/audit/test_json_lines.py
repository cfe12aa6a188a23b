"""Records as JSON lines: whole lines, none lost and none twice, whatever the file does."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.audit.records import numbered, record_of

from ext_authz.audit.jsonlines import JsonLinesSink, to_line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Offer a pipe of one page that never waits: it takes a part of what is written, then nothing."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    yield read_end, write_end
    os.close(read_end)


def _drain(read_end: int) -> bytes:
    data = b""
    try:
        while chunk := os.read(read_end, 65536):
            data += chunk
    except BlockingIOError:
        pass
    return data


def test_line() -> None:
    """A line holds the time, the name, the caller's trace, and the attributes of the span."""
    record = record_of()
    line = json.loads(to_line(record))
    attributes = {key: list(value) if isinstance(value, tuple) else value for key, value in record.attributes().items()}
    expected = {
        "time": "2026-11-21T22:10:09.000000+00:00",
        "name": "a2a.policy.decision",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "parent_span_id": "b7ad6b7169203331",
        "attributes": attributes,
    }
    assert expected == line


def test_line_without_trace() -> None:
    """A record of a request without trace has no ids of one."""
    assert ["time", "name", "attributes"] == list(json.loads(to_line(record_of()._replace(traceparent=""))))


def test_partial_writes(pipe: tuple[int, int]) -> None:
    """What a full pipe did not take is written when it is called again with the same records: nothing twice, nothing lost."""
    read_end, write_end = pipe
    records = numbered(20)
    sink = JsonLinesSink(write_end)
    received, refusals = b"", 0
    for _ in range(100):
        try:
            sink.write(records)
            break
        except BlockingIOError:
            refusals += 1
            received += _drain(read_end)
    sink.write(records[:1])  # the next batch begins anew
    received += _drain(read_end)
    sink.close()
    assert refusals > 2
    assert b"".join(map(to_line, [*records, records[0]])) == received


def test_full_disk(tmp_path: Path) -> None:
    """A disk that is full raises; when there is room again everything is written once."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        JsonLinesSink(full := os.open("/dev/full", os.O_WRONLY)).write(numbered(1))
    path = tmp_path / "audit.jsonl"
    sink, records = JsonLinesSink.to_file(path), numbered(3)
    os.dup2(full, sink._descriptor)
    os.close(full)
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            sink.write(records)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, sink._descriptor)
    os.close(file)
    sink.write(records)
    sink.close()
    assert b"".join(map(to_line, records)) == path.read_bytes()


def test_file_is_appended_and_private(tmp_path: Path) -> None:
    """A file is continued, and nobody else can read it."""
    path = tmp_path / "audit.jsonl"
    records = numbered(2)
    for record in records:
        sink = JsonLinesSink.to_file(path)
        sink.write([record])
        sink.close()
    assert b"".join(map(to_line, records)) == path.read_bytes()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A path that is no file raises at once."""
    with pytest.raises(IsADirectoryError):
        JsonLinesSink.to_file(tmp_path)


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Closing the sink leaves standard output open."""
    sink = JsonLinesSink.to_stdout()
    sink.write(numbered(1))
    sink.close()
    os.write(1, b"still open\n")
    line, after = capfd.readouterr().out.splitlines()
    assert ("0" * 32, "still open") == (json.loads(line)["attributes"]["ext_authz.decision_id"], after)
