"""The command that renders a sidecar, as its file's header names it."""

from collections.abc import Iterator
from shlex import quote

from ext_authz.render.certificates import FileCertificates
from ext_authz.render.duration import format_duration
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Sidecar

Flag = tuple[str, object]


def render_command(sidecar: Sidecar) -> list[str]:
    """Return the lines of a shell command that renders the same sidecar."""
    flags = _inbound(sidecar) if isinstance(sidecar, InboundSidecar) else _outbound(sidecar)
    lines = [f"ext-authz envoy render --role {sidecar.role}"]
    lines += [f"  {name} {quote(str(value))}" for name, value in (*_workload(sidecar), *flags, *_streams(sidecar))]
    lines.append(f"  --access-log {quote(str(sidecar.access_log))}")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _inbound(sidecar: InboundSidecar) -> Iterator[Flag]:
    yield "--app", sidecar.app
    yield "--authz", sidecar.authz
    yield from (("--host", host) for host in sidecar.hosts)
    yield from (("--federated", name) for name in sidecar.federated)
    yield "--timeout", format_duration(sidecar.authz_timeout)
    yield "--caller-rate", sidecar.caller_rate
    if sidecar.app_http2:
        yield "--app-protocol", "http2"


def _outbound(sidecar: OutboundSidecar) -> Iterator[Flag]:
    yield from (("--upstream", upstream) for upstream in sidecar.upstreams)
    if sidecar.authz is not None:
        yield "--authz", sidecar.authz
        yield "--timeout", format_duration(sidecar.authz_timeout)


def _workload(sidecar: Sidecar) -> Iterator[Flag]:
    yield "--spiffe-id", sidecar.spiffe_id
    yield "--listen", sidecar.listen
    if isinstance(sidecar.certificates, FileCertificates):
        yield "--certificate", sidecar.certificates.certificate
        yield "--private-key", sidecar.certificates.private_key
        yield from (("--trust-bundle", f"{name}={path}") for name, path in sidecar.certificates.trust_bundles.items())
    else:
        yield "--sds", sidecar.certificates.socket
    yield "--admin", sidecar.admin


def _streams(sidecar: Sidecar) -> Iterator[Flag]:
    yield from (("--stream", prefix) for prefix in sidecar.streams)
    if sidecar.streams:
        yield "--stream-limit", format_duration(sidecar.stream_limit)
