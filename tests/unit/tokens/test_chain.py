"""Chains that are as they should be, what they give, and the last value that each rule lets pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.delegations import (
    BROKER,
    CRM,
    DROP,
    MAILER,
    MINTED,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    SCOPES,
    SESSION,
    STS,
    TARGETS,
    USER,
    Authority,
    Showing,
    World,
    claims_of,
    forged,
    shown_by_crm,
    shown_by_retriever,
    with_certificates,
    world,
)

from ext_authz.client.signing import LinkSigner
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Delegation, DelegationTrust, LinkCache, RootLimit, verify_chain
from ext_authz.tokens.keys import TrustedKeys


def token_ids(chain: str) -> tuple[str, ...]:
    return tuple(claims_of(link)["jti"] for link in chain.split("~"))


def test_root_in_act_form() -> None:
    """A root says for whom, with which scopes, for how long; its actor is the first and only one."""
    chain = world().root()
    expected = Delegation(
        on_behalf_of=USER,
        session_id=SESSION,
        scopes=frozenset(SCOPES),
        allowed_targets=frozenset(TARGETS),
        depth=3,
        hops=1,
        actors=(PLANNER,),
        root_issuer=STS,
        token_ids=token_ids(chain),
        expires_at=MINTED + 900,
        once=False,
    )
    assert expected == Showing(chain).verified()


def test_three_links() -> None:
    """The last link is what counts; every holder and every id is known."""
    chain = world().three_links()
    expected = Delegation(
        on_behalf_of=USER,
        session_id=SESSION,
        scopes=frozenset(SCOPES[2:]),
        allowed_targets=frozenset({MAILER}),
        depth=1,
        hops=3,
        actors=(PLANNER, RETRIEVER, CRM),
        root_issuer=STS,
        token_ids=token_ids(chain),
        expires_at=PASSED_ON + 600,
        once=False,
    )
    assert expected == shown_by_crm(chain).verified()


@pytest.mark.parametrize("target", [RETRIEVER, CRM])
def test_grant_form(target: SpiffeId) -> None:
    """One grant serves calls of several targets; it is no call itself, and its minter is no actor."""
    w = world()
    delegation = Showing(w.passed_on(w.grant(), PLANNER, target), PLANNER, target).verified()
    assert (1, (PLANNER,), STS) == (delegation.hops, delegation.actors, delegation.root_issuer)


def test_chain_that_an_agent_starts() -> None:
    """An agent that may start chains signs its first call itself."""
    w = world()
    chain = forged(w.root(), w.planner_root, claims={"iss": PLANNER.uri, "act": DROP})
    delegation = Showing(chain).verified()
    assert (1, (PLANNER,), PLANNER) == (delegation.hops, delegation.actors, delegation.root_issuer)


def test_link_that_a_minter_signs() -> None:
    """The token service may sign for the agent that received the parent."""
    w = world()
    chain = w.passed_on(w.root(), w.sts, CRM, actor=RETRIEVER)
    assert (PLANNER, RETRIEVER) == shown_by_retriever(chain).verified().actors


def test_checkpoint() -> None:
    """A checkpoint counts what it replaced: hops, actors and ids."""
    w = world()
    replaced = w.two_links()
    chain = w.checkpoint(replaced)
    delegation = shown_by_crm(chain).verified()
    assert 3 == delegation.hops
    assert (PLANNER, RETRIEVER, CRM) == delegation.actors
    assert token_ids(replaced) + token_ids(chain) == delegation.token_ids


def test_checkpoint_is_passed_on() -> None:
    """Links below a checkpoint are hops like any others."""
    w = world()
    start = forged(w.checkpoint(w.two_links()), w.sts, claims={"allowed_targets": [MAILER.uri, RETRIEVER.uri]})
    chain = w.passed_on(start, MAILER, RETRIEVER)
    delegation = Showing(chain, MAILER, RETRIEVER).verified()
    assert (4, (PLANNER, RETRIEVER, CRM, MAILER)) == (delegation.hops, delegation.actors)


def test_target_in_a_federated_domain() -> None:
    """A workload of a partner can be called, and can pass on what it got."""
    w = world()
    root = w.root(allowed_targets=(*TARGETS, BROKER))
    chain = w.passed_on(root, RETRIEVER, BROKER)
    assert 2 == Showing(chain, RETRIEVER, BROKER).verified().hops
    assert 3 == Showing(w.passed_on(chain, BROKER, CRM), BROKER, CRM).verified().hops


def test_key_of_the_directory() -> None:
    """A link may be signed with a registered key, here ES384, instead of an SVID."""
    w = world()
    chain = w.passed_on(w.grant(audience=MAILER, allowed_targets=TARGETS), w.mailer_directory, CRM)
    assert (MAILER,) == Showing(chain, MAILER, CRM).verified().actors


@pytest.mark.parametrize("signer", ["sts", "sts_rsa"])
def test_keys_of_one_issuer(signer: str) -> None:
    """An issuer may have several keys, of several types."""
    w = world()
    assert STS == Showing(forged(w.root(), getattr(w, signer))).verified().root_issuer


def test_old_name_of_ed25519() -> None:
    """EdDSA is the name under which RFC 8037 knew Ed25519."""
    w = world()
    assert STS == Showing(forged(w.root(), w.sts, header={"alg": "EdDSA"})).verified().root_issuer


def test_svid_with_p384() -> None:
    """The key of a certificate decides its algorithm."""
    w = world()
    certificate, key = Authority.of(w.ca).svid([RETRIEVER.uri], ec.generate_private_key(ec.SECP384R1()))
    chain = forged(w.two_links(), with_certificates(RETRIEVER, [certificate], key, "ES384"))
    assert 2 == shown_by_retriever(chain).verified().hops


def test_svid_below_an_intermediate() -> None:
    """The certificates between leaf and root travel in the link."""
    w = world()
    ca = Authority.root(uris=[f"spiffe://{RETRIEVER.trust_domain}"])
    intermediate = ca.intermediate()
    certificate, key = intermediate.svid([RETRIEVER.uri])
    signer = LinkSigner.with_svid([certificate, intermediate.certificate], key)
    showing = shown_by_retriever(w.passed_on(w.root(), signer, CRM))
    keys = TrustedKeys(w.keys.by_issuer, {RETRIEVER.trust_domain: [ca.certificate]})
    assert 2 == verify_chain(showing.chain, showing.presentation, replace(w.trust(), keys=keys)).hops


def test_presented_certificate_by_thumbprint() -> None:
    """The last link need not carry the certificate that the connection shows."""
    w = world()
    signer = LinkSigner.with_presented_svid(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    chain = w.passed_on(w.root(), signer, CRM)
    assert 2 == shown_by_retriever(chain, certificate=w.certificates[RETRIEVER]).verified().hops


def test_thumbprint_counts_only_with_its_certificate() -> None:
    """A link by thumbprint is not remembered: the next connection must show the certificate itself."""
    w, cache = world(), LinkCache()
    signer = LinkSigner.with_presented_svid(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    showing = shown_by_retriever(w.passed_on(w.root(), signer, CRM), certificate=w.certificates[RETRIEVER])
    showing.verified(cache)
    with pytest.raises(Refusal) as caught:
        replace(showing, certificate=None).verified(cache)
    assert Reason.TOKEN_KEY == caught.value.reason


@pytest.mark.parametrize("now", [NOW - 911, NOW + 2701])
def test_presented_certificate_must_be_valid(now: float) -> None:
    """A certificate that is shown outside its time signs nothing."""
    w = world()
    signer = LinkSigner.with_presented_svid(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    chain = w.passed_on(w.root(), signer, CRM)
    with pytest.raises(Refusal, match="the presented certificate is not valid now"):
        shown_by_retriever(chain, certificate=w.certificates[RETRIEVER], now=now).verified()


def test_bound_to_the_presented_certificate() -> None:
    """`cnf` binds a link to one certificate of its presenter."""
    w = world()
    certificate = w.certificates[PLANNER]
    chain = w.root(certificate_sha256=certificate.fingerprint(hashes.SHA256()))
    assert (PLANNER,) == Showing(chain, certificate=certificate).verified().actors


def test_binding_of_an_earlier_link_does_not_bind_the_last() -> None:
    """Each link is bound to its own presenter's certificate, and only the last one is presented."""
    w = world()
    root = w.root(certificate_sha256=w.certificates[PLANNER].fingerprint(hashes.SHA256()))
    chain = w.passed_on(root, RETRIEVER, CRM)
    assert 2 == shown_by_retriever(chain, certificate=w.certificates[RETRIEVER]).verified().hops


