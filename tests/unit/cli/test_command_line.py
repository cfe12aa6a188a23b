"""The `ext-authz` command: help, exit codes, and what is printed where."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from support.authorizers import DEFAULT_POLICY
from support.server_process import server_environment
from typer.testing import CliRunner

from ext_authz.cli.exits import NO, UNUSABLE, exit_on_configuration_error
from ext_authz.cli.main import app
from ext_authz.errors import ConfigurationError

TIMEOUT_SECONDS = 60
COMMAND = typer.main.get_command(app)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below this one with the words that call it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


ALL = dict(commands(COMMAND))
LEAVES = [path for path, command in ALL.items() if not getattr(command, "commands", None)]


def run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the command as a process; return exit code, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "ext_authz", *arguments],
        env=server_environment(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help(path: tuple[str, ...], flag: str) -> None:
    """Every command and group explains itself and exits with 0."""
    outcome = CliRunner().invoke(app, [*path, flag])
    assert outcome.exit_code == 0
    assert "Usage:" in outcome.output
    assert ALL[path].help


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    """The help of every command has an example that calls this very command."""
    assert f"Example: ext-authz {' '.join(path)} " in f"{ALL[path].help} "


# They have a default for everything.
COMPLETE = {("serve",), ("demo",), ("policy", "schema")}


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in COMPLETE], ids=" ".join)
def test_command_without_arguments(path: tuple[str, ...]) -> None:
    """A command that needs something says so and exits with 2."""
    assert CliRunner().invoke(app, list(path)).exit_code == UNUSABLE


def test_exit_codes() -> None:
    """1 means that the answer is no, 2 that something cannot be used: scripts rely on it."""
    assert (1, 2) == (NO, UNUSABLE)


def test_every_problem_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a configuration goes to standard error, one line each, and ends the command with 2."""
    with pytest.raises(typer.Exit) as caught, exit_on_configuration_error():
        raise ConfigurationError(["first", "second"])
    assert UNUSABLE == caught.value.exit_code
    assert ("", "first\nsecond\n") == capsys.readouterr()


def test_version() -> None:
    """The version is that of the installed package."""
    assert (0, f"ext-authz {version('ext-authz')}\n", "") == run("--version")


@pytest.mark.parametrize("arguments", [[], ["policy"]])
def test_nothing_to_do(arguments: list[str]) -> None:
    """Without a command the help is printed."""
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == UNUSABLE
    assert "Usage:" in outcome.output


@pytest.mark.parametrize("arguments", [["polcy"], ["serve", "--colour", "red"], ["policy", "validate", "a", "b"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """An unknown command, flag or argument exits with 2."""
    assert CliRunner().invoke(app, arguments).exit_code == UNUSABLE


def test_validate_a_good_policy() -> None:
    """A policy that can be served exits with 0 and says what it holds."""
    outcome = CliRunner().invoke(app, ["policy", "validate", str(DEFAULT_POLICY)])
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith(f"{DEFAULT_POLICY}: ok (grants: 17, denials: 1, actions: 13, digest: ")
    assert outcome.stderr == ""


def test_validate_a_broken_policy(tmp_path: Path) -> None:
    """A policy that cannot be served exits with 2, and every problem is on standard error."""
    (tmp_path / "matrix.yaml").write_text("kind: PermissionMatrix\nmatrx: {}\ngroups: []\n")
    outcome = CliRunner().invoke(app, ["policy", "validate", str(tmp_path)])
    assert (UNUSABLE, "") == (outcome.exit_code, outcome.stdout)
    assert [
        f"{tmp_path}/matrix.yaml:2:1: unknown key `matrx`: did you mean `matrix`?",
        f"{tmp_path}/matrix.yaml:3:9: expected a mapping from group names to lists of names, got a list",
    ] == outcome.stderr.splitlines()


def test_validate_a_missing_policy(tmp_path: Path) -> None:
    """A directory that is not there exits with 2."""
    missing = tmp_path / "missing"
    outcome = CliRunner().invoke(app, ["policy", "validate", str(missing)])
    assert outcome.exit_code == UNUSABLE
    assert outcome.stderr == f"{missing}:1:1: cannot read the policy directory: No such file or directory\n"


NOT_GIVEN = "policies: not given: set --policies, EXT_AUTHZ_POLICIES, or `policies` in the settings file\n"


def test_serve_without_policies() -> None:
    """Without a policy directory nothing starts; the three ways of naming one are told."""
    assert (UNUSABLE, "", NOT_GIVEN) == run("serve")


def test_serve_with_settings_that_cannot_be_used(tmp_path: Path) -> None:
    """Problems of flags, variables and file come in one run, before anything is loaded."""
    config = tmp_path / "settings.yaml"
    config.write_text("watch: sometimes\n")
    code, output, errors = run(
        *("serve", "--policies", str(DEFAULT_POLICY), "--config", str(config), "--listen", "0.0.0.0:9001"),
        environment={"EXT_AUTHZ_LOG_FORMAT": "xml"},
    )
    assert (UNUSABLE, "") == (code, output)
    assert [
        "EXT_AUTHZ_LOG_FORMAT: input should be 'text' or 'json'",
        "watch: input should be a valid boolean, unable to interpret input",
        "`0.0.0.0:9001` is open to the network without TLS: set tls_certificate and tls_key, or `insecure: true`",
    ] == errors.splitlines()


def test_serve_with_a_settings_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A settings file that is missing or ambiguous is named with the place."""
    missing, guessed = tmp_path / "missing.yaml", tmp_path / "guessed.yaml"
    guessed.write_text("insecure: yes\n")
    assert (UNUSABLE, "", f"{missing}:1:1: no such file\n") == run("serve", "--config", str(missing))
    assert (
        UNUSABLE,
        "",
        f"{guessed}:1:11: `yes` reads differently from reader to reader: write true or false, or put it in quotes\n",
    ) == run("serve", "--config", str(guessed))


def test_serve_with_missing_policies(tmp_path: Path) -> None:
    """A policy directory that is not there exits with 2 and is named."""
    missing = tmp_path / "missing"
    code, output, errors = run("serve", "--policies", str(missing), "--listen", f"unix:{tmp_path / 'a.sock'}")
    assert (UNUSABLE, "") == (code, output)
    assert errors == f"{missing}:1:1: cannot read the policy directory: No such file or directory\n"
    assert not (tmp_path / "a.sock").exists()
