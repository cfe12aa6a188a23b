"""`ext-authz policy lint`: what a policy says that its authors can hardly mean, or should look at twice."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ext_authz.analysis.finding import Finding, Level
from ext_authz.analysis.lint import RULES
from ext_authz.analysis.lint import lint as find
from ext_authz.analysis.survey import survey
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.documents.problems import suggestion
from ext_authz.errors import ConfigurationError


def lint(
    directory: Annotated[Path, typer.Argument(help="Directory of policy documents.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    ignore: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Leave a rule out. Repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find what has no effect, is wider than it need be, or stands in a policy for nothing.

    Example: ext-authz policy lint policies/default

    Example: ext-authz policy lint policies/default --strict --ignore action-unused

    Exits with 0, with 1 when there is an error (with --strict: or a warning), with 2 when the policy cannot be loaded.
    """
    with exit_on_configuration_error():
        unknown = [name for name in ignore or () if name not in RULES]
        if unknown:
            raise ConfigurationError([f"--ignore: unknown rule `{name}`{suggestion(name, RULES)}" for name in unknown])
        findings = find(survey(directory), ignore or ())
    levels = Counter(finding.level for finding in findings)
    if as_json:
        typer.echo(json.dumps({"findings": list(map(_members, findings))}, indent=2))
    else:
        _tell(directory, findings, levels)
    if levels[Level.ERROR] or (strict and levels[Level.WARNING]):
        raise typer.Exit(NO)


def _tell(directory: Path, findings: Sequence[Finding], levels: Counter[Level]) -> None:
    for finding in findings:
        typer.echo(str(finding))
    counts = ", ".join(f"{level}s: {levels[level]}" for level in Level)
    typer.echo(f"{directory}: {counts}" if findings else f"{directory}: nothing found")


def _members(finding: Finding) -> dict[str, Any]:
    path, line, column = finding.place.rsplit(":", 2)
    place = {"path": path, "line": int(line), "column": int(column)}
    return {"rule": finding.rule, "level": finding.level, **place, "sentence": finding.sentence, "fix": finding.fix}
