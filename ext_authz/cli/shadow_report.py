"""`ext-authz policy shadow-report`: what a shadow policy would have changed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.audit.shadow_report import Change, Group, Kind, ShadowReport, report_of
from ext_authz.cli.exits import UNUSABLE


def shadow_report(
    records: Annotated[Path, typer.Argument(help="Audit records as JSON lines.")],
    digest: Annotated[
        str, typer.Option(help="Only differences of the shadow policy whose digest begins so.", metavar="DIGEST")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sum up what the policy of `serve --shadow` would have decided otherwise.

    Example: ext-authz policy shadow-report /var/log/ext-authz/audit.jsonl

    Exits with 0 whatever the differences are, with 2 when the file cannot be read.
    """
    try:
        with records.open("rb") as file:
            report = report_of(file, digest)
    except OSError as error:
        typer.echo(f"{records}: cannot read: {error.strerror}", err=True)
        raise typer.Exit(UNUSABLE) from None
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2))
    else:
        _print(report)


def _as_json(report: ShadowReport) -> dict[str, object]:
    return {
        "records": report.records,
        "damaged_lines": report.damaged,
        "differences": report.differences,
        **{change.replace(" ", "_"): count for change, count in report.changes.items()},
        "shadow_digests": report.digests,
        "groups": [_group_as_json(kind, group) for kind, group in report.sorted_groups()],
        "ungrouped_differences": report.ungrouped,
    }


def _group_as_json(kind: Kind, group: Group) -> dict[str, object]:
    return {
        "change": kind.change.replace(" ", "_"),
        "count": group.count,
        "caller": kind.caller,
        "target": kind.target,
        "action": kind.action,
        "reason": kind.reason,
        "shadow_reason": kind.shadow_reason,
        "shadow_rule": kind.shadow_rule,
        "decision_ids": group.decision_ids,
    }


def _print(report: ShadowReport) -> None:
    counts = ", ".join(f"{change}: {report.changes[change]}" for change in Change)
    typer.echo(f"records: {report.records}, differences: {report.differences} ({counts})")
    if report.damaged:
        typer.echo(f"lines that are no records: {report.damaged}")
    for digest, count in report.digests.items():
        typer.echo(f"shadow policy {digest[:12]}: {count}")
    for kind, group in report.sorted_groups():
        rule = f" ({kind.shadow_rule})" if kind.shadow_rule else ""
        typer.echo(
            f"\n{kind.change}, {group.count} times: {kind.caller} -> {kind.target}: {kind.action or 'no action'}"
        )
        typer.echo(f"  now {kind.reason}, with the shadow policy {kind.shadow_reason}{rule}")
        typer.echo(f"  decisions {', '.join(group.decision_ids)}")
    if report.ungrouped:
        typer.echo(f"\nfurther differences that are not listed: {report.ungrouped}")
