"""Lines that hold words of a policy: whoever wrote them, they stay one line, and nothing that a terminal or Markdown obeys."""

import re

import typer

_BACKTICKS = re.compile("`+")


def echo_line(line: str = "") -> None:
    """Print one line."""
    typer.echo(one_line(line))


def one_line(text: str) -> str:
    """Return a text with all that cannot be seen written out: line breaks, controls, what turns the reading direction."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def as_code(text: str) -> str:
    """Return a text as a code span of Markdown (CommonMark section 6.1): fenced by more backticks than it holds."""
    line = one_line(text)
    longest = max((len(run) for run in _BACKTICKS.findall(line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"`{line}`"
