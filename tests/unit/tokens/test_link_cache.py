"""What is remembered of a link, and what is asked anew every time."""

from dataclasses import replace

import pytest
from support.delegations import (
    CRM,
    MINTED,
    NOW,
    PASSED_ON,
    RETRIEVER,
    Authority,
    Showing,
    shown_by_crm,
    shown_by_retriever,
    with_certificates,
    world,
)

from ext_authz.client.signing import LinkSigner
from ext_authz.errors import Reason, Refusal
from ext_authz.tokens.chain import DelegationTrust, LinkCache, verify_chain
from ext_authz.tokens.keys import TrustedKeys
from ext_authz.tokens.revocation import Revocations


def reason_of(showing: Showing, cache: LinkCache) -> Reason:
    with pytest.raises(Refusal) as caught:
        showing.verified(cache)
    return caught.value.reason


def test_remembered_chain_gives_the_same() -> None:
    """The second verification returns what the first one did."""
    showing, cache = shown_by_crm(world().three_links()), LinkCache()
    assert showing.verified() == showing.verified(cache) == showing.verified(cache)


def test_remembered_signature_is_not_verified_again() -> None:
    """With all links remembered, no key is asked for: that is what makes a cache of one DelegationTrust only."""
    showing, cache = shown_by_crm(world().three_links()), LinkCache()
    showing.verified(cache)
    without_keys = replace(world().trust(), keys=TrustedKeys())
    assert 3 == verify_chain(showing.chain, showing.presentation, without_keys, cache).hops


def test_everything_else_is_asked_again() -> None:
    """Time, revocation, caller, target and policy hold for remembered links too."""
    showing, cache = shown_by_retriever(world().two_links()), LinkCache()
    showing.verified(cache)
    assert Reason.TOKEN_EXPIRED == reason_of(replace(showing, now=PASSED_ON + 600), cache)
    assert Reason.TOKEN_NOT_YET_VALID == reason_of(replace(showing, now=MINTED - 31), cache)
    assert Reason.TOKEN_REVOKED == reason_of(
        replace(showing, revocations=Revocations(workloads={RETRIEVER: NOW})), cache
    )
    assert Reason.TOKEN_PRESENTER == reason_of(replace(showing, presenter=CRM), cache)
    assert Reason.TOKEN_AUDIENCE == reason_of(replace(showing, destination=RETRIEVER), cache)
    stricter = replace(world().trust(), root_issuers=frozenset({CRM}))
    with pytest.raises(Refusal) as caught:
        verify_chain(showing.chain, showing.presentation, stricter, cache)
    assert Reason.TOKEN_ISSUER == caught.value.reason


def test_links_are_remembered_one_by_one() -> None:
    """Links that hold do not make a chain: each new order is checked."""
    cache = LinkCache()
    showing = shown_by_crm(world().three_links())
    showing.verified(cache)
    root, _, leaf = showing.chain.split("~")
    assert Reason.TOKEN_CHAIN == reason_of(replace(showing, chain=f"{root}~{leaf}"), cache)


def test_expired_intermediate_ends_what_was_remembered() -> None:
    """A leaf may outlive the CA above it; once that has expired, remembered and new links are refused alike."""
    w, cache = world(), LinkCache()
    ca = Authority.root()
    intermediate = ca.intermediate(not_after=NOW + 10)
    certificate, key = intermediate.svid([RETRIEVER.uri])
    chain = w.passed_on(w.root(), LinkSigner.with_svid([certificate, intermediate.certificate], key), CRM)
    keys = TrustedKeys(w.keys.by_issuer, {RETRIEVER.trust_domain: [ca.certificate]})
    trust = DelegationTrust(keys, w.trust().root_issuers, w.trust().minters)
    showing = shown_by_retriever(chain)
    assert 2 == verify_chain(chain, showing.presentation, trust, cache).hops
    late = replace(showing, now=NOW + 11).presentation
    for memory in (cache, None):
        with pytest.raises(Refusal) as caught:
            verify_chain(chain, late, trust, memory)
        assert Reason.TOKEN_KEY == caught.value.reason


def test_other_path_to_a_root_is_found_again() -> None:
    """When the CA certificate of a remembered link expires and a renewed one vouches for it, the link holds on."""
    w, cache = world(), LinkCache()
    old = Authority.root(not_after=NOW + 10)
    subject = old.certificate.subject
    renewed = Authority(Authority(old.certificate, old.key).sign(old.key.public_key(), subject, ca=True), old.key)
    certificate, key = old.svid([RETRIEVER.uri])
    chain = w.passed_on(w.root(), with_certificates(RETRIEVER, [certificate], key), CRM)
    keys = TrustedKeys(w.keys.by_issuer, {RETRIEVER.trust_domain: [old.certificate, renewed.certificate]})
    trust = DelegationTrust(keys, w.trust().root_issuers, w.trust().minters)
    for now in (NOW, NOW + 11):
        showing = shown_by_retriever(chain, now=now)
        assert 2 == verify_chain(chain, showing.presentation, trust, cache).hops


def test_memory_is_bounded() -> None:
    """What is not used any more is forgotten: two generations of a bounded size are kept."""
    chains = [world().root() for _ in range(5)]
    cache = LinkCache(max_characters=2 * len(chains[0]))
    for chain in chains:
        Showing(chain).verified(cache)
    assert [False, False, True, True, True] == [cache.get(chain) is not None for chain in chains]


def test_what_is_used_again_stays() -> None:
    """A link that comes again moves into the young generation."""
    chains = [world().root() for _ in range(6)]
    cache = LinkCache(max_characters=2 * len(chains[0]))
    for chain in chains[1:]:
        Showing(chains[0]).verified(cache)
        Showing(chain).verified(cache)
    assert cache.get(chains[0]) is not None


def test_refused_links_are_not_remembered() -> None:
    """Only signatures that hold take up memory."""
    cache = LinkCache()
    chain = world().root()
    forged = f"{chain.rpartition('.')[0]}.AAAA"
    assert Reason.TOKEN_SIGNATURE == reason_of(Showing(forged), cache)
    assert cache.get(forged) is None
