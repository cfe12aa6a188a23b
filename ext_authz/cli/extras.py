"""Commands that need an extra of the package say which one."""

import importlib.util

import typer

from ext_authz.cli.exits import UNUSABLE


def require_extra(extra: str, *modules: str) -> None:
    """Exit with UNUSABLE unless all modules of an extra are installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        typer.echo(f"{', '.join(missing)} not installed: pip install 'ext-authz[{extra}]'", err=True)
        raise typer.Exit(UNUSABLE)
