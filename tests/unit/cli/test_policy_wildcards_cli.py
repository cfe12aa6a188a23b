"""`policy show`, `policy reach`, `policy test` and `learn` where subjects have wildcards."""

import json
from pathlib import Path

import pytest
from support.written_policies import ACTIONS, HEAD
from typer.testing import CliRunner, Result

from ext_authz.cli.main import app

MATRIX = """\
matrix:
  ns/*/sa/reader:
    store: [search]
  ns/a/sa/reader:
    store: {actions: [search], max_hops: 2}
  store:
    archive: [write]
deny:
  - {subject: ns/b/sa/*, resource: store, action: "*"}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a policy with wildcards."""
    (tmp_path / "policy.yaml").write_text(f"{HEAD}{MATRIX}{ACTIONS}")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """Run a command on 100 columns."""
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "100"})


def test_show_has_rows_as_written(directory: Path) -> None:
    """A subject with wildcards has a row of its own, and what it grants counts in the row of one who fits it."""
    lines = run("policy", "show", directory).stdout.splitlines()
    assert [
        "subject         resource  actions                   asks for",
        "ns/*/sa/reader  store     search",
        "ns/a/sa/reader  store     search",
        "ns/b/sa/*       store     nothing (policy.yaml:11)",
        "store           archive   write",
    ] == [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("subject", "rows"),
    [
        ("ns/a/sa/reader", ["ns/*/sa/reader", "ns/a/sa/reader"]),
        ("ns/c/sa/reader", ["ns/*/sa/reader"]),
        ("ns/b/sa/reader", ["ns/*/sa/reader", "ns/b/sa/*"]),
        ("ns/*/sa/reader", ["ns/*/sa/reader"]),
    ],
)
def test_show_of_who_fits(directory: Path, subject: str, rows: list[str]) -> None:
    """Whom only wildcards are about can be asked for, and has their rows."""
    shown = json.loads(run("policy", "show", directory, "--subject", subject, "--json").stdout)
    assert rows == [entry["subject"] for entry in shown["entries"]]


def test_stranger_fits_nothing(directory: Path) -> None:
    """Who fits no wildcard is still a slip."""
    outcome = run("policy", "show", directory, "--subject", "ns/a/b/sa/reader")
    assert (2, True) == (outcome.exit_code, "nothing about `ns/a/b/sa/reader`" in outcome.stderr)


@pytest.mark.parametrize(
    ("start", "reached"),
    [
        ("ns/*/sa/reader", ["store", "archive"]),
        ("ns/a/sa/reader", ["store", "archive"]),
        ("ns/c/sa/reader", ["store", "archive"]),
        ("ns/b/sa/reader", []),
        ("store", ["archive"]),
    ],
)
def test_reach_of_who_fits(directory: Path, start: str, reached: list[str]) -> None:
    """The blast radius of one who fits is that of the wildcard, less what is denied."""
    outcome = run("policy", "reach", directory, "--from", start, "--json")
    assert reached == [way["path"][-1] for way in json.loads(outcome.stdout)["reaches"]]


@pytest.mark.parametrize("form", ["mermaid", "dot", "html"])
def test_drawings_have_wildcards(directory: Path, form: str) -> None:
    """A subject with wildcards is drawn as it is written."""
    assert "ns/*/sa/reader" in run("policy", "reach", directory, "--format", form).stdout


def test_suite_covers_a_wildcard(directory: Path) -> None:
    """A test of anyone who fits covers the cell of a wildcard, and its denial; a name that fits is no stranger."""
    tests = [
        {"name": who, "request": {"from": f"ns/{who}/sa/reader", "to": "store", "action": "search"}, "expect": expect}
        for who, expect in (("c", "allow"), ("b", {"outcome": "deny", "reason": "denied_by_rule"}))
    ]
    (directory / "tests.yaml").write_text(json.dumps({"kind": "TestSuite", "tests": tests}))
    outcome = run("policy", "test", directory, "--coverage", "--json")
    assert 0 == outcome.exit_code, outcome.output
    coverage = json.loads(outcome.stdout)["directories"][0]["coverage"]
    assert {
        "ns/*/sa/reader -> store: search": True,
        "ns/a/sa/reader -> store: search": False,
        "store -> archive: write": False,
        "deny ns/b/sa/* -> store: *": True,
    } == {part["text"]: part["is_covered"] for part in coverage["parts"]}


def test_learn_narrows_wildcards(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those who were seen are proposed by name, with the conditions of every cell; what is left of a wildcard is said."""
    (directory / "policy.yaml").write_text(
        f"{HEAD}{MATRIX}".replace("store: [search]", "store: {actions: [search, write], max_hops: 3}") + ACTIONS
    )
    callers = ["ns/c/sa/reader", "ns/d/sa/reader", "ns/a/sa/reader", "ns/b/sa/reader"]
    entry = {"local": "spiffe://agents.example.com/store", "method": "POST", "path": "/v1/search", "status": 200}
    seen = tmp_path_factory.mktemp("seen") / "access.jsonl"
    seen.write_text(
        "".join(f"{json.dumps({**entry, 'peer': f'spiffe://agents.example.com/{who}'})}\n" for who in callers)
    )
    outcome = run("learn", seen, "--policies", directory)
    assert 0 == outcome.exit_code, outcome.output
    assert "*" not in outcome.stdout
    assert [2, 1, 1] == [outcome.stdout.count(f'"ns/{who}/sa/reader":') for who in "acd"]
    assert [
        "! ns/b/sa/reader -> store: search: seen, and denied (policy.yaml:11); not proposed",
        "~ ns/*/sa/reader -> store: search (policy.yaml:5): granted to all who fit, seen of 3; narrowed to them",
        "- ns/*/sa/reader -> store: write (policy.yaml:5): granted, and never seen of anyone who fits",
        "- store -> archive: write (policy.yaml:9): granted, and never seen",
    ] == outcome.stderr.splitlines()[1:]
