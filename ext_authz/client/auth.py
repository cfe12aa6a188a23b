"""Delegation for httpx: every request carries a chain that was made for the agent that it calls.

1. A chain that was received is never sent on: a link is added, or the request fails.
2. No token reaches a log, a repr or an error.
"""

import time
from collections.abc import Callable, Generator, Mapping

import httpx

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
    """

    def __init__(
        self,
        chain: str,
        agent: Agent,
        *,
        audience: SpiffeId | None = None,
        audiences: Mapping[str, SpiffeId] | None = None,
        narrowing: Narrowing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chain = chain
        self._agent = agent
        self._audience = audience
        self._audiences = {name.lower(): spiffe_id for name, spiffe_id in (audiences or {}).items()}
        self._narrowing = narrowing or Narrowing(lifetime_seconds=CALL_LIFETIME_SECONDS)
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the header. Raises MintingError."""
        if DELEGATION_TOKEN in request.headers:
            raise MintingError(f"the request carries {DELEGATION_TOKEN} already: a received token is never sent on")
        request.headers[DELEGATION_TOKEN] = self.chain_for(self._audience or self._called(request))
        yield request

    def chain_for(self, audience: SpiffeId) -> str:
        """Return the chain for a call of `audience`, for clients other than httpx. Raises MintingError."""
        agent = self._agent.signer() if isinstance(self._agent, SvidFiles) else self._agent
        name = agent.issuer if isinstance(agent, LinkSigner) else agent
        last = LastLink.of(self._chain).claims
        if last.holder == name:
            if last.audience != audience:
                raise MintingError(f"the chain is for calls of `{last.audience}`: exchange it for one for `{audience}`")
            return self._chain
        if not isinstance(agent, LinkSigner):
            raise MintingError(f"`{name}` has no key to pass the chain on: exchange it for one in act form")
        return attenuate(agent, self._chain, audience, self._narrowing, self._clock())

    def _called(self, request: httpx.Request) -> SpiffeId:
        """Find the agent by the name that the sidecar routes by."""
        name = httpx.URL(f"//{request.headers['host']}").host
        try:
            return self._audiences[name]
        except KeyError:
            raise MintingError(f"no SPIFFE ID is known for host `{name}`") from None
