"""Records as JSON lines, on standard output or in a file."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ext_authz.audit.event import Entry, Event
from ext_authz.audit.record import SPAN_NAME, utc
from ext_authz.audit.trace import remote_parent


class JsonLinesSink:
    """Appends one line a record to a file descriptor that it owns; a batch is one write where the system allows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    @classmethod
    def to_file(cls, path: Path) -> Self:
        """Append to `path`, created with mode 0600: records name callers. Raises OSError."""
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))

    @classmethod
    def to_stdout(cls) -> Self:
        """Write to standard output."""
        return cls(os.dup(sys.stdout.fileno()))

    def write(self, records: Sequence[Entry]) -> None:
        """Write all records or raise OSError; call again with the same ones after an error, and none is lost or doubled."""
        if not self._rest:
            self._rest = b"".join(map(to_line, records))
        while self._rest:
            written = os.write(self._descriptor, self._rest)
            self._rest = self._rest[written:]

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def to_line(record: Entry) -> bytes:
    """Return one record or event as a line of JSON in ASCII: nothing in it can break a line or a terminal."""
    if isinstance(record, Event):
        event = {"time": utc(record.at), "name": record.name.value, "attributes": record.attributes()}
        return json.dumps(event).encode() + b"\n"
    parent = remote_parent(record.traceparent)
    line = {"time": utc(record.decided_at), "name": SPAN_NAME}
    if parent is not None:
        line |= {"trace_id": f"{parent.trace_id:032x}", "parent_span_id": f"{parent.span_id:016x}"}
    return json.dumps(line | {"attributes": record.attributes()}).encode() + b"\n"
