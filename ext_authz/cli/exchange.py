"""`ext-authz exchange`: the token exchange and its keys."""

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.cli.serve import uvloop
from ext_authz.errors import ConfigurationError
from ext_authz.exchange.keys import MAX_AGE_SECONDS, KeyRing, add_key, remove_retired
from ext_authz.exchange.run import serve_exchange
from ext_authz.exchange.settings import ExchangeSettings
from ext_authz.server.logs import LogStyle, configure_logs
from ext_authz.times import format_moment, parse_span

app = typer.Typer(help="Exchange delegation chains for agents (RFC 8693).", no_args_is_help=True)

_Keys = Annotated[Path, typer.Option(metavar="DIR", help="Directory of private keys.")]


@app.command()
def serve(
    *,
    spiffe_id: Annotated[str, typer.Option(metavar="ID", help="The exchange's own SPIFFE ID.")],
    policies: Annotated[
        Path, typer.Option(metavar="DIR", envvar="EXT_AUTHZ_POLICIES", help="Directory of policy documents.")
    ],
    keys: _Keys,
    control_store: Annotated[
        Path,
        typer.Option(
            metavar="FILE", envvar="EXT_AUTHZ_CONTROL_STORE", help="Revocations, quarantine, used one-time chains."
        ),
    ],
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="unix:/path, or HOST:PORT on loopback.")
    ] = "unix:/run/ext-authz/exchange.sock",
    socket_group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Group that may connect to the unix socket.")
    ] = None,
    audit_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a JSON line for each exchange.", show_default="stdout")
    ] = None,
    max_control_age: Annotated[
        str, typer.Option(metavar="SPAN", help="How old what is known of revocations may be.")
    ] = "60s",
    log_format: Annotated[LogStyle, typer.Option(help="Logs on standard error.")] = LogStyle.TEXT,
) -> None:
    """Answer token requests of a sidecar until SIGTERM.

    Example: ext-authz exchange serve --spiffe-id spiffe://agents.example.com/token-exchange
    --policies /etc/ext-authz/policies --keys /var/lib/ext-authz/keys --control-store /var/lib/ext-authz/control/control.db

    Policy and keys are read again when their files change; a broken change keeps what was there.
    """
    with exit_on_configuration_error():
        settings = ExchangeSettings.parse(
            spiffe_id=spiffe_id,
            listen=listen,
            policies=policies,
            keys=keys,
            control_store=control_store,
            socket_group=socket_group,
            audit_file=audit_file,
            max_control_age=max_control_age,
        )
        configure_logs("info", log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
            runner.run(serve_exchange(settings))


@app.command()
def keygen(keys: _Keys) -> None:
    """Make the first key, which signs at once.

    Example: ext-authz exchange keygen --keys /var/lib/ext-authz/keys

    The directory is made with mode 0700 and the key with 0600. Exits with 2 when there is a key already: use rotate.
    """
    with exit_on_configuration_error():
        if keys.exists() and any(keys.iterdir()):
            raise ConfigurationError([f"{keys}: is not empty: add a key with `ext-authz exchange rotate`"])
        key_id = add_key(keys, time.time())
    typer.echo(f"key `{key_id}` signs from now on")


@app.command()
def rotate(
    keys: _Keys,
    publish_for: Annotated[
        str, typer.Option(metavar="SPAN", help="How long the new key is published before it signs.")
    ] = "15m",
    now: Annotated[
        bool, typer.Option("--now", help="Sign with it at once: where the old key was stolen. Verifiers may lag.")
    ] = False,
) -> None:
    """Add a key, and remove those of which no token can be valid any more.

    Example: ext-authz exchange rotate --keys /var/lib/ext-authz/keys

    A running exchange notices by itself. The old key signs until the new one does, and is published until the last token
    that it signed has expired.
    """
    with exit_on_configuration_error():
        seconds = 0 if now else _publish_seconds(publish_for)
        began = time.time()
        removed = remove_retired(keys, began)
        key_id = add_key(keys, began + seconds)
    for each in removed:
        typer.echo(f"key `{each}` removed")
    typer.echo(f"key `{key_id}` signs from {format_moment(int(began + seconds))} on")


@app.command()
def jwks(keys: _Keys) -> None:
    """Print the JWK set that verifiers need, as the running exchange publishes it.

    Example: ext-authz exchange jwks --keys /var/lib/ext-authz/keys > policies/token-exchange.jwks.json
    """
    with exit_on_configuration_error():
        found = KeyRing.load(keys).key_set(time.time())
    typer.echo(json.dumps(found, indent=2))


def _publish_seconds(text: str) -> int:
    try:
        seconds = parse_span(text)
    except ValueError as error:
        raise ConfigurationError([f"--publish-for: `{text}`: {error}"]) from None
    if seconds < MAX_AGE_SECONDS:
        raise ConfigurationError(
            [f"--publish-for: `{text}`: verifiers may keep the old set for {MAX_AGE_SECONDS} s; --now signs at once"]
        )
    return seconds
