"""The hooks of pre-commit and the example for continuous integration call commands and options that are there."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ext_authz.cli.main import app

ROOT = Path(__file__).parents[2]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
WORKFLOW = yaml.safe_load((ROOT / "examples" / "ci" / "policy.yaml").read_text("utf-8"))


def _steps() -> Iterator[dict[str, Any]]:
    for job in WORKFLOW["jobs"].values():
        yield from job["steps"]


LINES = [hook["entry"] for hook in HOOKS] + [
    step["run"] for step in _steps() if "ext-authz policy" in step.get("run", "")
]


@pytest.mark.parametrize("line", LINES)
def test_line_is_a_command(line: str) -> None:
    """Each line names a command of `ext-authz`, and options that it has."""
    program, *words = shlex.split(line.partition(" >> ")[0])
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert program == "ext-authz"
    assert known >= {word for word in words if word.startswith("-")}


def test_hooks_take_a_directory() -> None:
    """A hook checks the whole directory in `args`, never single files, which are no policy."""
    assert {"validate", "lint", "test"} == {hook["entry"].split()[-1] for hook in HOOKS}
    assert all(hook["pass_filenames"] is False for hook in HOOKS)


def test_workflow_puts_nothing_of_the_change_into_a_script() -> None:
    """What a stranger can name, such as a branch, comes by way of the environment: text in a script would be run."""
    assert not any("${{" in step.get("run", "") for step in _steps())
