"""Settings of the server: flags, then EXT_AUTHZ_* variables, then the file; every problem at once.

The file is YAML in the same strict reading as policy documents, read by the caller and given here as a mapping.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ext_authz.errors import SettingsError

ENVIRONMENT_PREFIX = "EXT_AUTHZ_"
UNIX_PREFIX = "unix:"
# Kubernetes sets these for a Service named ext-authz; they are no settings of ours.
_SERVICE_LINK = re.compile(r"EXT_AUTHZ_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_[0-9]+_.+)?)")
# Bytes of a unix socket's path: sun_path holds 108 with the closing NUL on Linux, 104 on macOS.
MAX_SOCKET_PATH_BYTES = 103


class Settings(BaseModel):
    """What `ext-authz serve` needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policies: Path
    listen: str = f"{UNIX_PREFIX}/run/ext-authz/authz.sock"
    socket_group: str | None = None  # group that may connect to the unix socket; absent: only this user
    tls_certificate: Path | None = None  # PEM files, read again when they change
    tls_key: Path | None = None
    tls_client_ca: Path | None = (
        None  # set: sidecars must present a certificate from it and may ask only about themselves
    )
    insecure: bool = False  # allows TCP without TLS on other addresses than loopback

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
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    watch: bool = True  # reload the policy when its files change

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str) -> str:
        if listen.startswith(UNIX_PREFIX):
            path = listen.removeprefix(UNIX_PREFIX)
            if not path.startswith("/"):
                raise ValueError("the path of a unix socket is absolute: unix:/path")
            if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
                raise ValueError(f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
            raise ValueError("expected unix:/path or HOST:PORT")
        return listen

    @model_validator(mode="after")
    def _check_transport(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.tls_certificate is not None and self.listen.startswith(UNIX_PREFIX):
            raise ValueError("TLS is for TCP: a unix socket is protected by its permissions")
        if not (self.insecure or self.tls_certificate or self.is_local):
            raise ValueError(
                f"`{self.listen}` is open to the network without TLS: set tls_certificate and tls_key, or `insecure: true`"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        host = self.listen.rpartition(":")[0].strip("[]")
        return self.listen.startswith(UNIX_PREFIX) or host in {"localhost", "::1"} or _is_loopback_ipv4(host)


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
    variables = {
        key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT_PREFIX) and _SERVICE_LINK.fullmatch(key) is None
    }
    problems = [f"{ENVIRONMENT_PREFIX}{name.upper()}: no such setting" for name in sorted(variables.keys() - known)]
    if "workloads" in variables:
        variables["workloads"] = variables["workloads"].split()  # type: ignore[assignment]
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**file, **{key: value for key, value in variables.items() if key in known}, **given}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems += [_problem(detail, given, variables) for detail in error.errors(include_url=False)]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _problem(detail: Any, flags: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    if name in flags:
        name = "--" + name.replace("_", "-")
    elif name in variables:
        name = ENVIRONMENT_PREFIX + name.upper()
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "no such setting"
    return f"{name}: {message[0].lower()}{message[1:]}" if name else message