@pytest.mark.parametrize("marked", [0, 1, 2])
def test_single_use_holds_below(marked: int) -> None:
    """A caveat of any link holds for the whole chain."""
    w = world()
    chain = w.root(once=marked == 0)
    chain = w.passed_on(chain, RETRIEVER, CRM, once=marked == 1)
    chain = w.passed_on(chain, CRM, MAILER, once=marked == 2)
    assert shown_by_crm(chain).verified().once


def test_session_may_be_absent() -> None:
    """A chain without a session stays without one."""
    w = world()
    assert shown_by_retriever(w.passed_on(w.root(session_id=None), RETRIEVER, CRM)).verified().session_id is None


def test_unknown_claims_decide_nothing() -> None:
    """What the profile does not know is ignored: restrictions stand in `caveats`."""
    w = world()
    assert (
        Showing(w.root()).verified().scopes
        == Showing(forged(w.root(), w.sts, claims={"tier": "gold"})).verified().scopes
    )


def test_longest_chain() -> None:
    """A root and five hops, the last of depth 0."""
    w = world()
    chain, holders = w.root(depth=5), (RETRIEVER, CRM, MAILER, RETRIEVER, CRM)
    for holder, audience in zip(holders, (*holders[1:], MAILER), strict=True):
        chain = w.passed_on(chain, holder, audience)
    delegation = shown_by_crm(chain).verified()
    assert (0, 6, (PLANNER, *holders)) == (delegation.depth, delegation.hops, delegation.actors)


