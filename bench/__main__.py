"""Run all measurements and print a table and JSON: `python -m bench`."""

import dataclasses
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import chain, cost, routes, scale, throughput

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    """Measure, print, and write bench/results/latest.json."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    costs = list(cost.measure())
    _print(console, ("check(bytes), microseconds a call", "p50", "p99", "cpu"), map(_times, costs))
    chains = list(chain.measure())
    headings = ("delegation chain, microseconds", "p50", "p99", "cpu", "header bytes")
    _print(console, headings, ((*_times(row), str(row.header_bytes)) for row in chains))
    found = list(routes.measure())
    sizes = tuple(f"{size:,}" for size in routes.SIZES)
    _print(console, ("finding a route, microseconds, by number of routes", *sizes), map(_curve, found))
    scales = list(scale.measure())
    columns = ("policy of 1,000 agents", "load s", "MB", "route us", "matrix us", "check us")
    _print(console, columns, map(_sizes, scales))
    rates = list(throughput.measure())
    shown = ((rate.name, f"{rate.checks_per_second:.0f}", f"{rate.ratio:.0%}") for rate in rates)
    _print(console, (f"server under load ({throughput.load_generator()})", "checks/s", "of empty"), shown)

    results = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_generator": throughput.load_generator(),
        "cost_microseconds": [dataclasses.asdict(row) for row in costs],
        "chain_microseconds": [dataclasses.asdict(row) for row in chains],
        "route_microseconds": [dataclasses.asdict(row) for row in found],
        "scale": [dataclasses.asdict(row) for row in scales],
        "throughput": [dataclasses.asdict(row) for row in rates],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


def _times(row: cost.Cost | chain.ChainCost) -> tuple[str, ...]:
    return (row.name, *(f"{value:.1f}" for value in (row.p50, row.p99, row.cpu)))


def _curve(row: routes.RouteCost) -> tuple[str, ...]:
    return (row.name, *(f"{value:.1f}" for value in row.by_size.values()))


def _sizes(row: scale.Scale) -> tuple[str, ...]:
    times = (f"{value:.2f}" for value in (row.route, row.evaluate, row.check))
    return (row.name, f"{row.load_seconds:.2f}", f"{row.load_megabytes:.0f}", *times)


def _print(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(headings[0], box=None)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
