"""One exchange from its client to its record: what is checked in which order, and what is done outside.

1. The client is checked before its body is read, the body before any signature.
2. A chain that may be used once is exchanged once: that is remembered before the new chain leaves.
3. One exchange, one record; what cannot be recorded is not issued.
4. Whatever fails inside is a refusal, and names type and place in the log, never a value.
"""

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable

from ext_authz.errors import Reason
from ext_authz.exchange.admission import Client, ExchangeSnapshot, check_client
from ext_authz.exchange.form import ExchangeRequest, parse_form
from ext_authz.exchange.issuing import Issued, exchange_chain
from ext_authz.exchange.journal import Exchanged, Journal
from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, invalid_request, unavailable
from ext_authz.exchange.starting import start_chain
from ext_authz.faults import place_of
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.stores.database import StoreError
from ext_authz.stores.once import OnceRegister
from ext_authz.tokens.chain import Delegation
from ext_authz.tokens.jws import encode_base64url

# Refusals that a key which is too new for us can cause.
_UNKNOWN_KEY = frozenset({Reason.TOKEN_KEY, Reason.OIDC_SIGNATURE})

_LOG = logging.getLogger(__name__)


class Exchange:
    """Exchanges chains. `snapshot` may be replaced at any time; an exchange uses the one it began with."""

    def __init__(
        self,
        snapshot: ExchangeSnapshot,
        once: OnceRegister,
        journal: Journal,
        *,
        unknown_key: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.snapshot = snapshot
        self._once = once
        self._journal = journal
        self._unknown_key = unknown_key  # called when somebody showed a key that is not known, and may be new
        self.now = clock

    @property
    def own(self) -> SpiffeId:
        """The SPIFFE ID of the exchange."""
        return self.snapshot.own

    def key_set(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWK set that verifiers need."""
        return self.snapshot.keys.key_set(self.now())

    async def exchange(self, identify: Callable[[], Client], read_body: Callable[[], Awaitable[bytes]]) -> Issued:
        """Return what the client asked for in its body. Raises ExchangeRefusal."""
        snapshot = self.snapshot
        client: Client | None = None
        asked: ExchangeRequest | None = None
        try:
            client = identify()
            check_client(client.spiffe_id, snapshot, self.now())
            asked = parse_form(await read_body(), client.spiffe_id)
            if asked.is_access_token:
                issued = start_chain(asked, client, snapshot, self.now())
            else:
                issued = exchange_chain(asked, client.spiffe_id, snapshot, self.now())
            if issued.received and issued.received.once:
                await self._use_up(issued.received)
        except Exception as error:  # noqa: BLE001  rule 4
            refusal = _refusal_of(error)
            if refusal.reason in _UNKNOWN_KEY:
                self._unknown_key()
            self._record(Exchanged(snapshot.own, snapshot.policy.digest, client, asked, refusal=refusal))
            raise refusal from None
        self._record(Exchanged(snapshot.own, snapshot.policy.digest, client, asked, issued))
        return issued

    async def _use_up(self, received: Delegation) -> None:
        """Remember that a one-time chain was exchanged, under an id of its own: showing it is another use."""
        root, leaf = received.token_ids[0], exchange_id(received.token_ids[-1])
        try:
            is_first = await self._once.consume_once(root, leaf, received.expires_at)
        except StoreError as error:
            _LOG.error("a one-time chain could not be consumed: %s", error)
            raise unavailable("the control store cannot be used, and a one-time chain needs it") from None
        if not is_first:
            raise invalid_request("the chain may be used once, and was exchanged before")

    def _record(self, exchanged: Exchanged) -> None:
        try:
            self._journal.record(exchanged, self.now())
        except OSError as error:
            _LOG.error("an exchange could not be recorded: %s", error.strerror or error)
            raise unavailable("the exchange could not be recorded, so no token was issued") from None


def _refusal_of(error: Exception) -> ExchangeRefusal:
    if isinstance(error, ExchangeRefusal):
        return error
    _LOG.error("an exchange failed inside: %s", place_of(error))
    return ExchangeRefusal(ErrorCode.SERVER_ERROR, "the exchange failed; no token was issued")


def exchange_id(token_id: str) -> str:
    """Return the id under which the exchange of a link is remembered."""
    return encode_base64url(hashlib.sha256(f"exchange {token_id}".encode("ascii")).digest())
