"""`ext-authz policy`: what a policy author needs before a change goes live."""

from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli import policy_diff, policy_explain, policy_suites
from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.cli.policy_export import export
from ext_authz.cli.shadow_report import shadow_report
from ext_authz.documents.loader import load_policy
from ext_authz.policy.compile import compile_policy
from ext_authz.review.suites import compile_suites

app = typer.Typer(help="Check policy documents.", no_args_is_help=True)
app.command()(export)
app.command("test")(policy_suites.run_tests)
app.command()(policy_explain.explain)
app.command()(policy_diff.diff)
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
        documents = load_policy(directory)
        policy = compile_policy(documents)
        compile_suites(documents, policy)
    typer.echo(
        f"{directory}: ok (grants: {policy.grant_count}, denials: {policy.denial_count}, "
        f"actions: {len(policy.registry.actions)}, digest: {policy.digest[:12]})"
    )