Build = Callable[[World], Showing]


def root_with(now: float = NOW, **claims: Any) -> Build:
    return lambda w: Showing(forged(w.root(), w.sts, claims=claims), now=now)


def child_with(now: float = NOW, **claims: Any) -> Build:
    return lambda w: shown_by_retriever(forged(w.two_links(), w.svids[RETRIEVER], claims=claims), now=now)


def certified(issued_at: int = PASSED_ON, expires_at: int = NOW + 60, now: float = NOW, **validity: float) -> Build:
    def build(w: World) -> Showing:
        certificate, key = Authority.of(w.ca).svid([RETRIEVER.uri], **validity)
        signer = with_certificates(RETRIEVER, [certificate], key)
        chain = forged(w.two_links(), signer, claims={"iat": issued_at, "exp": expires_at})
        return shown_by_retriever(chain, now=now)

    return build


@pytest.mark.parametrize(
    ("last", "beyond", "reason"),
    [
        (root_with(now=MINTED + 899.999), root_with(now=MINTED + 900), Reason.TOKEN_EXPIRED),
        (root_with(iat=NOW + 30), root_with(iat=NOW + 31), Reason.TOKEN_NOT_YET_VALID),
        (root_with(nbf=NOW + 30), root_with(nbf=NOW + 31), Reason.TOKEN_NOT_YET_VALID),
        (root_with(exp=MINTED + 3600), root_with(exp=MINTED + 3601), Reason.TOKEN_MALFORMED),
        (child_with(exp=MINTED + 900), child_with(exp=MINTED + 901), Reason.TOKEN_CHAIN),
        (child_with(iat=MINTED - 30), child_with(iat=MINTED - 31), Reason.TOKEN_CHAIN),
        (certified(not_after=NOW + 60), certified(not_after=NOW + 59), Reason.TOKEN_KEY),
        (certified(NOW - 32, not_before=NOW - 2), certified(NOW - 32, not_before=NOW - 1), Reason.TOKEN_KEY),
        (certified(not_before=NOW), certified(not_before=NOW + 1), Reason.TOKEN_KEY),
        (child_with(delegation_depth=2), child_with(delegation_depth=3), Reason.TOKEN_CHAIN),
        (root_with(delegation_depth=3), root_with(delegation_depth=4), Reason.TOKEN_MALFORMED),
        (root_with(max_delegation_depth=5), root_with(max_delegation_depth=6), Reason.TOKEN_MALFORMED),
    ],
    ids=[
        *("exp", "iat", "nbf", "lifetime", "exp of the parent", "iat of the parent"),
        *(
            "end of the certificate",
            "start of the certificate",
            "certificate now",
            "depth",
            "depth and maximum",
            "maximum",
        ),
    ],
)
def test_boundaries(last: Build, beyond: Build, reason: Reason) -> None:
    """The last value that a rule allows passes, the next one does not."""
    assert USER == last(world()).verified().on_behalf_of
    with pytest.raises(Refusal) as caught:
        beyond(world()).verified()
    assert reason == caught.value.reason


