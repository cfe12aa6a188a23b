"""`ext-authz token revoke` and `ext-authz quarantine`: what operators take out of force, wherever their store is read.

1. Nothing is changed before all of the input is understood, and then all of it is changed or none.
2. Neither command makes the store: into a new file at a mistyped path, no server would look.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeIdError
from ext_authz.policy.compile import load
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import MARKED, Entry, EntryError, Kind
from ext_authz.stores.members import to_members
from ext_authz.times import format_moment, parse_moment, parse_span

_QUARANTINED = frozenset({Kind.QUARANTINE})
_REVOKED = frozenset(Kind) - _QUARANTINED

_Store = Annotated[
    Path, typer.Option(metavar="FILE", envvar="EXT_AUTHZ_CONTROL_STORE", help="The control store of the servers.")
]
_Policies = Annotated[
    Path | None,
    typer.Option(metavar="DIR", envvar="EXT_AUTHZ_POLICIES", help="Policy directory that says what a name means."),
]
_Because = Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for those who list it later.")]
_Lift = Annotated[bool, typer.Option("--lift", help="Take it back.")]
_List = Annotated[bool, typer.Option("--list", help="List what is in force, and what was lifted lately.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_ParsedT = TypeVar("_ParsedT")


class _Task(Enum):
    ADD = auto()
    LIFT = auto()
    LIST = auto()


def revoke(
    *,
    store: _Store,
    jti: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A link, and all that was made from it. Repeatable.")
    ] = None,
    sid: Annotated[list[str] | None, typer.Option(metavar="ID", help="A session. Repeatable.")] = None,
    kid: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Whatever a registered key signed. Repeatable.")
    ] = None,
    certificate: Annotated[
        list[str] | None, typer.Option(metavar="SHA256", help="Whatever the key of an SVID signed. Repeatable.")
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="SUB", help="All on behalf of a user, issued by --at. Repeatable.")
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="All that an agent signed or passed on by --at. Repeatable."),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The mark of --subject and --workload.", show_default="now")
    ] = None,
    keep_for: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Forget it after 24h, 7d.", show_default="until no token can match"),
    ] = None,
    because: _Because = None,
    policies: _Policies = None,
    lift: _Lift = False,
    list_: _List = False,
    as_json: _Json = False,
) -> None:
    """Revoke delegation tokens: servers refuse them within a second.

    Example: ext-authz token revoke --sid 3kTMd5vPqXzWnL2aYcR8ug --because "stolen laptop, INC-4711"

    Example: ext-authz token revoke --workload spiffe://agents.example.com/planner-agent --at 2026-11-22T12:00:00Z

    Example: ext-authz token revoke --kid sts-2026-11 --lift

    A key, a certificate and a workload stay revoked until somebody lifts them, because they can sign again; the others
    until the last token of their time has expired. Exits with 1 when there was nothing to lift.
    """
    with exit_on_configuration_error():
        task = _task(lift=lift, list_=list_)
        _check_options(task, {"--at": at, "--keep-for": keep_for, "--because": because})
        values: Mapping[Kind, Sequence[str] | None] = {
            Kind.TOKEN_ID: jti,
            Kind.SESSION_ID: sid,
            Kind.KEY_ID: kid,
            Kind.CERTIFICATE: [_fingerprint(text) for text in certificate or ()],
            Kind.SUBJECT: subject,
            Kind.WORKLOAD: _workloads(workload or (), policies),
        }
        targets = [(kind, value) for kind, texts in values.items() for value in texts or ()]
        if at is not None and not MARKED.issuperset(kind for kind, _ in targets):
            raise ConfigurationError(["--at: only --subject and --workload have a mark in time"])
        mark_at, keep_seconds = _parsed("--at", at, parse_moment), _parsed("--keep-for", keep_for, parse_span)
        entries = _entries(targets, mark_at=mark_at, keep_seconds=keep_seconds, because=because or "")
        _carry_out(task, store, entries, _REVOKED, as_json=as_json)


def quarantine(
    *,
    store: _Store,
    agent: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="SPIFFE ID, or a name with --policies.")
    ] = None,
    session: Annotated[
        list[str] | None, typer.Option(metavar="SID", help="A session instead of an agent. Repeatable.")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="SPAN", help="30m, 24h, 7d.", show_default="until it is lifted")
    ] = None,
    because: _Because = None,
    policies: _Policies = None,
    lift: _Lift = False,
    list_: _List = False,
    as_json: _Json = False,
) -> None:
    """Put agents or sessions in quarantine: whatever they ask for is denied within a second.

    Example: ext-authz quarantine spiffe://agents.example.com/planner-agent --for 1h --because "odd queries, INC-4711"

    Example: ext-authz quarantine planner-agent --policies policies/default --lift

    Example: ext-authz quarantine --list --json

    For an agent that is in quarantine already the longer time holds. Exits with 1 when there was nothing to lift.
    """
    with exit_on_configuration_error():
        task = _task(lift=lift, list_=list_)
        _check_options(task, {"--for": for_, "--because": because})
        values = (*_workloads(agent or (), policies), *(session or ()))
        targets = [(Kind.QUARANTINE, value) for value in values]
        entries = _entries(targets, keep_seconds=_parsed("--for", for_, parse_span), because=because or "")
        _carry_out(task, store, entries, _QUARANTINED, as_json=as_json)


def _task(*, lift: bool, list_: bool) -> _Task:
    if lift and list_:
        raise ConfigurationError(["--lift and --list exclude each other"])
    return _Task.LIFT if lift else _Task.LIST if list_ else _Task.ADD


def _check_options(task: _Task, changing: Mapping[str, str | None]) -> None:
    """Refuse options that would have no effect: whoever wrote one expects it."""
    given = [name for name, value in changing.items() if value is not None]
    if task is not _Task.ADD and given:
        raise ConfigurationError([f"{name}: has no meaning with --{task.name.lower()}" for name in given])


def _workloads(names: Iterable[str], policies: Path | None) -> list[str]:
    """Return the SPIFFE IDs that names mean; a whole SPIFFE ID needs no policy."""
    names = list(names)
    unresolved = [name for name in names if not name.startswith("spiffe://")]
    if not unresolved:
        return names
    if policies is None:
        raise ConfigurationError([f"`{name}`: expected a SPIFFE ID, or a name and --policies" for name in unresolved])
    resolve, problems, workloads = load(policies).names.resolve, [], []
    for name in names:
        try:
            workloads.append(resolve(name).uri)
        except SpiffeIdError as error:
            problems.append(f"`{name}`: {error}")
    if problems:
        raise ConfigurationError(problems)
    return workloads


def _fingerprint(text: str) -> str:
    """Return what `openssl x509 -fingerprint -sha256` prints, AB:CD and so on, as XFCC writes it."""
    return text.replace(":", "").lower()


def _parsed(option: str, text: str | None, parse: Callable[[str], _ParsedT]) -> _ParsedT | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError([f"{option}: `{text}`: {error}"]) from None


def _entries(targets: Iterable[tuple[Kind, str]], **properties: Any) -> list[Entry]:
    """Return one entry for each target. Raises ConfigurationError with all problems."""
    now, entries, problems = time.time(), [], []
    for kind, value in targets:
        given = properties if kind in MARKED else properties | {"mark_at": None}
        try:
            entries.append(Entry.new(kind, value, now, **given))
        except EntryError as error:
            problems.append(f"{kind} `{value}`: {error}")
    if problems:
        raise ConfigurationError(problems)
    return entries


def _carry_out(task: _Task, store: Path, entries: Sequence[Entry], kinds: Collection[Kind], *, as_json: bool) -> None:
    if (task is _Task.LIST) == bool(entries):
        raise ConfigurationError(["--list lists everything: name nothing" if entries else "name what it is about"])
    with ControlStore.open(store) as control:
        if task is _Task.LIFT:
            now = time.time()
            lifted = [control.lift(entry.kind, entry.value, now) for entry in entries]
        else:
            told = control.add(*entries) if task is _Task.ADD else _listed(control, kinds)
    if task is _Task.LIFT:
        _tell_lifted(entries, lifted, as_json=as_json)
    else:
        _tell(told, as_json=as_json)


def _listed(control: ControlStore, kinds: Collection[Kind]) -> list[Entry]:
    """Return what has not ended by itself."""
    now = time.time()
    return [entry for entry in control.entries(kinds) if entry.lifted_at is not None or entry.is_in_force(now)]


def _tell(entries: Sequence[Entry], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"entries": [to_members(entry) for entry in entries]}, indent=2))
    else:
        typer.echo("\n".join(map(_sentence, entries)) or "nothing")


def _tell_lifted(entries: Sequence[Entry], lifted: Sequence[bool], *, as_json: bool) -> None:
    if as_json:
        found = [
            {"kind": entry.kind, "value": entry.value, "lifted": was_in_force}
            for entry, was_in_force in zip(entries, lifted, strict=True)
        ]
        typer.echo(json.dumps({"entries": found}, indent=2))
    else:
        for entry, was_in_force in zip(entries, lifted, strict=True):
            typer.echo(f"{'lifted' if was_in_force else 'not in force'}: {entry.kind} {entry.value}")
    if not all(lifted):
        raise typer.Exit(NO)


def _sentence(entry: Entry) -> str:
    """Return an entry for people."""
    return ", ".join(_clauses(entry))


def _clauses(entry: Entry) -> Iterator[str]:
    end = format_moment(entry.keep_until) or "it is lifted"
    if entry.lifted_at is not None:
        yield f"lifted at {format_moment(entry.lifted_at)}: {entry.kind} {entry.value}"
    elif entry.kind is Kind.QUARANTINE:
        yield f"in quarantine until {end}: {entry.value}"
    else:
        yield f"revoked, kept until {end}: {entry.kind} {entry.value}"
    if entry.mark_at is not None:
        yield f"issued by {format_moment(entry.mark_at)}"
    if entry.because:
        yield f"because {entry.because}"
