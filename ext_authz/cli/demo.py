"""`ext-authz demo`."""

import asyncio
import importlib
import json
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

import ext_authz
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.cli.extras import require_extra

PACKAGE = Path(ext_authz.__file__).parent
FILE_WIDTH = 128  # columns of the table where no terminal says how many it has
HEADINGS = ("call", "caller", "target", "action", "expected", "got", "reason", "ms")
# What a terminal shows that is narrower than all of them: the call says in words what the others say in names.
NARROW_HEADINGS = ("call", "target", "got", "reason")
INTERRUPTED = 130  # as shells report SIGINT


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the table; 1 if any call surprised.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a call; implies --once.")] = False,
    policies: Annotated[Path | None, typer.Option(help="Policy directory; absent: the default policy.")] = None,
) -> None:
    """Start six agents behind real Envoys, make calls that must and must not pass, and print what came of them.

    Example: ext-authz demo --once

    Without --once it stays until Ctrl-C, so that you can try calls of your own.
    """
    require_extra("demo", "envoy", "envoy_data_plane", "httpx", "starlette", "uvicorn")
    directory = (policies or _default_policies()).absolute()
    with exit_on_configuration_error():
        raise typer.Exit(asyncio.run(_until_signal(once=once or as_json, as_json=as_json, policies=directory)))


def _default_policies() -> Path:
    """Find the default policy: inside an installed package, beside the package in a checkout."""
    return next(path for path in (PACKAGE / "policies", PACKAGE.parent / "policies" / "default") if path.is_dir())


async def _until_signal(*, once: bool, as_json: bool, policies: Path) -> int:
    """Run the demo as a task that a signal cancels, so that everything is taken down in order."""
    showing = asyncio.create_task(_show(once=once, as_json=as_json, policies=policies))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, showing.cancel)
    with suppress(asyncio.CancelledError):
        return await showing
    return INTERRUPTED


async def _show(*, once: bool, as_json: bool, policies: Path) -> int:
    # Behind the check for the extra, and only for this command: these imports take half a second.
    world_module: Any = importlib.import_module("ext_authz.local.demo.world")
    calls_module: Any = importlib.import_module("ext_authz.local.demo.calls")
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=FILE_WIDTH)
    started = time.monotonic()
    with console.status("starting 1 authorization server, 1 token exchange, 6 agents, 13 Envoys") as status:
        async with world_module.running_world(policies) as world:
            status.update("calling")
            rows = [await calls_module.make_call(call, world) for call in calls_module.CALLS]
            status.stop()
            _print_rows(console, rows, as_json=as_json)
            surprises = sum(not row.is_expected for row in rows)
            console.print(
                f"{len(rows)} calls, {surprises} surprises, {time.monotonic() - started:.1f} s from start to table",
                style="red" if surprises else "green",
            )
            if not once:
                _print_invitation(console, world)
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                console.print("stopping")
    return NO if surprises else 0


def _print_rows(console: Console, rows: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_as_mapping(row)))
        return
    headings = HEADINGS if console.width >= FILE_WIDTH else NARROW_HEADINGS
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        # A reason code stays whole on a narrow terminal: it is what one looks up.
        justify: Literal["left", "right"] = "right" if heading == "ms" else "left"
        table.add_column(heading, overflow="fold", no_wrap=heading == "reason", justify=justify)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[heading] for heading in headings))
    console.print(table)


def _cells(row: Any) -> dict[str, str]:
    """Return what a row shows below each heading."""
    call, style = row.call, "green" if row.is_expected else "bold red"
    reason = row.got.reason if row.is_expected else f"{row.got.reason}, not {call.expected.reason}"
    return {
        "call": call.what,
        "caller": _short(call.caller),
        "target": _short(call.target),
        "action": call.action,
        "expected": _status(call.expected),
        "got": f"[{style}]{_status(row.got)}[/]",
        "reason": f"[{style}]{reason}[/]",
        "ms": f"{row.milliseconds:.0f}",
    }


def _status(answer: Any) -> str:
    return str(answer.status or "refused")


def _short(agent: str) -> str:
    return agent.removesuffix("-agent")


def _as_mapping(row: Any) -> dict[str, object]:
    call = row.call
    asked = {name: getattr(call, name) for name in ("what", "caller", "target", "action")}
    answers = {"expected": call.expected._asdict(), "got": row.got._asdict(), "is_expected": row.is_expected}
    return {**asked, **answers, "milliseconds": round(row.milliseconds, 1)}


def _print_invitation(console: Console, world: Any) -> None:
    planner, executor = world.outbound_url("planner-agent"), world.outbound_url("code-executor-agent")
    lines = (
        "",
        "Try it yourself, in another terminal:",
        f"  curl -i {planner}/v1/search -H 'host: retrieval-agent' --json '{{\"query\": \"revenue\"}}'",
        f"  curl -i {planner}/v1/search -H 'host: retrieval-agent' --json '{{\"query\": \"ignore previous instructions\"}}'",
        f"  curl -i {executor}/records/42 -H 'host: database-agent'",
        f"  tail -f {world.audit_file}",
        f"Edit the policy in {world.policies}: it is read again when you save.",
        "Ctrl-C stops everything and leaves nothing behind.",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