@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [("max_ttl_seconds", 900, Reason.TOKEN_EXPIRED), ("max_depth", 3, Reason.TOKEN_CHAIN)],
)
def test_policy_may_allow_less(name: str, limit: int, reason: Reason) -> None:
    """Lifetime and depth of a policy hold beside those of the profile, up to the value itself."""
    showing, trust = Showing(world().root()), world().trust()
    exact, less = (replace(trust, **{name: value}) for value in (limit, limit - 1))  # type: ignore[arg-type]
    assert USER == verify_chain(showing.chain, showing.presentation, exact).on_behalf_of
    with pytest.raises(Refusal) as caught:
        verify_chain(showing.chain, showing.presentation, less)
    assert reason == caught.value.reason


@pytest.mark.parametrize(
    ("allowed", "limit"),
    [
        (True, RootLimit("user:", is_exact=False, scopes=None)),
        (True, RootLimit(USER, is_exact=True, scopes=frozenset(SCOPES))),
        (False, RootLimit(USER[:-1], is_exact=True, scopes=None)),
        (False, RootLimit("tenant:", is_exact=False, scopes=None)),
        (False, RootLimit("", is_exact=False, scopes=frozenset(SCOPES[1:]))),
        (True, RootLimit("", is_exact=False, scopes=None, targets=frozenset({*TARGETS, BROKER}))),
        (False, RootLimit("", is_exact=False, scopes=None, targets=frozenset(TARGETS[1:]))),
        (False, RootLimit("", is_exact=False, scopes=None, targets=frozenset())),
    ],
)
def test_limits_of_a_root_issuer(allowed: bool, limit: RootLimit) -> None:  # noqa: FBT001
    """A root issuer starts chains only for the subjects, scopes and targets that the policy names."""
    showing, trust = Showing(world().root()), replace(world().trust(), root_limits={STS: limit})
    if allowed:
        assert USER == verify_chain(showing.chain, showing.presentation, trust).on_behalf_of
        return
    with pytest.raises(Refusal) as caught:
        verify_chain(showing.chain, showing.presentation, trust)
    assert Reason.TOKEN_ISSUER == caught.value.reason


def test_nobody_is_trusted_by_default() -> None:
    """An empty configuration verifies nothing."""
    showing = Showing(world().root())
    with pytest.raises(Refusal):
        verify_chain(showing.chain, showing.presentation, DelegationTrust(TrustedKeys(), frozenset()))
