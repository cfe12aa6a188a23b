"""`ext-authz policy show`: the matrix as it takes effect."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.example_policies import DELEGATION, write_example
from typer.testing import CliRunner

from ext_authz.cli.exits import UNUSABLE
from ext_authz.cli.main import app

TABLE = """\
 subject          resource         actions                asks for
 planner-agent    audit-agent      read                   delegation optional
                                                          or delegation
                                                          forbidden
                                   search                 delegation forbidden
                  database-agent   read                   delegation required;
                                                          scopes hr:read,
                                                          hr:write; max_hops 3
                                   not write
                                   (matrix.yaml:14)
                  retrieval-agent  read, search           delegation optional
 retrieval-agent  audit-agent      read, search           delegation forbidden
                  crm-agent        nothing
                                   (matrix.yaml:15)
                  database-agent   read                   delegation required
"""


def run(directory: Path, *options: str, columns: int = 80, delegation: str = DELEGATION) -> str:
    """Show the example and return what is printed, trailing spaces cut."""
    outcome = CliRunner().invoke(
        app,
        ["policy", "show", str(write_example(directory, delegation)), *options],
        env={"COLUMNS": str(columns)},
    )
    assert (0, "") == (outcome.exit_code, outcome.stderr)
    return "".join(f"{line.rstrip()}\n" for line in outcome.stdout.splitlines())


def test_table(tmp_path: Path) -> None:
    """Groups are resolved, grants of one thing stand together, denials are named, and 80 columns are enough."""
    output = run(tmp_path)
    assert TABLE == output
    assert max(map(len, output.splitlines())) <= 80


def test_narrow_terminal_loses_nothing(tmp_path: Path) -> None:
    """What does not fit is broken, never cut."""
    letters = Counter("".join(run(tmp_path, columns=40).split()))
    assert Counter("".join(TABLE.split())) == letters


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--subject", "planner-agent"], 6),
        (["--subject", "spiffe://agents.example.com/planner-agent", "--resource", "audit-agent"], 2),
        (["--resource", "crm-agent"], 1),
        (["--action", "write"], 2),
        (["--action", "search"], 4),
        ([], 10),
    ],
)  # fmt: skip
def test_filters(tmp_path: Path, options: list[str], rows: int) -> None:
    """Each option leaves out what is about others; a denial of every action is about any."""
    assert rows == len(json.loads(run(tmp_path, *options, "--json"))["entries"])


def test_json(tmp_path: Path) -> None:
    """Programs get each entry with the rules behind it, and whether it can be allowed."""
    (denied, guarded) = json.loads(run(tmp_path, "--action", "write", "--json"))["entries"]
    asks = {"delegation": "required", "scopes": ["hr:read", "hr:write"], "max_hops": 3}
    assert {
        "subject": "planner-agent",
        "resource": "database-agent",
        "action": "write",
        "allowed": False,
        "grants": [{"rule": "matrix.yaml:8", "asks": asks}],
        "denied_by": "matrix.yaml:14",
        "denied_by_when": [],
    } == denied
    assert ("*", False, [], "matrix.yaml:15") == tuple(
        guarded[key] for key in ("action", "allowed", "grants", "denied_by")
    )


def test_what_a_cell_leaves_to_the_delegation_document(tmp_path: Path) -> None:
    """Where a Delegation document says what is usual, the entry says it."""
    options = ("--subject", "planner-agent", "--resource", "retrieval-agent", "--json")
    for delegation, mode in ((DELEGATION, "optional"), (DELEGATION.replace("false", "true"), "required")):
        (entry, _) = json.loads(run(tmp_path, *options, delegation=delegation))["entries"]
        assert {"delegation": mode} == entry["grants"][0]["asks"]


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--subject", "planer-agent", "the policy has nothing about `planer-agent`: did you mean `planner-agent`?"),
        ("--resource", "a b", "`a b` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"),
        ("--action", "serch", "unknown action `serch`: did you mean `search`?"),
    ],
)  # fmt: skip
def test_unknown_names(tmp_path: Path, option: str, name: str, message: str) -> None:
    """A slip is told, and is never an empty table."""
    outcome = CliRunner().invoke(app, ["policy", "show", str(write_example(tmp_path)), option, name])
    assert (UNUSABLE, "", f"{option}: {message}\n") == (outcome.exit_code, outcome.stdout, outcome.stderr)


def test_nothing_granted(tmp_path: Path) -> None:
    """A policy without cells shows nothing, in a word."""
    (tmp_path / "a.yaml").write_text(
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\n---\nkind: ActionRegistry\nactions: {read: {asserted: true}}\n"
    )
    outcome = CliRunner().invoke(app, ["policy", "show", str(tmp_path)])
    assert (0, "nothing\n") == (outcome.exit_code, outcome.stdout)
