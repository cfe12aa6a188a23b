"""Settings of the server: flags, then EXT_AUTHZ_* variables, then the file; every problem at once.

The file is YAML in the same strict reading as policy documents, read by the caller and given here as a mapping.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ext_authz.errors import SettingsError

ENVIRONMENT_PREFIX = "EXT_AUTHZ_"
UNIX_PREFIX = "unix:"
# Kubernetes sets NAME_SERVICE_HOST, NAME_SERVICE_PORT*, NAME_PORT* for each Service of the namespace; those of one named
# ext-authz or ext-authz-admin are no settings of ours.
_SERVICE_HOST = "SERVICE_HOST"
# Bytes of a unix socket's path: sun_path holds 108 with the closing NUL on Linux, 104 on macOS.
MAX_SOCKET_PATH_BYTES = 103
# Settings that are checked together.
_TRANSPORT = frozenset(
    {
        *("listen", "tls_certificate", "tls_key", "tls_client_ca", "insecure", "metrics_listen"),
        *("admin_listen", "control_store", "socket_workload", "workloads"),
    }
)


class Settings(BaseModel):
    """What `ext-authz serve` needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policies: Path
    listen: str = f"{UNIX_PREFIX}/run/ext-authz/check.sock"
    socket_group: str | None = None  # group that may connect to the unix socket; absent: only this user
    # SPIFFE ID of the one workload whose sidecars can open the unix socket: they may ask about it only, also about its calls out
    socket_workload: str | None = None
    tls_certificate: Path | None = None  # PEM files, read again when they change
    tls_key: Path | None = None
    tls_client_ca: Path | None = (
        None  # set: sidecars must present a certificate from it and may ask only about themselves
    )
    insecure: bool = False  # allows TCP without TLS on other addresses than loopback

    shadow: Path | None = None  # policy documents that are compared with `policies`, without any effect

    xfcc_mode: Literal["sanitize", "sanitize_set", "append_forward", "forward_only", "always_forward_only"] = (
        "sanitize_set"
    )
    require_xfcc: bool = True
    workloads: list[str] = []  # SPIFFE IDs that this server answers for; empty: any

    max_body_bytes: Annotated[int, Field(ge=1, le=1024 * 1024)] = 65536
    max_concurrent_checks: Annotated[int, Field(ge=1, le=100_000)] = 4096
    drain_seconds: Annotated[float, Field(ge=0, le=9)] = 5

    audit_file: Path | None = None  # absent: OTLP where OTEL_EXPORTER_OTLP_ENDPOINT is set, else standard output
    # Records that may wait to be written, about 1.5 kB each; when as many wait, decisions are refused (`audit_unavailable`).
    audit_max_waiting: Annotated[int, Field(ge=1, le=262_144)] = 8192
    control_store: Path | None = None  # revocations, quarantine and one-time chains; absent: none of them
    max_control_age_seconds: Annotated[float, Field(ge=1, le=3600)] = 60  # past it, chains are refused
    admin_listen: str | None = None  # unix socket on which this user's tools change the control store

    metrics_listen: str | None = None  # HOST:PORT for Prometheus; absent: no metrics
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    watch: bool = True  # reload the policy when its files change

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str) -> str:
        return check_address(listen)

    @field_validator("admin_listen")
    @classmethod
    def _check_admin_listen(cls, listen: str | None) -> str | None:
        if listen is not None and not listen.startswith(UNIX_PREFIX):
            raise ValueError("expected a unix socket, whose permissions say who may revoke: unix:/path")
        return None if listen is None else check_address(listen)

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_listen(cls, listen: str | None) -> str | None:
        if listen is not None and listen.startswith(UNIX_PREFIX):
            raise ValueError("expected HOST:PORT")
        return None if listen is None else check_address(listen, "HOST:PORT")

    @model_validator(mode="after")
    def _check_transport(self) -> "Settings":
        problems = list(self._transport_problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _transport_problems(self) -> Iterator[str]:
        if (self.tls_certificate is None) != (self.tls_key is None):
            yield "tls_certificate and tls_key go together"
        elif self.tls_client_ca is not None and self.tls_certificate is None:
            yield "tls_client_ca needs tls_certificate and tls_key"
        if self.tls_certificate is not None and self.listen.startswith(UNIX_PREFIX):
            yield "TLS is for TCP: a unix socket is protected by its permissions"
        if self.socket_workload is not None and not self.listen.startswith(UNIX_PREFIX):
            yield "socket_workload is for a unix socket: over TCP, tls_client_ca tells the sidecars apart"
        if self.socket_workload is not None and self.workloads and self.socket_workload not in self.workloads:
            yield "socket_workload is none of `workloads`: every question would be refused"
        if not (self.insecure or self.tls_certificate or self.is_local):
            yield f"`{self.listen}` is open to the network without TLS: set tls_certificate and tls_key, or `insecure: true`"
        if self.metrics_listen is not None and not (self.insecure or is_local(self.metrics_listen)):
            yield f"`{self.metrics_listen}` shows metrics to the network: listen on loopback, or set `insecure: true`"
        if self.admin_listen is not None and self.control_store is None:
            yield "admin_listen needs control_store, which is what it changes"
        if self.admin_listen == self.listen:
            yield "admin_listen and listen are two sockets: who may ask must not revoke"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return is_local(self.listen)


def check_address(listen: str, expected: str = "unix:/path or HOST:PORT") -> str:
    """Return an address to listen on, of the form that is expected. Raises ValueError for what is none."""
    if listen.startswith(UNIX_PREFIX):
        path = listen.removeprefix(UNIX_PREFIX)
        if not path.startswith("/"):
            raise ValueError("the path of a unix socket is absolute: unix:/path")
        if "%" in path:
            raise ValueError("the path of a unix socket holds no %: gRPC takes it for an escape")
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
        return listen
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected {expected}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"expected {expected}, an IPv6 address in brackets: [::1]:9001")
    return listen


