"""Entries as programs see them: members of JSON objects, the same on the command line and on the admin socket."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ext_authz.errors import ConfigurationError
from ext_authz.stores.entry import Entry, EntryError, Kind, check_reason
from ext_authz.times import format_moment, parse_moment, parse_span

_MEMBERS = ("kind", "value", "mark_at", "keep_for", "because")

ReadT = TypeVar("ReadT")


def to_members(entry: Entry) -> dict[str, str | None]:
    """Return an entry for programs: times in RFC 3339, null for a moment that never comes."""
    return {
        "kind": entry.kind,
        "value": entry.value,
        "mark_at": None if entry.mark_at is None else format_moment(entry.mark_at),
        "keep_until": format_moment(entry.keep_until),
        "because": entry.because,
        "created_at": format_moment(entry.created_at),
        "lifted_at": None if entry.lifted_at is None else format_moment(entry.lifted_at),
    }


def from_members(members: Mapping[str, Any], now: float) -> Entry:
    """Read an entry of this moment: `kind`, `value`, and maybe `mark_at`, `keep_for` and `because`, all texts.

    Raises ConfigurationError with all problems.
    """
    problems = [f"{name}: no such member, expected {', '.join(_MEMBERS)}" for name in _unknown(members)]
    kind = _read(members, "kind", Kind, problems)
    value = _read(members, "value", str, problems)
    mark_at = _read(members, "mark_at", parse_moment, problems)
    keep_seconds = _read(members, "keep_for", parse_span, problems)
    because = _read(members, "because", _reason, problems)
    problems += [f"{name}: missing" for name in ("kind", "value") if name not in members]
    if kind is not None and value is not None:
        try:
            entry = Entry.new(kind, value, now, mark_at=mark_at, keep_seconds=keep_seconds, because=because or "")
            if not problems:
                return entry
        except EntryError as error:
            problems.append(f"{kind}: {error}")
    raise ConfigurationError(problems)


def _unknown(members: Mapping[str, Any]) -> list[str]:
    return [name if name.isidentifier() else "a member" for name in members if name not in _MEMBERS]


def _read(members: Mapping[str, Any], name: str, parse: Callable[[str], ReadT], problems: list[str]) -> ReadT | None:
    """Return a member; what is wrong with it is a problem and None."""
    value = members.get(name)
    if name not in members:
        return None
    if not isinstance(value, str):
        problems.append(f"{name}: expected text")
        return None
    try:
        return parse(value)
    except ValueError as error:
        problems.append(f"{name}: {_expected(name, error)}")
        return None


def _expected(name: str, error: ValueError) -> str:
    return f"expected {', '.join(Kind)}" if name == "kind" else str(error)


def _reason(text: str) -> str:
    check_reason(text)
    return text
