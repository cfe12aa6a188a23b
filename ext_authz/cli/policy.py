"""`ext-authz policy`: what a policy author needs before a change goes live."""

from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.cli.shadow_report import shadow_report
from ext_authz.policy.compile import load

app = typer.Typer(help="Check policy documents.", no_args_is_help=True)
app.command()(shadow_report)


@app.callback()
def _policy() -> None:
    """Check policy documents."""


@app.command()
def validate(directory: Annotated[Path, typer.Argument(help="Directory of policy documents.")]) -> None:
    """Load a policy directory and list everything that is wrong with it.

    Example: ext-authz policy validate policies/default

    Exits with 0 when the policy can be served, with 2 when it cannot.
    """
    with exit_on_configuration_error():
        policy = load(directory)
    typer.echo(
        f"{directory}: ok (grants: {policy.grant_count}, denials: {len(policy.matrix.denials)}, "
        f"actions: {len(policy.registry.actions)}, digest: {policy.digest[:12]})"
    )
