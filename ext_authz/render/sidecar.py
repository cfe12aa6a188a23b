"""What a sidecar is: the records from which its configuration is built.

1. Build a record with `parse`, which checks everything and reports all problems at once.
2. What is the same for every sidecar is no field: it stands in `limits` and in the modules that build messages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.render import limits
from ext_authz.render.address import Address, parse_address, parse_listen_address, parse_local_address
from ext_authz.render.certificates import Certificates, FileCertificates, parse_trust_domain, read_certificates
from ext_authz.render.duration import format_duration, parse_duration
from ext_authz.render.host import parse_host, parse_name, parse_path_prefix
from ext_authz.render.problems import Problems


@dataclass(frozen=True, slots=True)
class Upstream:
    """An agent that the outbound sidecar may call: by which name, where, and who must answer."""

    name: str
    address: Address
    spiffe_id: SpiffeId

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME=HOST:PORT,SPIFFE_ID`. Raises ValueError."""
        name, equals, rest = text.partition("=")
        address, comma, spiffe_id = rest.partition(",")
        if not (equals and comma):
            raise ValueError("expected NAME=HOST:PORT,SPIFFE_ID")
        return cls(parse_name(name), parse_address(address), SpiffeId.parse_workload(spiffe_id))

    def __str__(self) -> str:
        return f"{self.name}={self.address},{self.spiffe_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundSidecar:
    """The sidecar in front of an agent: mTLS, ext_authz, then the agent."""

    role: ClassVar = "inbound"

    spiffe_id: SpiffeId
    listen: Address
    app: Address
    authz: Address
    certificates: Certificates
    admin: Address
    hosts: tuple[str, ...]  # names under which callers know the agent
    authz_timeout: timedelta
    app_http2: bool  # how to speak to the agent: gRPC needs HTTP/2
    federated: tuple[str, ...]  # trust domains whose workloads may call, beside our own
    streams: tuple[str, ...]  # path prefixes whose bodies are not buffered
    stream_limit: timedelta
    caller_rate: int  # calls a second, of each caller
    access_log: Path

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """Whose workloads may connect: whether one may call is for ext_authz to say."""
        return (self.spiffe_id.trust_domain, *self.federated)

    @classmethod
    def parse(
        cls,
        *,
        spiffe_id: str,
        listen: str,
        app: str,
        authz: str,
        admin: str,
        certificates: str | FileCertificates,
        hosts: Iterable[str] = (),
        timeout: str = "50ms",
        app_http2: bool = False,
        federated: Iterable[str] = (),
        streams: Iterable[str] = (),
        stream_limit: str = "10m",
        caller_rate: int = 200,
        access_log: str = "/dev/stdout",
    ) -> Self:
        """Read a sidecar from text: addresses HOST:PORT or unix:PATH, `certificates` unix:PATH of the SDS server or files.

        Without `hosts` the last segment of the SPIFFE ID is the agent's only name. Raises ConfigurationError.
        """
        problems = Problems()
        sidecar = cls(
            spiffe_id=problems.read("SPIFFE ID", SpiffeId.parse_workload, spiffe_id),
            listen=problems.read("listener", parse_listen_address, listen),
            app=problems.read("app", parse_local_address, app),
            authz=problems.read("authorization server", parse_local_address, authz),
            certificates=read_certificates(problems, certificates),
            admin=problems.read("admin", parse_local_address, admin),
            hosts=problems.read_each("host", parse_host, tuple(hosts) or (spiffe_id.rpartition("/")[2],)),
            authz_timeout=problems.read("timeout", parse_duration, timeout),
            app_http2=app_http2,
            federated=problems.read_each("federated trust domain", parse_trust_domain, federated),
            streams=problems.read_each("stream", parse_path_prefix, streams),
            stream_limit=problems.read("stream limit", _parse_stream_limit, stream_limit),
            caller_rate=problems.read("caller rate", _parse_rate, str(caller_rate)),
            access_log=problems.read("access log", _parse_file, access_log),
        )
        _check_distinct(problems, {"listener": listen, "app": app, "authorization server": authz, "admin": admin})
        problems.raise_found()
        return sidecar


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundSidecar:
    """The sidecar through which an agent calls others: an allow-list of upstreams, then mTLS with the agent's SVID."""

    role: ClassVar = "outbound"

    spiffe_id: SpiffeId
    listen: Address
    certificates: Certificates
    admin: Address
    upstreams: tuple[Upstream, ...]
    streams: tuple[str, ...]  # path prefixes without a limit on the time to the whole answer
    stream_limit: timedelta
    access_log: Path
    authz: Address | None  # asked about every call; None: the list of upstreams alone decides
    authz_timeout: timedelta

    @classmethod
    def parse(
        cls,
        *,
        spiffe_id: str,
        listen: str,
        admin: str,
        certificates: str | FileCertificates,
        upstreams: Iterable[str] = (),
        streams: Iterable[str] = (),
        stream_limit: str = "10m",
        access_log: str = "/dev/stdout",
        authz: str | None = None,
        timeout: str = "50ms",
    ) -> Self:
        """Read a sidecar from text, as `InboundSidecar.parse` does; each upstream is NAME=HOST:PORT,SPIFFE_ID.

        The listener takes plain HTTP, so it must be on loopback or a unix socket. Raises ConfigurationError.
        """
        problems = Problems()
        sidecar = cls(
            spiffe_id=problems.read("SPIFFE ID", SpiffeId.parse_workload, spiffe_id),
            listen=problems.read("listener", parse_local_address, listen),
            certificates=read_certificates(problems, certificates),
            admin=problems.read("admin", parse_local_address, admin),
            upstreams=problems.read_each("upstream", Upstream.parse, upstreams),
            streams=problems.read_each("stream", parse_path_prefix, streams),
            stream_limit=problems.read("stream limit", _parse_stream_limit, stream_limit),
            access_log=problems.read("access log", _parse_file, access_log),
            authz=None if authz is None else problems.read("authorization server", parse_local_address, authz),
            authz_timeout=problems.read("timeout", parse_duration, timeout),
        )
        asked = {} if authz is None else {"authorization server": authz}
        _check_distinct(problems, {"listener": listen, "admin": admin, **asked})
        problems.raise_found()
        _check_names(problems, sidecar.upstreams)
        problems.raise_found()
        return sidecar


Sidecar = InboundSidecar | OutboundSidecar


def _parse_stream_limit(text: str) -> timedelta:
    limit = parse_duration(text)
    if limit >= limits.MAX_CONNECTION:
        raise ValueError(f"expected less than a connection may last: {format_duration(limits.MAX_CONNECTION)}")
    return limit


def _parse_rate(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= limits.MAX_CALLER_RATE:
        raise ValueError(f"expected a number of calls a second, from 1 to {limits.MAX_CALLER_RATE}")
    return int(text)


def _parse_file(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or not text.isprintable():
        raise ValueError("expected an absolute path")
    return path


def _check_distinct(problems: Problems, addresses: Mapping[str, str]) -> None:
    """Find addresses that are used twice: a listener that is also the app would send requests to itself."""
    seen: dict[str, str] = {}
    for name, text in addresses.items():
        other = seen.setdefault(text, name)
        if other != name:
            problems.add(f"{name} `{text}`: is the {other}'s address too")


def _check_names(problems: Problems, upstreams: Iterable[Upstream]) -> None:
    seen: set[str] = set()
    for upstream in upstreams:
        if upstream.name in seen:
            problems.add(f"upstream `{upstream}`: there is another one with this name")
        seen.add(upstream.name)
