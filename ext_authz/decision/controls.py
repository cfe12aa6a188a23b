"""What operators have said that overrides every policy: revocations and quarantine, as a snapshot.

Quarantine acts on verified facts alone, the caller's certificate and the session of a verified chain or access token: if it believed
claims, anybody could silence others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.errors import Reason, Refusal, Undecided
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls in force. All times are in seconds since 1970."""

    revocations: Revocations = field(default_factory=lambda: NO_REVOCATIONS)
    quarantined: Mapping[SpiffeId, float] = field(default_factory=dict)  # until when
    quarantined_sessions: Mapping[str, float] = field(default_factory=dict)
    fresh_until: float = math.inf  # past it nobody knows what was revoked since
    consumes_once: bool = False  # whether a store remembers one-time chains

    def check_caller(self, caller: SpiffeId, now: float) -> None:
        """Raise Refusal for a caller in quarantine."""
        if now < self.quarantined.get(caller, 0):
            raise Refusal(Reason.REVOKED)

    def check_freshness(self, now: float) -> None:
        """Raise Undecided when the list of revocations is too old to believe a token by."""
        if now > self.fresh_until:
            raise Undecided(Reason.KEYS_UNAVAILABLE, "the list of revocations is too old")

    def check_delegation(self, delegation: Delegation, now: float) -> None:
        """Raise NotAllowed for a session in quarantine, and for a one-time chain that nobody would remember."""
        self._check_session(delegation.session_id, now)
        if delegation.once and not self.consumes_once:
            raise Undecided(
                Reason.STORE_UNAVAILABLE, "a chain that may be used once came, and there is no control store"
            )

    def check_access_token(self, access_token: AccessToken, now: float) -> None:
        """Raise Refusal for a session in quarantine."""
        self._check_session(access_token.session_id, now)

    def _check_session(self, session_id: str | None, now: float) -> None:
        if session_id and now < self.quarantined_sessions.get(session_id, 0):
            raise Refusal(Reason.REVOKED)


NO_CONTROLS = Controls()
