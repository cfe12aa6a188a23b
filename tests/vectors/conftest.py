"""What was not run stands at the end of the output, whatever pytest was asked to report."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every skipped vector and why."""
    if terminalreporter.hasopt("s"):
        return
    for report in terminalreporter.stats.get("skipped", ()):
        if "test_vectors.py" in report.nodeid:
            terminalreporter.write_line(f"NOT RUN {report.nodeid} - {report.longrepr[2]}")
