"""Exit codes: 0 ok, 1 the answer is no, 2 usage or unreadable input."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ext_authz.errors import ConfigurationError

NO = 1
UNUSABLE = 2


@contextmanager
def exit_on_configuration_error() -> Iterator[None]:
    """Print every problem on standard error and exit with UNUSABLE."""
    try:
        yield
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(UNUSABLE) from None
