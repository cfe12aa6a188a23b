"""From a chain that was received to one that its recipient may show: appended, or replaced by a checkpoint.

1. The client must be the audience of the last link; what it gets is never wider, deeper or longer-lived than that link.
2. What was signed is verified as its receiver will, and compared with what came in, before anybody gets it.
3. It is pure: time, policy, revocations and keys come in as arguments.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ext_authz.client.minting import COMFORTABLE_CHAIN_BYTES, Narrowing, checkpoint, extended
from ext_authz.client.signing import LinkSigner, MintingError
from ext_authz.errors import NotAllowed
from ext_authz.exchange.admission import ExchangeSnapshot
from ext_authz.exchange.form import ExchangeRequest
from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, bad_subject_token, invalid_request, unavailable
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import (
    Delegation,
    DelegationTrust,
    Presentation,
    Receipt,
    ReceivedChain,
    verify_chain,
    verify_received_chain,
)
from ext_authz.tokens.exchange_names import APPEND, CHECKPOINT
from ext_authz.tokens.jws import MAX_CHAIN_BYTES, MAX_LINKS


class Issued(NamedTuple):
    """What a client gets, and what it was made from."""

    chain: str
    mode: str
    granted: Delegation
    received: Delegation | None  # None: the chain was started for an access token


def exchange_chain(asked: ExchangeRequest, client: SpiffeId, snapshot: ExchangeSnapshot, now: float) -> Issued:
    """Return the chain that the client may show to the audience. `now` is in seconds since 1970. Raises ExchangeRefusal."""
    trust = snapshot.trust(now)
    received = _received(asked, client, snapshot, trust, now)
    _check_asked(asked, client, received)
    signer = snapshot.keys.signer(snapshot.own, now)
    if signer is None:
        raise unavailable("no key of the exchange signs yet")
    try:
        chain, mode = _Minter(signer, client, trust.max_ttl_seconds, now).make(asked, received)
    except MintingError:
        raise invalid_request("the chain does not give what was asked for") from None
    granted = verified(chain, Presentation(client, asked.audience, now), trust)
    _check_shrunk(received.delegation, granted, client)
    return Issued(chain, mode, granted, received.delegation)


def _received(
    asked: ExchangeRequest, client: SpiffeId, snapshot: ExchangeSnapshot, trust: DelegationTrust, now: float
) -> ReceivedChain:
    try:
        received = verify_received_chain(asked.subject_token, Receipt(client, now), trust, snapshot.cache)
        snapshot.controls.check_delegation(received.delegation, now)
    except NotAllowed as refusal:
        raise bad_subject_token(refusal) from None
    return received


def _check_asked(asked: ExchangeRequest, client: SpiffeId, received: ReceivedChain) -> None:
    """Raise ExchangeRefusal for more than the last link gives, each with the code that says what."""
    leaf, targets = received.leaf, asked.targets or received.leaf.allowed_targets
    if asked.scopes is not None and not asked.scopes <= leaf.scopes:
        raise ExchangeRefusal(ErrorCode.INVALID_SCOPE, "the chain does not give a scope that was asked for")
    if not targets <= leaf.allowed_targets:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, "the chain does not give a resource that was asked for")
    if asked.audience == client:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, "the audience is the client itself")
    if asked.audience not in targets:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, "the chain does not allow the audience")
    if leaf.depth == 0:
        raise invalid_request("the chain allows no further hop")
    if asked.depth is not None and asked.depth >= leaf.depth:
        raise invalid_request("depth is not below that of the chain")


@dataclass(frozen=True, slots=True)
class _Minter:
    """Signs for one client at one moment."""

    signer: LinkSigner
    client: SpiffeId
    max_ttl_seconds: int
    now: float

    def make(self, asked: ExchangeRequest, received: ReceivedChain) -> tuple[str, str]:
        """Return a chain and its mode: as asked, else one link longer while that is comfortable. Raises MintingError."""
        if asked.mode == APPEND:
            longer = self._longer(asked)
            if len(longer) > MAX_CHAIN_BYTES:
                raise invalid_request("the chain would get too long: ask for a checkpoint")
            return longer, APPEND
        if asked.mode is None and asked.subject_token.count("~") + 1 < MAX_LINKS:
            longer = self._longer(asked)
            if len(longer) <= COMFORTABLE_CHAIN_BYTES:
                return longer, APPEND
        return self._checkpoint(asked, received), CHECKPOINT

    def _longer(self, asked: ExchangeRequest) -> str:
        narrowing = self._narrowing(asked, self.max_ttl_seconds)
        return extended(self.signer, asked.subject_token, asked.audience, narrowing, self.now)

    def _checkpoint(self, asked: ExchangeRequest, received: ReceivedChain) -> str:
        # It is as old as what it replaces, and so is its life.
        left_seconds = int(received.oldest_issued_at + self.max_ttl_seconds - self.now)
        if left_seconds < 1:
            raise invalid_request("the chain is too old for a checkpoint")
        narrowing = self._narrowing(asked, left_seconds)
        return checkpoint(self.signer, received, asked.audience, narrowing, self.now)

    def _narrowing(self, asked: ExchangeRequest, most_seconds: int) -> Narrowing:
        return Narrowing(
            scopes=asked.scopes,
            allowed_targets=asked.targets,
            depth=asked.depth,
            lifetime_seconds=min(asked.lifetime_seconds or most_seconds, most_seconds),
            actor=self.client,
            once=asked.once,
        )


def verified(chain: str, showing: Presentation, trust: DelegationTrust) -> Delegation:
    """Verify what was just signed. What does not hold is our fault: the input did."""
    try:
        return verify_chain(chain, showing, trust)
    except NotAllowed as refusal:
        raise unavailable(f"the policy does not accept what this exchange signs: {refusal.reason}") from None


def _check_shrunk(received: Delegation, granted: Delegation, client: SpiffeId) -> None:
    """Compare what goes out with what came in: the last line of defence against a mistake above."""
    rules = (
        granted.on_behalf_of == received.on_behalf_of,
        granted.session_id == received.session_id,
        granted.scopes <= received.scopes,
        granted.allowed_targets <= received.allowed_targets,
        granted.depth < received.depth,
        granted.expires_at <= received.expires_at,
        granted.hops == received.hops + 1,
        granted.actors == (*received.actors, client),
        set(received.token_ids) < set(granted.token_ids),
        granted.once or not received.once,
    )
    if not all(rules):
        raise unavailable("the chain cannot be exchanged without changing what it says")
