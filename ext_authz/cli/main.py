"""The `ext-authz` command."""

import sys
from importlib.metadata import version as package_version
from typing import Annotated

import typer

from ext_authz.cli import envoy, exchange, policy, token
from ext_authz.cli.demo import demo
from ext_authz.cli.learn import learn
from ext_authz.cli.policy_init import init
from ext_authz.cli.policy_lint import lint
from ext_authz.cli.policy_reach import reach
from ext_authz.cli.policy_schema import schema
from ext_authz.cli.policy_show import show
from ext_authz.cli.revocation import quarantine, revoke
from ext_authz.cli.serve import serve

app = typer.Typer(
    help="Envoy external authorization for AI agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(demo)
app.command()(quarantine)
app.command()(learn)
app.add_typer(policy.app, name="policy")
policy.app.command()(init)
policy.app.command()(lint)
policy.app.command()(show)
policy.app.command()(reach)
policy.app.command()(schema)
app.add_typer(token.app, name="token")
token.app.command()(revoke)
app.add_typer(exchange.app, name="exchange")
app.add_typer(envoy.app, name="envoy")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ext-authz {package_version('ext-authz')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Envoy external authorization for AI agents."""


def run() -> None:
    """Run the command line."""
    sys.exit(app())
