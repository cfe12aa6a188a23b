"""One line of JSON for each exchange, issued or refused: who, for whom, for which call, what came of it.

1. A token that cannot be recorded is not issued.
2. A line holds ids and names that parsers of ours accepted; never a token, a body or a key.
"""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple, Self

from ext_authz.audit.record import utc
from ext_authz.exchange.admission import Client
from ext_authz.exchange.form import ExchangeRequest
from ext_authz.exchange.issuing import Issued
from ext_authz.exchange.refusal import ExchangeRefusal
from ext_authz.identity.spiffe_id import SpiffeId

RECORD_NAME = "a2a.token.exchange"


class Exchanged(NamedTuple):
    """What is known of one exchange when it ends."""

    own: SpiffeId
    policy_digest: str
    client: Client | None = None
    asked: ExchangeRequest | None = None
    issued: Issued | None = None
    refusal: ExchangeRefusal | None = None

    def attributes(self) -> dict[str, object]:
        """Return what is recorded; the names are those of audit records where there are such."""
        found: dict[str, object] = {"agent.target": self.own.uri, "ext_authz.policy_digest": self.policy_digest}
        if self.client:
            found["agent.caller"] = self.client.spiffe_id.uri
        if self.asked:
            found["exchange.audience"] = self.asked.audience.uri
        if self.refusal:
            outcome = "error" if self.refusal.http_status >= 500 else "refused"
            found |= {"exchange.error": self.refusal.code.value, "exchange.detail": self.refusal.detail}
        else:
            outcome = "issued"
        if self.issued:
            granted = self.issued.granted
            found |= {
                "exchange.mode": self.issued.mode,
                "exchange.issued_token_id": granted.token_ids[-1],
                "exchange.expires_at": utc(granted.expires_at),
                "ext_authz.on_behalf_of": granted.on_behalf_of,
                "ext_authz.scopes": sorted(granted.scopes),
                "ext_authz.hops": granted.hops,
                "ext_authz.actors": list(map(str, granted.actors)),
            }
            if self.issued.received:
                found["ext_authz.token_ids"] = list(self.issued.received.token_ids)
            if granted.session_id:
                found["ext_authz.session_id"] = granted.session_id
        return {"exchange.outcome": outcome, **found}


class Journal:
    """Appends lines to a file, or to standard output."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Append to `path`, made with mode 0600; None: standard output. Raises OSError."""
        if path is None:
            return cls(os.dup(sys.stdout.fileno()))
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))

    def record(self, exchanged: Exchanged, now: float) -> None:
        """Write one line. Raises OSError when it could not be written whole."""
        line = {"time": utc(now), "name": RECORD_NAME, "attributes": exchanged.attributes()}
        data = json.dumps(line).encode("ascii") + b"\n"
        if os.write(self._descriptor, data) != len(data):
            raise OSError("a line was cut short")

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)
