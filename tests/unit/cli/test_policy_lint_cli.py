"""`ext-authz policy lint`: what is printed, and which exit code scripts get."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ext_authz.cli.exits import NO, UNUSABLE
from ext_authz.cli.main import app

HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
ACTIONS = '---\nkind: ActionRegistry\nactions: {read: {http: ["GET /"]}}\n'
GRANT = "matrix: {a: {b: [read]}}\n"
NOTE = f"{HEAD}{GRANT}deny: [{{subject: b, resource: a, action: read}}]\n{ACTIONS}"
WARNING = f"{HEAD}groups: {{g: [a]}}\n{GRANT}{ACTIONS}"
ERROR = f"{HEAD}{GRANT}deny: [{{subject: a, resource: b, action: read}}]\n{ACTIONS}"


def run(directory: Path, policy: str, *options: str) -> tuple[int, str, str]:
    """Run lint over a policy; return exit code, standard output and standard error, paths shortened."""
    (directory / "policy.yaml").write_text(policy)
    outcome = CliRunner().invoke(app, ["policy", "lint", str(directory), *options])
    return (
        outcome.exit_code,
        outcome.stdout.replace(str(directory), "policies"),
        outcome.stderr.replace(str(directory), "policies"),
    )


@pytest.mark.parametrize(
    ("policy", "code", "strict_code"),
    [(f"{HEAD}{GRANT}{ACTIONS}", 0, 0), (NOTE, 0, 0), (WARNING, 0, NO), (ERROR, NO, NO), ("kind: X\n", UNUSABLE, UNUSABLE)],
    ids=["nothing", "note", "warning", "error", "unreadable"],
)  # fmt: skip
def test_exit_codes(tmp_path: Path, policy: str, code: int, strict_code: int) -> None:
    """Errors answer no, warnings only with --strict, notes never; a policy that cannot be loaded is neither."""
    assert (code, strict_code) == (run(tmp_path, policy)[0], run(tmp_path, policy, "--strict")[0])


def test_findings_are_lines(tmp_path: Path) -> None:
    """Each finding is a line that editors can follow, and the last line counts them."""
    assert (
        0,
        (
            "policies/policy.yaml:3:10: warning: group `g` is used nowhere: remove it [group-unused]\n"
            "policies: errors: 0, warnings: 1, notes: 0\n"
        ),
        "",
    ) == run(tmp_path, WARNING)
    assert (0, "policies: nothing found\n", "") == run(tmp_path, WARNING, "--ignore", "group-unused")


def test_json(tmp_path: Path) -> None:
    """Programs get every part of a finding by name, and the same exit code."""
    code, output, _ = run(tmp_path, WARNING, "--json", "--strict")
    assert code == NO
    assert {
        "findings": [
            {
                "rule": "group-unused",
                "level": "warning",
                "path": "policies/policy.yaml",
                "line": 3,
                "column": 10,
                "sentence": "group `g` is used nowhere",
                "fix": "remove it",
            }
        ]
    } == json.loads(output)


def test_unknown_rule(tmp_path: Path) -> None:
    """A rule that does not exist cannot be ignored: the name may be a slip, and another rule was meant."""
    assert (UNUSABLE, "", "--ignore: unknown rule `group-unsed`: did you mean `group-unused`?\n") == run(
        tmp_path, WARNING, "--ignore", "group-unsed"
    )
