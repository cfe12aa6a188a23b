"""`ext-authz policy init`: a policy to begin with."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from ext_authz.analysis.lint import lint
from ext_authz.analysis.survey import survey
from ext_authz.cli.exits import UNUSABLE
from ext_authz.cli.main import app
from ext_authz.documents.reader import read_documents
from ext_authz.policy.compile import load


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command of `policy`; return exit code, standard output and standard error."""
    outcome = CliRunner().invoke(app, ["policy", *arguments])
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """Write the starter into a new directory."""
    directory = tmp_path / "policies" / "mine"
    code, output, errors = run("init", str(directory), "--trust-domain", "prod.example.com")
    files = "".join(
        f"{path}\n" for path in sorted(directory.iterdir(), key=lambda path: (path.suffix == ".json", path))
    )
    assert (0, "") == (code, errors)
    assert output.startswith(files)
    return directory


def test_starter_passes_everything(starter: Path) -> None:
    """The starter can be served, has nothing for lint, and its own tests cover it."""
    assert load(starter).grant_count > 0
    assert [] == lint(survey(starter))
    code, output, _ = run("test", str(starter), "--coverage", "--fail-under", "100")
    assert code == 0, output


def test_starter_in_an_editor(starter: Path) -> None:
    """Each file begins with the line that editors look for, names the schema beside it, and follows it."""
    schema = Draft202012Validator(json.loads((starter / "policy.schema.json").read_text("utf-8")))
    for path in starter.glob("*.yaml"):
        text = path.read_text("utf-8")
        assert text.startswith("# yaml-language-server: $schema=policy.schema.json\n")
        assert all(schema.is_valid(document.value) for document in read_documents(text))


def test_what_stands_in_comments_is_right(starter: Path) -> None:
    """The Delegation document that is commented out is one, once the signs in front are taken away."""
    path = starter / "delegation.yaml"
    _, _, commented = path.read_text("utf-8").partition("#\n")
    path.write_text(
        "\n".join(
            line.removeprefix("# ") for line in commented.splitlines() if "keys:" not in line and "bundles:" not in line
        )
    )
    delegation = load(starter).delegation
    assert delegation is not None
    assert delegation.required


def test_trust_domain(starter: Path) -> None:
    """Names belong to the trust domain that was asked for, everywhere."""
    assert load(starter).names.trust_domain == "prod.example.com"
    assert not any("TRUST_DOMAIN" in path.read_text("utf-8") for path in starter.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A directory with any document in it is left alone, whatever its name."""
    other = tmp_path / "other.yml"
    other.write_text("mine")
    assert (UNUSABLE, "", f"{other}: is here already: name a new directory\n") == run("init", str(tmp_path))
    assert [other] == list(tmp_path.iterdir())


def test_file_that_is_no_document_is_not_overwritten_either(tmp_path: Path) -> None:
    """A schema that is here already stays as it is."""
    schema = tmp_path / "policy.schema.json"
    schema.write_text("mine")
    code, _, errors = run("init", str(tmp_path))
    assert (UNUSABLE, f"{schema}: cannot write: File exists\n") == (code, errors)
    assert schema.read_text() == "mine"


def test_wrong_input(tmp_path: Path) -> None:
    """What is no trust domain, and what is no directory, exits with 2 and writes nothing."""
    (tmp_path / "file").write_text("")
    code, _, errors = run("init", str(tmp_path / "new"), "--trust-domain", "Prod")
    assert UNUSABLE == code
    assert errors.startswith("--trust-domain: `Prod` is no trust domain: ")
    assert not (tmp_path / "new").exists()
    assert (UNUSABLE, "", f"{tmp_path}/file: cannot be made: File exists\n") == run("init", str(tmp_path / "file"))