def is_local(listen: str) -> bool:
    """Whether only this machine can connect to an address."""
    host = listen.rpartition(":")[0].strip("[]")
    return listen.startswith(UNIX_PREFIX) or host in {"localhost", "::1"} or _is_loopback_ipv4(host)


def _is_loopback_ipv4(host: str) -> bool:
    parts = host.split(".")
    return (
        len(parts) == 4
        and parts[0] == "127"
        and all(part.isascii() and part.isdecimal() and int(part) < 256 for part in parts)
    )


def merge_settings(flags: Mapping[str, Any], environment: Mapping[str, str], file: Mapping[str, Any]) -> Settings:
    """Build settings from their three sources; a flag of None counts as not given. Raises SettingsError with all problems."""
    known = set(Settings.model_fields)
    links = _service_links(environment)
    variables = {
        key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT_PREFIX) and not key.startswith(links)
    }
    problems = [f"{ENVIRONMENT_PREFIX}{name.upper()}: no such setting" for name in sorted(variables.keys() - known)]
    if "workloads" in variables:
        variables["workloads"] = variables["workloads"].split()  # type: ignore[assignment]
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**file, **{key: value for key, value in variables.items() if key in known}, **given}
    settings, details = _validate(merged)
    problems += [problem for detail in details for problem in _problems(detail, given, variables)]
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _service_links(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return how the variables begin that Kubernetes sets for Services."""
    services = [key.removesuffix(_SERVICE_HOST) for key in environment if key.endswith(f"_{_SERVICE_HOST}")]
    return tuple(f"{service}{what}" for service in services for what in ("SERVICE_", "PORT"))


def _validate(values: Mapping[str, Any]) -> tuple[Settings | None, list[Any]]:
    """Return the settings, or None and what pydantic says is wrong."""
    try:
        return Settings.model_validate(values), []
    except ValidationError as error:
        details = list(error.errors(include_url=False))
    wrong = {detail["loc"][0] for detail in details if detail["loc"]}
    if wrong and not wrong & _TRANSPORT:  # pydantic looks at fields together only when each is right by itself
        right = {"policies": Path(), **{key: value for key, value in values.items() if key not in wrong}}
        details += _validate(right)[1]
    return None, details


def _problems(detail: Any, flags: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    messages = detail["msg"].removeprefix("Value error, ").split("\n")
    if detail["type"] == "extra_forbidden":
        messages = ["no such setting"]
    elif detail["type"] == "missing":
        messages = [f"not given: set --{name}, {ENVIRONMENT_PREFIX}{name.upper()}, or `{name}` in the settings file"]
    if name in flags:
        name = "--" + name.replace("_", "-")
    elif name in variables:
        name = ENVIRONMENT_PREFIX + name.upper()
    sentences = [
        message if message.startswith(("TLS", "`")) else message[0].lower() + message[1:] for message in messages
    ]
    return [f"{name}: {sentence}" if name else sentence for sentence in sentences]
