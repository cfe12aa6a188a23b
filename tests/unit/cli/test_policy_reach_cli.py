"""`ext-authz policy reach`: tables, diagrams, the page, and what programs get."""

import json
from pathlib import Path

import pytest
from support.example_policies import write_example
from typer.testing import CliRunner

from ext_authz.cli.exits import UNUSABLE
from ext_authz.cli.main import app


def run(directory: Path, *options: str) -> tuple[int, str, str]:
    """Run reach over the example; return exit code, standard output without trailing spaces, and standard error."""
    outcome = CliRunner().invoke(
        app, ["policy", "reach", str(write_example(directory)), *options], env={"COLUMNS": "80"}
    )
    lines = [line.rstrip() for line in outcome.stdout.splitlines()]
    return outcome.exit_code, "".join(f"{line}\n" for line in lines), outcome.stderr


def test_overview(tmp_path: Path) -> None:
    """Without an agent, everyone's reach in numbers, furthest first."""
    expected = """\
 agent            calls  reaches  reached by
 planner-agent        3        3           0
 retrieval-agent      2        2           1
 audit-agent          0        0           2
 database-agent       0        0           2
"""
    assert (0, expected, "") == run(tmp_path)


def test_from_an_agent(tmp_path: Path) -> None:
    """With one, whom it reaches, with what and through whom, and who reaches it."""
    expected = """\
 retrieval-agent reaches  actions       path
 audit-agent              read, search  directly
 database-agent           read          directly
 retrieval-agent is reached by  actions       path
 planner-agent                  read, search  directly
"""
    assert (0, expected, "") == run(tmp_path, "--from", "retrieval-agent")
    assert " audit-agent reaches: nobody\n" in run(tmp_path, "--from", "audit-agent")[1]


def test_json(tmp_path: Path) -> None:
    """Programs get the numbers and the calls, or the ways of one agent."""
    overview = json.loads(run(tmp_path, "--json")[1])
    assert {"agent": "planner-agent", "calls": 3, "reaches": 3, "reached_by": 0} == overview["agents"][0]
    assert {
        "subject": "retrieval-agent",
        "resource": "database-agent",
        "actions": ["read"],
        "rules": ["matrix.yaml:10"],
    } == overview["calls"][-1]
    radius = json.loads(run(tmp_path, "--from", "/planner-agent", "--json")[1])
    assert ("planner-agent", []) == (radius["from"], radius["reached_by"])
    assert {"path": ["planner-agent", "database-agent"], "actions": ["read"]} == radius["reaches"][1]


@pytest.mark.parametrize(
    ("form", "beginning"), [("mermaid", "flowchart LR\n"), ("dot", "digraph reach {\n"), ("html", "<!doctype html>\n")]
)
def test_formats(tmp_path: Path, form: str, beginning: str) -> None:
    """Each format is printed, or written into a file of which nothing is printed."""
    assert run(tmp_path, "--format", form)[1].startswith(beginning)
    file = tmp_path / "out"
    assert (0, "", "") == run(tmp_path, "--format", form, "-o", str(file), "--from", "planner-agent")
    assert file.read_text("utf-8").startswith(beginning)


def test_what_cannot_be_done(tmp_path: Path) -> None:
    """An agent that the policy does not know, and a file that cannot be written, exit with 2."""
    assert (
        UNUSABLE,
        "",
        "--from: the policy has nothing about `planer-agent`: did you mean `planner-agent`?\n",
    ) == run(tmp_path, "--from", "planer-agent")
    missing = tmp_path / "missing" / "reach.html"
    assert (UNUSABLE, "", f"{missing}: cannot write: No such file or directory\n") == run(tmp_path, "-o", str(missing))
