"""What `ext-authz exchange serve` needs to know; every problem at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ext_authz.errors import SettingsError
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.settings import check_address, is_local
from ext_authz.times import parse_span


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSettings:
    """The settings of an exchange. Build them with `parse`."""

    spiffe_id: SpiffeId  # its own: the `iss` of what it signs
    policies: Path
    keys: Path
    control_store: Path
    listen: str  # unix:/path, or a loopback address and a port
    socket_group: str | None
    audit_file: Path | None  # absent: standard output
    max_control_age_seconds: int

    @classmethod
    def parse(
        cls,
        *,
        spiffe_id: str,
        listen: str,
        policies: Path,
        keys: Path,
        control_store: Path,
        socket_group: str | None = None,
        audit_file: Path | None = None,
        max_control_age: str = "60s",
    ) -> Self:
        """Read what the command line says. Raises SettingsError with all problems."""
        problems: list[str] = []
        own = age_seconds = None
        try:
            own = SpiffeId.parse_workload(spiffe_id)
        except SpiffeIdError as error:
            problems.append(f"--spiffe-id: {error}")
        try:
            if not is_local(check_address(listen)):
                problems.append("--listen: only its sidecar may reach it: expected unix:/path or a loopback address")
        except ValueError as error:
            problems.append(f"--listen: {error}")
        try:
            age_seconds = parse_span(max_control_age)
        except ValueError as error:
            problems.append(f"--max-control-age: {error}")
        if problems or own is None or age_seconds is None:
            raise SettingsError(problems)
        return cls(
            spiffe_id=own,
            policies=policies,
            keys=keys,
            control_store=control_store,
            listen=listen,
            socket_group=socket_group,
            audit_file=audit_file,
            max_control_age_seconds=age_seconds,
        )
