"""What a shadow policy would have changed, summed up from audit records.

1. The file may be damaged, cut, or hold lines of others: what is no record is counted and passed over.
2. Memory does not grow with the file: groups have a bound, and what comes after it is counted together.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Any

from ext_authz.audit.record import SPAN_NAME
from ext_authz.bounded_lines import bounded_lines

# Bytes of one line: a record takes some 1.3 kB, one with every field at its limit under 100 kB.
MAX_LINE_BYTES = 1024 * 1024
# Kinds of difference that are told apart, and decisions named of each.
MAX_GROUPS = 10_000
MAX_EXAMPLES = 3
# Characters of any text that is taken from a record: a SPIFFE ID may have 2,048.
MAX_TEXT_CHARACTERS = 2048


class Change(StrEnum):
    """What would become of a decision."""

    NEWLY_ALLOWED = "newly allowed"
    NEWLY_DENIED = "newly denied"
    OTHER_REASON = "other reason"


@dataclass(frozen=True, slots=True)
class Kind:
    """What differences have in common that are reported as one line."""

    change: Change
    caller: str
    target: str
    action: str
    reason: str
    shadow_reason: str
    shadow_rule: str


@dataclass(slots=True)
class Group:
    """Differences of one kind."""

    count: int = 0
    decision_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ShadowReport:
    """What the records of one file say."""

    records: int = 0
    damaged: int = 0  # lines that are no JSON object
    changes: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    groups: dict[Kind, Group] = field(default_factory=dict)
    ungrouped: int = 0  # differences for which there was no group left
    digests: dict[str, int] = field(default_factory=dict)  # of shadow policies, with how many differences

    @property
    def differences(self) -> int:
        """Number of decisions that the shadow policy would have made otherwise."""
        return sum(self.changes.values())

    def sorted_groups(self) -> list[tuple[Kind, Group]]:
        """Return the groups: what would be newly allowed first, then by how often."""
        order = list(Change)
        return sorted(self.groups.items(), key=lambda item: (order.index(item[0].change), -item[1].count))


def report_of(file: IO[bytes], shadow_digest: str = "") -> ShadowReport:
    """Sum up JSON lines; with a digest, or its beginning, only differences of that shadow policy. Raises OSError."""
    report = ShadowReport()
    for line in bounded_lines(file, MAX_LINE_BYTES):
        if not line.strip():
            continue
        attributes = _attributes(line)
        if attributes is None:
            report.damaged += 1
        elif attributes:
            report.records += 1
            _add(report, attributes, shadow_digest)
    return report


def _attributes(line: bytes) -> Mapping[str, Any] | None:
    """Return the attributes of a decision; empty for what is none, such as an event, and None for a damaged line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    if record.get("name") != SPAN_NAME:
        return {}
    attributes = record.get("attributes")
    return attributes if isinstance(attributes, dict) and attributes else None


def _add(report: ShadowReport, attributes: Mapping[str, Any], shadow_digest: str) -> None:
    digest = _text(attributes, "ext_authz.shadow_digest")
    if not digest or not digest.startswith(shadow_digest):
        return
    change = _change(_text(attributes, "policy.decision"), _text(attributes, "ext_authz.shadow_decision"))
    kind = Kind(change, *_texts(attributes))
    report.changes[change] += 1
    if digest in report.digests or len(report.digests) < MAX_GROUPS:
        report.digests[digest] = report.digests.get(digest, 0) + 1
    if kind not in report.groups and len(report.groups) >= MAX_GROUPS:
        report.ungrouped += 1
        return
    group = report.groups.setdefault(kind, Group())
    group.count += 1
    if len(group.decision_ids) < MAX_EXAMPLES:
        group.decision_ids.append(_text(attributes, "ext_authz.decision_id"))


def _change(decision: str, shadow_decision: str) -> Change:
    if decision != "allow" and shadow_decision == "allow":
        return Change.NEWLY_ALLOWED
    if decision == "allow" and shadow_decision != "allow":
        return Change.NEWLY_DENIED
    return Change.OTHER_REASON


def _texts(attributes: Mapping[str, Any]) -> Iterable[str]:
    keys = ("agent.caller", "agent.target", "agent.action")
    ours = ("ext_authz.reason", "ext_authz.shadow_reason", "ext_authz.shadow_rule")
    return (_text(attributes, key) for key in (*keys, *ours))


def _text(attributes: Mapping[str, Any], key: str) -> str:
    """Return a text that cannot change a terminal: whoever can write the file is not believed."""
    value = attributes.get(key, "")
    if not isinstance(value, str):
        return "?"
    return "".join(letter if letter.isprintable() else "?" for letter in value[:MAX_TEXT_CHARACTERS])
