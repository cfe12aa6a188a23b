"""`ext-authz envoy`: sidecar configurations, rendered and checked."""

import json
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.configuration import read_configuration
from ext_authz.render.lint import has_http, lint
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Sidecar
from ext_authz.render.validation import envoy_path, validate

app = typer.Typer(help="Render and check Envoy sidecar configurations.", no_args_is_help=True)


class Role(StrEnum):
    """Which of an agent's two sidecars."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class AppProtocol(StrEnum):
    """How the inbound sidecar speaks to the agent."""

    HTTP1 = "http1"
    HTTP2 = "http2"


_INBOUND = "Inbound"
_OUTBOUND = "Outbound"
_FILES = "Certificates from files, for checks"


@app.command(no_args_is_help=True)
def render(
    *,
    role: Annotated[Role, typer.Option(help="Which sidecar to render.")],
    spiffe_id: Annotated[str, typer.Option(metavar="ID", help="The agent's own SPIFFE ID.")],
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen.", show_default="0.0.0.0:8443 or 127.0.0.1:15001"),
    ] = None,
    sds: Annotated[
        str, typer.Option(metavar="unix:PATH", help="Socket of the SPIRE agent, or of the local identity provider.")
    ] = "unix:/run/spire/agent/agent.sock",
    admin: Annotated[
        str | None,
        typer.Option(metavar="unix:PATH", help="Admin interface.", show_default="unix:/run/envoy/ROLE-admin.sock"),
    ] = None,
    access_log: Annotated[str, typer.Option(metavar="PATH", help="Access log: JSON lines.")] = "/dev/stdout",
    stream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX", help="Path prefix whose bodies are not buffered: gRPC, uploads, SSE. Repeatable."
        ),
    ] = None,
    stream_limit: Annotated[str, typer.Option(metavar="TIME", help="How long a stream may last.")] = "10m",
    app_: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="HOST:PORT", help="The agent.", show_default="127.0.0.1:8080", rich_help_panel=_INBOUND
        ),
    ] = None,
    app_protocol: Annotated[
        AppProtocol | None,
        typer.Option(help="http2 for an agent that speaks gRPC.", show_default="http1", rich_help_panel=_INBOUND),
    ] = None,
    authz: Annotated[
        str | None,
        typer.Option(
            metavar="unix:PATH",
            help="The authorization server, also HOST:PORT on loopback; an outbound sidecar asks none unless this says which.",
            show_default="unix:/run/ext-authz/check.sock, outbound: none",
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name under which callers know the agent. Repeatable.",
            show_default="last segment of the SPIFFE ID",
            rich_help_panel=_INBOUND,
        ),
    ] = None,
    federated: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN",
            help="Other trust domain whose workloads may connect. Repeatable.",
            rich_help_panel=_INBOUND,
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long a request waits for its decision.",
            show_default="50ms",
        ),
    ] = None,
    caller_rate: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Calls a second that one caller may make.",
            show_default="200",
            rich_help_panel=_INBOUND,
        ),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HOST:PORT,ID",
            help="Agent that may be called: its name, its address, its SPIFFE ID. Repeatable.",
            rich_help_panel=_OUTBOUND,
        ),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="SVID, instead of --sds.", rich_help_panel=_FILES)] = None,
    private_key: Annotated[Path | None, typer.Option(help="Key of the SVID.", rich_help_panel=_FILES)] = None,
    trust_bundle: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN=FILE", help="Bundle of a trust domain. Repeatable.", rich_help_panel=_FILES),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default="stdout")] = None,
) -> None:
    """Render the configuration of an agent's inbound or outbound sidecar.

    Example: ext-authz envoy render --role inbound --spiffe-id spiffe://agents.example.com/database-agent -o inbound.yaml

    Example: ext-authz envoy render --role outbound --spiffe-id spiffe://agents.example.com/planner-agent
    --upstream database-agent=10.0.0.7:8443,spiffe://agents.example.com/database-agent

    The same file works with a SPIRE agent and with the local identity provider: only --sds differs.
    """
    with exit_on_configuration_error():
        certificates: str | FileCertificates = sds
        if certificate or private_key or trust_bundle:
            certificates = FileCertificates.parse(certificate, private_key, trust_bundle or ())
        if role is Role.INBOUND:
            _refuse(role, {"--upstream": upstream})
            sidecar: Sidecar = InboundSidecar.parse(
                spiffe_id=spiffe_id,
                listen=listen or "0.0.0.0:8443",
                app=app_ or "127.0.0.1:8080",
                authz=authz or "unix:/run/ext-authz/check.sock",
                admin=admin or "unix:/run/envoy/inbound-admin.sock",
                certificates=certificates,
                hosts=host or (),
                timeout=timeout or "50ms",
                app_http2=app_protocol is AppProtocol.HTTP2,
                federated=federated or (),
                streams=stream or (),
                stream_limit=stream_limit,
                caller_rate=200 if caller_rate is None else caller_rate,
                access_log=access_log,
            )
        else:
            given = {"--app": app_, "--app-protocol": app_protocol, "--host": host}
            _refuse(role, given | {"--federated": federated, "--caller-rate": caller_rate})
            if authz is None and timeout is not None:
                raise ConfigurationError(["--timeout is that of a decision: say who decides, with --authz"])
            sidecar = OutboundSidecar.parse(
                spiffe_id=spiffe_id,
                listen=listen or "127.0.0.1:15001",
                admin=admin or "unix:/run/envoy/outbound-admin.sock",
                certificates=certificates,
                upstreams=upstream or (),
                streams=stream or (),
                stream_limit=stream_limit,
                access_log=access_log,
                authz=authz,
                timeout=timeout or "50ms",
            )
        _write(_render(sidecar), output)


@app.command(no_args_is_help=True)
def check(
    file: Annotated[Path, typer.Argument(help="Envoy configuration, YAML or JSON.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check any Envoy configuration: Envoy's own validation, and settings that are valid but unsafe.

    Example: ext-authz envoy check envoy/inbound.yaml

    Certificates that would come by SDS are replaced by throw-away ones, because Envoy skips TLS settings otherwise.
    Exits with 0 when nothing was found, 1 when something was, 2 when the file or Envoy cannot be used.
    """
    with exit_on_configuration_error():
        configuration = read_configuration(file)
        if not has_http(configuration):
            raise ConfigurationError([f"{file}: no HTTP connection manager in it: what comes by xDS cannot be checked"])
        weaknesses = lint(configuration)
        refusals = _validate(configuration)
    if as_json:
        listed = [{"place": found.place, "rule": found.rule, "sentence": found.sentence} for found in weaknesses]
        typer.echo(json.dumps({"refusals": refusals, "weaknesses": listed}, indent=2))
    else:
        lines = [f"refused by Envoy: {refusal}" for refusal in refusals] + [str(weakness) for weakness in weaknesses]
        typer.echo("\n".join(f"{file}: {line}" for line in lines or ["ok"]))
    if weaknesses or refusals:
        raise typer.Exit(NO)


