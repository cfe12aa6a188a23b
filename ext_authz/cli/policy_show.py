"""`ext-authz policy show`: the matrix as it takes effect."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ext_authz.analysis.effective import Entry, by_pair, effective
from ext_authz.analysis.survey import Survey, survey
from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.cli.policy_names import chosen_action, chosen_workload
from ext_authz.identity.names import Names
from ext_authz.identity.patterns import covers
from ext_authz.policy.engine import EVERY_ACTION


def show(
    directory: Annotated[Path, typer.Argument(help="Directory of policy documents.")],
    subject: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this agent may ask for.")] = None,
    resource: Annotated[str | None, typer.Option(metavar="NAME", help="Only what may be asked of this agent.")] = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="Only this action.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who may ask whom to do what, with groups resolved and all documents put together.

    Example: ext-authz policy show policies/default

    Example: ext-authz policy show policies/default --resource audit-agent --json

    Exits with 0, or with 2 when the policy cannot be loaded or does not know a name.
    """
    with exit_on_configuration_error():
        found = survey(directory)
        entries = list(_chosen(found, subject, resource, action))
    if as_json:
        typer.echo(json.dumps({"entries": [_members(entry, found.names) for entry in entries]}, indent=2))
    elif entries:
        Console().print(_table(entries, found.names))
    else:
        typer.echo("nothing")


def _chosen(found: Survey, subject: str | None, resource: str | None, action: str | None) -> Iterator[Entry]:
    entries = effective(found)
    known = {name for entry in entries for name in entry.pair}
    subject_id = chosen_workload("--subject", subject, found.names, known)
    resource_id = chosen_workload("--resource", resource, found.names, known)
    chosen_action("--action", action, found.policy.registry.actions)
    for entry in entries:
        is_about = subject_id is None or covers(entry.subject, subject_id)
        pair_is_chosen = is_about and resource_id in (None, entry.resource)
        if pair_is_chosen and (action is None or entry.action in (action, EVERY_ACTION)):
            yield entry


def _table(entries: Sequence[Entry], names: Names) -> Table:
    has_asks = any(granted.asks for entry in entries for granted in entry.grants)
    table = Table("subject", "resource", "actions", *(["asks for"] if has_asks else []), box=None, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    last = ""
    for (subject, resource), group in by_pair(entries):
        shown = "" if subject == last else names.name_of(subject)
        for number, (asks, some) in enumerate(_by_asks(group)):
            first = number == 0
            cells = [Text(shown if first else ""), Text(names.name_of(resource) if first else ""), _actions(some)]
            table.add_row(*cells, *([Text(asks)] if has_asks else []))
        last = subject
    return table


def _by_asks(entries: Iterable[Entry]) -> Iterable[tuple[str, list[Entry]]]:
    """Return the entries of one pair, those together that ask for the same."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(_asks(entry), []).append(entry)
    return found.items()


def _actions(entries: Iterable[Entry]) -> Text:
    text = Text()
    for number, entry in enumerate(entries):
        text.append(", " if number else "")
        if entry.denial is None:
            text.append(entry.action, "green")
        else:
            what = "nothing" if entry.action == EVERY_ACTION else f"not {entry.action}"
            text.append(f"{what} ({entry.denial.where})", "red")
    return text


def _asks(entry: Entry) -> str:
    """Return what a call has to bring, in words; nothing where it is denied anyway."""
    if entry.denial is not None:
        return ""
    ways = dict.fromkeys(
        "; ".join(f"{key} {_value(value)}" for key, value in each.asks.items()) for each in entry.grants
    )
    unless = [f"unless {rule.where} denies" for rule in entry.denials_when]
    return "; ".join([*([] if "" in ways else [" or ".join(ways)]), *unless])


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _members(entry: Entry, names: Names) -> Mapping[str, Any]:
    return {
        "subject": names.name_of(entry.subject),
        "resource": names.name_of(entry.resource),
        "action": entry.action,
        "allowed": entry.is_allowed,
        "grants": [{"rule": granted.where, "asks": granted.asks} for granted in entry.grants],
        "denied_by": None if entry.denial is None else entry.denial.where,
        "denied_by_when": [rule.where for rule in entry.denials_when],
    }
