"""Events that are no decisions: what operators are told, with a type that alerts can be tied to.

1. An event has a stable name, a severity and attributes; it is logged, and written where records are written.
2. It tells what the operator's own files and systems did: nothing of a request stands in it.
3. An event that cannot be written stops nothing: it was logged.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from ext_authz.audit.record import AuditRecord, Value

# Problems that an event carries; the log has all of them.
MAX_PROBLEMS = 10

_LOG = logging.getLogger(__name__)


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventType(StrEnum):
    """Every type of event. A released name keeps its meaning."""

    POLICY_RELOAD_FAILED = "policy_reload_failed"
    SHADOW_POLICY_FAILED = "shadow_policy_failed"


class Event(NamedTuple):
    """Something that happened beside decisions."""

    name: EventType
    severity: Severity
    at: float  # seconds since 1970
    details: Mapping[str, Value]

    def attributes(self) -> dict[str, Value]:
        """Return the event as span attributes; empty ones are left out."""
        given = {f"ext_authz.{key}": value for key, value in self.details.items() if value not in ("", ())}
        return {"ext_authz.event": self.name.value, "ext_authz.severity": self.severity.value, **given}


# What sinks write.
Entry = AuditRecord | Event


class Announcer:
    """Where events go: to the log, and to `offer`, which takes them for writing or says that it cannot."""

    def __init__(self, offer: Callable[[Event], bool], clock: Callable[[], float] = time.time) -> None:
        self._offer = offer
        self._clock = clock

    def announce(self, name: EventType, severity: Severity, details: Mapping[str, Value]) -> None:
        """Tell operators that something happened. Never raises."""
        event = Event(name, severity, self._clock(), details)
        level = logging.getLevelNamesMapping()[severity.name]
        _LOG.log(level, "event %s: %s", name, json.dumps(details))
        try:
            if self._offer(event):
                return
        except Exception as error:  # noqa: BLE001  rule 3
            _LOG.error("event %s could not be written: %s", name, type(error).__name__)
        else:
            _LOG.error("event %s could not be written: no room", name)