def _refuse(role: Role, flags: Mapping[str, object]) -> None:
    """Refuse flags that mean nothing for this sidecar: whoever wrote one expects an effect."""
    given = [f"{name}: an {role} sidecar has none" for name, value in flags.items() if value is not None]
    if given:
        raise ConfigurationError(given)


def _render(sidecar: Sidecar) -> str:
    try:
        from ext_authz.render.document import render as to_text  # noqa: PLC0415  (an extra, and half a second)
    except ModuleNotFoundError:
        raise ConfigurationError(["envoy-data-plane is not installed: pip install 'ext-authz[envoy]'"]) from None
    return to_text(sidecar)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([f"{output}: {error.strerror}"]) from error


def _validate(configuration: dict[str, Any]) -> list[str]:
    """Ask Envoy, with throw-away certificates in the place of those that would come by SDS."""
    from ext_authz.local.ca import DevelopmentCa  # noqa: PLC0415  (no other command needs it)

    envoy = envoy_path()
    ca = DevelopmentCa.create("validation.invalid")
    with tempfile.TemporaryDirectory(prefix="ext-authz-") as directory:
        bundle = Path(directory, "bundle.pem")
        bundle.write_bytes(ca.bundle_pem)
        svid = ca.issue(SpiffeId.parse_workload("spiffe://validation.invalid/envoy"))
        certificate, private_key = svid.write_to(Path(directory))
        return validate(configuration, FileCertificates(certificate, private_key, {ca.trust_domain: bundle}), envoy)
