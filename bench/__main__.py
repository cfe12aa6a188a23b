"""Run all measurements and print a table and JSON: `python -m bench`."""

import dataclasses
import json
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import cost, throughput

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    """Measure, print, and write bench/results/latest.json."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    costs = list(cost.measure())
    table = Table("check(bytes), microseconds a call", title_justify="left", box=None)
    for heading in ("p50", "p99", "cpu"):
        table.add_column(heading, justify="right")
    for row in costs:
        table.add_row(row.name, *(f"{value:.1f}" for value in (row.p50, row.p99, row.cpu)))
    console.print(table)

    rates = list(throughput.measure())
    table = Table(f"server under load ({throughput.load_generator()})", box=None)
    for heading in ("checks/s", "of empty"):
        table.add_column(heading, justify="right")
    for rate in rates:
        table.add_row(rate.name, f"{rate.checks_per_second:.0f}", f"{rate.ratio:.0%}")
    console.print(table)

    results = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_generator": throughput.load_generator(),
        "cost_microseconds": [dataclasses.asdict(row) for row in costs],
        "throughput": [dataclasses.asdict(row) for row in rates],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
