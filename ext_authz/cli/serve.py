"""`ext-authz serve`."""

import asyncio
import os
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from ext_authz.admin.listener import administering
from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.documents.loader import read_mapping
from ext_authz.server.logs import configure_logs
from ext_authz.server.run import serve as serve_until_stopped
from ext_authz.settings import merge_settings

uvloop: ModuleType | None
try:
    import uvloop
except ImportError:  # no wheel for this platform: the standard loop does the same, slower
    uvloop = None


def serve(
    policies: Annotated[Path | None, typer.Option(help="Directory of policy documents.")] = None,
    listen: Annotated[str | None, typer.Option(help="unix:/path or HOST:PORT.", metavar="ADDRESS")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; flags and EXT_AUTHZ_* variables win.")
    ] = None,
    shadow: Annotated[
        Path | None, typer.Option(help="Policy documents to compare with, without any effect on answers.")
    ] = None,
    audit_file: Annotated[Path | None, typer.Option(help="Append audit records here as JSON lines.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
) -> None:
    """Answer Envoy's checks until SIGTERM.

    Example: ext-authz serve --policies policies/default --listen unix:/run/ext-authz/check.sock

    SIGHUP and file changes reload the policy; a broken one is refused and the last good one stays.
    """
    flags = {
        "policies": policies,
        "listen": listen,
        "shadow": shadow,
        "audit_file": audit_file,
        "log_level": log_level,
        "log_format": log_format,
    }
    with exit_on_configuration_error():
        settings = merge_settings(flags, os.environ, read_mapping(config) if config else {})
        configure_logs(settings.log_level, settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
            runner.run(serve_until_stopped(settings, beside=partial(administering, settings)))
