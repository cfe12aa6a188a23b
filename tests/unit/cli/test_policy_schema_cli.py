"""`ext-authz policy schema`: what editors read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ext_authz.cli.exits import UNUSABLE
from ext_authz.cli.main import app
from ext_authz.documents.models import POLICY_KINDS
from ext_authz.documents.schema import packaged_schemas


@pytest.mark.parametrize("kind", [None, *POLICY_KINDS])
def test_prints_a_schema(kind: str | None) -> None:
    """Without a kind, the schema of any document; with one, that of the kind."""
    outcome = CliRunner().invoke(app, ["policy", "schema", *([kind] if kind else [])])
    assert (0, packaged_schemas()[kind or "policy"]) == (outcome.exit_code, outcome.stdout)


def test_unknown_kind() -> None:
    """A slip in the kind is told."""
    outcome = CliRunner().invoke(app, ["policy", "schema", "PermisionMatrix"])
    assert (UNUSABLE, "unknown kind `PermisionMatrix`: did you mean `PermissionMatrix`?\n") == (
        outcome.exit_code,
        outcome.stderr,
    )


def test_writes_all(tmp_path: Path) -> None:
    """One file for each kind and one for all, each named on standard output."""
    folder = tmp_path / "new" / "schemas"
    outcome = CliRunner().invoke(app, ["policy", "schema", "--all", str(folder)])
    assert outcome.exit_code == 0
    assert sorted(outcome.stdout.split()) == sorted(map(str, folder.iterdir()))
    assert {f"{name}.schema.json": text for name, text in packaged_schemas().items()} == {
        path.name: path.read_text("utf-8") for path in folder.iterdir()
    }
    assert all(json.loads(path.read_text("utf-8"))["title"] for path in folder.iterdir())


@pytest.mark.parametrize("arguments", [["--all", "FILE"], ["PermissionMatrix", "--all", "NEW"]])
def test_cannot_write(tmp_path: Path, arguments: list[str]) -> None:
    """A directory that cannot be made, and a kind beside --all, exit with 2."""
    (tmp_path / "FILE").write_text("")
    named = [str(tmp_path / word) if word.isupper() else word for word in arguments]
    assert CliRunner().invoke(app, ["policy", "schema", *named]).exit_code == UNUSABLE
    assert not (tmp_path / "NEW").exists()
