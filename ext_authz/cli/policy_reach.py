"""`ext-authz policy reach`: who can reach what through whom, and how far a taken-over agent would get."""

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ext_authz.analysis.diagrams import to_dot, to_mermaid
from ext_authz.analysis.landscape import Landscape, Radius, Way
from ext_authz.analysis.page import to_page
from ext_authz.analysis.survey import Survey, survey
from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.cli.policy_names import chosen_workload
from ext_authz.errors import ConfigurationError


class Format(StrEnum):
    """What is written."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    HTML = "html"


def reach(
    directory: Annotated[Path, typer.Argument(help="Directory of policy documents.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="AGENT", help="How far this agent gets, and who gets to it.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who can reach what through whom: the blast radius of an agent that somebody takes over.

    Example: ext-authz policy reach policies/default

    Example: ext-authz policy reach policies/default --from planner-agent

    Example: ext-authz policy reach policies/default --format html -o reach.html

    Grants that are not denied count, whatever else they ask: windows, conditions, delegation.
    """
    with exit_on_configuration_error():
        found = survey(directory)
        whole = Landscape.of(found)
        uri = chosen_workload("--from", start, found.names, {found.resolve(name) for name in whole.agents})
        name = None if uri is None else found.names.name_of(uri)
        if uri is not None and name not in whole.agents:
            whole = Landscape.of(found, [uri])  # what only wildcards are about
        landscape = whole if name is None else whole.around(name)
        if as_json:
            text = json.dumps(_members(whole, name), indent=2) + "\n"
        elif form is Format.TEXT:
            text = _printed(_overview(whole) if name is None else _radius(whole.radius(name)))
        else:
            text = _drawn(form, found, landscape, name)
        _write(output, text)


def _drawn(form: Format, found: Survey, landscape: Landscape, start: str | None) -> str:
    if form is Format.HTML:
        return to_page(found, landscape, start)
    return to_mermaid(landscape, start) if form is Format.MERMAID else to_dot(landscape, start)


def _write(output: Path | None, text: str) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError([f"{output}: cannot write: {error.strerror}"]) from None


def _printed(tables: Iterable[RenderableType]) -> str:
    console = Console()
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


def _overview(landscape: Landscape) -> Iterator[RenderableType]:
    table = Table("agent", box=None, header_style="bold")
    for heading in ("calls", "reaches", "reached by"):
        table.add_column(heading, justify="right")
    for agent, calls, reaches, reached_by in _counts(landscape):
        table.add_row(Text(agent), str(calls), str(reaches), str(reached_by))
    yield table


def _counts(landscape: Landscape) -> list[tuple[str, int, int, int]]:
    """Return for each agent whom it calls, reaches and is reached by, in numbers; furthest reach first."""
    reached = {agent: landscape.reaches(agent) for agent in landscape.agents}
    reached_by = dict.fromkeys(reached, 0)
    calls = dict.fromkeys(reached, 0)
    for found in reached.values():
        for agent in found:
            reached_by[agent] += 1
    for call in landscape.calls:
        calls[call.subject] += 1
    rows = [(agent, calls[agent], len(found), reached_by[agent]) for agent, found in reached.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _radius(radius: Radius) -> Iterator[RenderableType]:
    yield _ways(f"{radius.agent} reaches", [(way.path[-1], way) for way in radius.reaches])
    yield _ways(f"{radius.agent} is reached by", [(way.path[0], way) for way in radius.reached_by])


def _ways(heading: str, ways: list[tuple[str, Way]]) -> RenderableType:
    if not ways:
        return Text(f" {heading}: nobody", "bold")
    table = Table(heading, "actions", "path", box=None, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for agent, way in ways:
        between = " -> ".join(way.path[1:-1])
        table.add_row(Text(agent), Text(", ".join(way.actions)), Text(f"through {between}" if between else "directly"))
    return table


def _members(landscape: Landscape, start: str | None) -> Mapping[str, Any]:
    if start is not None:
        radius = landscape.radius(start)
        return {"from": start} | {
            key: [way._asdict() for way in ways]
            for key, ways in (("reaches", radius.reaches), ("reached_by", radius.reached_by))
        }
    keys = ("agent", "calls", "reaches", "reached_by")
    return {
        "agents": [dict(zip(keys, row, strict=True)) for row in _counts(landscape)],
        "calls": [call._asdict() for call in landscape.calls],
    }
