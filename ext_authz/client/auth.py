"""Delegation for httpx: every request carries a chain that was made for the agent that it calls.

1. A chain that was received is never sent on: a link is added, here or by the exchange, or the request fails.
2. No token reaches a log, a repr or an error.
"""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping

import httpx

from ext_authz.client.exchange import FRESH_PART, Exchange, Exchanged
from ext_authz.client.minting import LastLink, Narrowing, attenuate
from ext_authz.client.signing import LinkSigner, MintingError
from ext_authz.client.svid_files import SvidFiles
from ext_authz.identity.spiffe_id import SpiffeId

DELEGATION_TOKEN = "x-delegation-token"  # noqa: S105
# Seconds that the link for one call lives, unless the narrowing says otherwise: the call, and what its target calls in turn.
CALL_LIFETIME_SECONDS = 300

# Who calls: with an SVID in files, with a key that is in memory, or as an agent that cannot sign.
Agent = SvidFiles | LinkSigner | SpiffeId


class DelegationAuth(httpx.Auth):
    """Attaches a delegation chain to requests, narrowed for the agent that each one calls.

    `chain` was received by this agent or granted to it: then every request gets a link of its own. Or this agent is its holder
    already, as in act form: then it goes to its audience as it is. `audience` says who is called; without it, `audiences` does,
    by the name in the request's `host` header. httpx repeats the header where it follows a redirect; by default it follows none.

    An agent without a key names the `exchange`, which makes the link: the request for it goes out through the same httpx client,
    and what it gives is used for calls of the same audience until four fifths of its life are over.
    """

    def __init__(
        self,
        chain: str,
        agent: Agent,
        *,
        audience: SpiffeId | None = None,
        audiences: Mapping[str, SpiffeId] | None = None,
        narrowing: Narrowing | None = None,
        exchange: Exchange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chain = chain
        self._agent = agent
        self._audience = audience
        self._audiences = {name.lower(): spiffe_id for name, spiffe_id in (audiences or {}).items()}
        self._narrowing = narrowing or Narrowing(lifetime_seconds=CALL_LIFETIME_SECONDS)
        self._exchange = exchange
        self._clock = clock
        self._exchanged: dict[SpiffeId, tuple[str, float]] = {}  # chain, and until when it is used

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the header, after an exchange where one is needed. Raises MintingError."""
        audience = self._audience_of(request)
        chain = self._made(audience)
        if chain is None:
            response = yield self._asking(audience)
            response.read()
            chain = self._given(response, audience)
        request.headers[DELEGATION_TOKEN] = chain
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Set the header, after an exchange where one is needed. Raises MintingError."""
        audience = self._audience_of(request)
        chain = self._made(audience)
        if chain is None:
            response = yield self._asking(audience)
            await response.aread()
            chain = self._given(response, audience)
        request.headers[DELEGATION_TOKEN] = chain
        yield request

    def chain_for(self, audience: SpiffeId) -> str:
        """Return the chain for a call of `audience`, for clients other than httpx. Raises MintingError.

        Where an exchange is needed, it waits for it.
        """
        chain = self._made(audience)
        if chain is None:
            exchange, agent = self._without_key()
            chain = self._kept(exchange.exchange(self._chain, agent, audience, self._narrowing), audience)
        return chain

    def _made(self, audience: SpiffeId) -> str | None:
        """Return the chain for a call, None when the exchange must be asked. Raises MintingError."""
        agent = self._agent.signer() if isinstance(self._agent, SvidFiles) else self._agent
        name = agent.issuer if isinstance(agent, LinkSigner) else agent
        last = LastLink.of(self._chain).claims
        if last.holder == name:
            if last.audience != audience:
                raise MintingError(f"the chain is for calls of `{last.audience}`: exchange it for one for `{audience}`")
            return self._chain
        if isinstance(agent, LinkSigner):
            return attenuate(agent, self._chain, audience, self._narrowing, self._clock())
        if self._exchange is None:
            raise MintingError(f"`{name}` has no key to pass the chain on: exchange it for one in act form")
        if last.audience != name:
            raise MintingError(f"the chain was made for `{last.audience}`: `{name}` cannot exchange it")
        chain, fresh_until = self._exchanged.get(audience, (None, 0.0))
        return chain if self._clock() < fresh_until else None

    def _without_key(self) -> tuple[Exchange, SpiffeId]:
        if self._exchange is None or not isinstance(self._agent, SpiffeId):
            raise MintingError("there is no exchange to ask")
        return self._exchange, self._agent

    def _asking(self, audience: SpiffeId) -> httpx.Request:
        return self._without_key()[0].request(self._chain, audience, self._narrowing)

    def _given(self, response: httpx.Response, audience: SpiffeId) -> str:
        exchange, agent = self._without_key()
        return self._kept(exchange.answered(response, agent, audience), audience)

    def _kept(self, exchanged: Exchanged, audience: SpiffeId) -> str:
        """Keep a chain for further calls, unless it is for one."""
        if not exchanged.once:
            now = self._clock()
            self._exchanged[audience] = exchanged.chain, now + FRESH_PART * (exchanged.expires_at - now)
        return exchanged.chain

    def _audience_of(self, request: httpx.Request) -> SpiffeId:
        if DELEGATION_TOKEN in request.headers:
            raise MintingError(f"the request carries {DELEGATION_TOKEN} already: a received token is never sent on")
        return self._audience or self._called(request)

    def _called(self, request: httpx.Request) -> SpiffeId:
        """Find the agent by the name that the sidecar routes by."""
        name = httpx.URL(f"//{request.headers['host']}").host
        try:
            return self._audiences[name]
        except KeyError:
            raise MintingError(f"no SPIFFE ID is known for host `{name}`") from None
