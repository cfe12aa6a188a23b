"""What the verification of a delegation chain costs: every signature anew, from memory, and with one new link on top."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise, repeat

from support.delegations import (
    CRM,
    DROP,
    MAILER,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    World,
    forged,
    workload,
    world,
)

from ext_authz.client.minting import Narrowing, attenuate
from ext_authz.client.signing import LinkSigner
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import DelegationTrust, LinkCache, Presentation, verify_chain
from ext_authz.tokens.keys import KeySet, TrustedKeys
from ext_authz.tokens.signature import VerificationKey

COLD_CALLS = 300
WARM_CALLS = 20_000
WARM_UP = 50

# As an agent's day looks: five scopes, five targets, an id for the user and one for the session.
SCOPES = ("crm:contact.read", "kb:search", "tickets:read", "tickets:write", "web:fetch")
AGENTS = (PLANNER, RETRIEVER, CRM, MAILER)
TARGETS = (RETRIEVER, CRM, MAILER, workload("sandbox"), workload("summarizer"))
# Who holds each link, and who gets the last one.
PATH = (PLANNER, RETRIEVER, CRM, MAILER, RETRIEVER, CRM)


@dataclass(frozen=True, slots=True)
class ChainCost:
    """One row: bytes of the header, wall time by percentile, and processor time, in microseconds a chain."""

    name: str
    header_bytes: int
    p50: float
    p99: float
    cpu: float


def measure() -> Iterator[ChainCost]:
    """Measure chains of one, three and five links whose agents sign with registered keys or with SVIDs.

    The figure with a target is `warm 3 links`: under 15 microseconds.
    """
    w = world()
    for kind, signers in (("kid", _with_key_ids(w)), ("x5c", w.svids)):
        trust = _trust(w, signers)
        for links in (1, 3, 5):
            chain = _chain(w, signers, links)
            presentation = Presentation(PATH[links - 1], PATH[links], NOW)
            name = f"{links} link{'s' if links > 1 else ''}, {kind}"
            yield _cost(f"cold {name}", _verifier(presentation, trust, None), repeat(chain, COLD_CALLS))
            yield _cost(f"warm {name}", _verifier(presentation, trust, LinkCache()), repeat(chain, WARM_CALLS))
        yield _new_last_link(w, signers, trust, kind)


def _new_last_link(w: World, signers: Mapping[SpiffeId, LinkSigner], trust: DelegationTrust, kind: str) -> ChainCost:
    """Measure what an agent costs that signs a link for every call: the links above are known, the last one never is."""
    before = _chain(w, signers, 2)
    chains = [_passed_on(before, signers[CRM], MAILER) for _ in range(WARM_UP + COLD_CALLS)]
    verify = _verifier(Presentation(CRM, MAILER, NOW), trust, LinkCache())
    return _cost(f"3 links, {kind}, the last one new", verify, chains)


def _with_key_ids(w: World) -> dict[SpiffeId, LinkSigner]:
    return {agent: LinkSigner.with_key_id(agent, "delegation-1", w.private_keys[agent]) for agent in AGENTS}


def _trust(w: World, signers: Mapping[SpiffeId, LinkSigner]) -> DelegationTrust:
    keys = {
        agent: KeySet(
            {"delegation-1": VerificationKey.register(w.private_keys[agent].public_key(), signers[agent].algorithm)}
        )
        for agent in AGENTS
    }
    trust = w.trust()
    return replace(trust, keys=TrustedKeys({**trust.keys.by_issuer, **keys}, trust.keys.bundles))


def _chain(w: World, signers: Mapping[SpiffeId, LinkSigner], links: int) -> str:
    """Return a chain that the first agent of the path starts."""
    root = w.root(scopes=SCOPES, allowed_targets=TARGETS, depth=5)
    chain = forged(root, signers[PLANNER], claims={"iss": PLANNER.uri, "act": DROP})
    for holder, audience in islice(pairwise(PATH), 1, links):
        chain = _passed_on(chain, signers[holder], audience)
    return chain


def _passed_on(chain: str, signer: LinkSigner, audience: SpiffeId) -> str:
    return attenuate(signer, chain, audience, Narrowing(lifetime_seconds=600), PASSED_ON)


def _verifier(presentation: Presentation, trust: DelegationTrust, cache: LinkCache | None) -> Callable[[str], object]:
    return lambda chain: verify_chain(chain, presentation, trust, cache)


def _cost(name: str, verify: Callable[[str], object], chains: Iterable[str]) -> ChainCost:
    """Time each call; a fresh copy of the text for each, as a request brings one."""
    texts = [f"{chain[:-1]}{chain[-1]}" for chain in chains]
    for text in texts[:WARM_UP]:
        verify(text)
    measured = texts[WARM_UP:]
    times_ns = []
    cpu_started = time.process_time_ns()
    for text in measured:
        started = time.perf_counter_ns()
        verify(text)
        times_ns.append(time.perf_counter_ns() - started)
    cpu_ns = time.process_time_ns() - cpu_started
    percentiles = statistics.quantiles(times_ns, n=100)
    return ChainCost(name, len(texts[0]), percentiles[49] / 1000, percentiles[98] / 1000, cpu_ns / len(measured) / 1000)
