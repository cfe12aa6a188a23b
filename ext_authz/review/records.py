"""Recorded decisions, read back from audit JSON lines.

1. A line that is damaged, cut short, too long or somebody else's is counted and skipped; it never ends the reading.
2. Memory is that of one line, however large the file is.
3. What a record says was true when it was written; nothing here is verified again.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ext_authz.audit.record import SPAN_NAME
from ext_authz.bounded_lines import bounded_lines
from ext_authz.errors import Reason
from ext_authz.identity.spiffe_id import SpiffeId

# Bytes of one line: a path of 8 KiB, a chain's actors and findings take less than a tenth.
MAX_LINE_BYTES = 256 * 1024

NOT_JSON = "is not JSON"
CUT_SHORT = "is cut short"
TOO_LONG = f"has more than {MAX_LINE_BYTES} bytes"
FOREIGN = "is no record of a decision"
DAMAGED = "lacks what every record of a decision has"


class RecordedDelegation(NamedTuple):
    """What a record says of a chain that was verified."""

    on_behalf_of: str
    session_id: str | None
    scopes: frozenset[str]
    actors: tuple[SpiffeId, ...]
    hops: int
    root_issuer: SpiffeId


class RecordedAccessToken(NamedTuple):
    """What a record says of an access token that was verified."""

    issuer: str
    on_behalf_of: str
    scopes: frozenset[str]  # with a chain, those that both allow


class RecordedDecision(NamedTuple):
    """One decision as it was recorded."""

    line: int
    decision_id: str
    decided_at: float  # seconds since 1970
    caller: str
    caller_verified: bool
    target: str
    action: str  # empty: none was found
    asserted_action: str
    method: str
    path: str
    reason: Reason
    detail: str
    rule: str  # place and text of the rule that decided, empty when none did
    policy_digest: str
    delegation: RecordedDelegation | None
    access_token: RecordedAccessToken | None


class Flaw(NamedTuple):
    """Lines of a file that are no records, for one reason."""

    what: str
    lines: int  # how many
    first_line: int

    def __str__(self) -> str:
        others = f" ({self.lines} lines in all)" if self.lines > 1 else ""
        return f"{self.first_line}: the line {self.what}{others}"


class RecordFile:
    """The recorded decisions of a file; `flaws` tells, at the end, which lines were none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._flaws: dict[str, Flaw] = {}

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """What was skipped so far, by the first line of each kind."""
        return tuple(sorted(self._flaws.values(), key=lambda flaw: flaw.first_line))

    def __iter__(self) -> Iterator[RecordedDecision]:
        """Yield the decisions in order. Raises OSError."""
        self._flaws.clear()
        with self.path.open("rb") as file:
            for number, line in enumerate(bounded_lines(file, MAX_LINE_BYTES), 1):
                found = _read(number, line)
                if isinstance(found, RecordedDecision):
                    yield found
                elif found:
                    known = self._flaws.get(found, Flaw(found, 0, number))
                    self._flaws[found] = known._replace(lines=known.lines + 1)


def _read(number: int, line: bytes) -> RecordedDecision | str:
    """Return the decision of a line, or what is wrong with it; an empty line is nothing."""
    if not line.strip():
        return ""
    if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
        return TOO_LONG
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return NOT_JSON if line.endswith(b"\n") else CUT_SHORT
    if not isinstance(value, dict) or value.get("name") != SPAN_NAME or not isinstance(value.get("attributes"), dict):
        return FOREIGN
    try:
        return _decision(number, _Fields(value), _Fields(value["attributes"]))
    except (ValueError, OverflowError):
        return DAMAGED


class _Fields:
    """The members of a JSON object, each of the type that it must have. Raises ValueError."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def text(self, key: str, *, required: bool = False) -> str:
        value = self._members.get(key, "")
        if not isinstance(value, str) or (required and not value):
            raise ValueError(key)
        return value

    def flag(self, key: str) -> bool:
        return self._members.get(key) is True

    def number(self, key: str) -> int:
        value = self._members.get(key)
        if type(value) is not int:
            raise ValueError(key)
        return value

    def texts(self, key: str) -> list[str]:
        value = self._members.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(key)
        return value


def _decision(number: int, line: _Fields, attributes: _Fields) -> RecordedDecision:
    moment = datetime.fromisoformat(line.text("time", required=True))
    if moment.tzinfo is None:
        raise ValueError("time")
    rule = f"{attributes.text('ext_authz.rule')} {attributes.text('ext_authz.rule_text')}"
    return RecordedDecision(
        line=number,
        decision_id=attributes.text("ext_authz.decision_id", required=True),
        decided_at=moment.timestamp(),
        caller=attributes.text("agent.caller"),
        caller_verified=attributes.flag("ext_authz.caller_verified"),
        target=attributes.text("agent.target"),
        action=attributes.text("agent.action"),
        asserted_action=attributes.text("ext_authz.asserted_action"),
        method=attributes.text("ext_authz.method"),
        path=attributes.text("request.path"),
        reason=Reason(attributes.text("ext_authz.reason", required=True)),
        detail=attributes.text("ext_authz.detail"),
        rule=rule.strip(),
        policy_digest=attributes.text("ext_authz.policy_digest"),
        delegation=_delegation(attributes) if attributes.text("ext_authz.root_issuer") else None,
        access_token=_access_token(attributes) if attributes.text("ext_authz.oidc_issuer") else None,
    )


def _access_token(attributes: _Fields) -> RecordedAccessToken:
    return RecordedAccessToken(
        issuer=attributes.text("ext_authz.oidc_issuer"),
        on_behalf_of=attributes.text("ext_authz.on_behalf_of"),
        scopes=frozenset(attributes.texts("ext_authz.scopes")),
    )


def _delegation(attributes: _Fields) -> RecordedDelegation:
    return RecordedDelegation(
        on_behalf_of=attributes.text("ext_authz.on_behalf_of"),
        session_id=attributes.text("ext_authz.session_id") or None,
        scopes=frozenset(attributes.texts("ext_authz.scopes")),
        actors=tuple(map(SpiffeId.parse_workload, attributes.texts("ext_authz.actors"))),
        hops=attributes.number("ext_authz.hops"),
        root_issuer=SpiffeId.parse_workload(attributes.text("ext_authz.root_issuer")),
    )
