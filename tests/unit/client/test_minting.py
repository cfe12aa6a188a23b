"""Making chains: what is asked for comes out, what is not there is refused, and nothing is dropped in silence."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from support.delegations import (
    CRM,
    EVIL,
    MAILER,
    MINTED,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    SCOPES,
    STS,
    TARGETS,
    USER,
    Authority,
    Showing,
    claims_of,
    forged,
    header_of,
    shown_by_crm,
    shown_by_retriever,
    signing_hash,
    workload,
    world,
)

from ext_authz.client.minting import (
    COMFORTABLE_CHAIN_BYTES,
    LastLink,
    Narrowing,
    Root,
    _within_budget,
    attenuate,
    mint_root,
)
from ext_authz.client.signing import (
    LinkSigner,
    MintingError,
    generate_private_key,
    load_certificates,
    load_private_key,
    private_key_pem,
    public_jwk,
)
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Delegation, verify_chain
from ext_authz.tokens.claims import MAX_DEPTH
from ext_authz.tokens.jws import MAX_CHAIN_BYTES, encode_base64url
from ext_authz.tokens.keys import KeySet, TrustedKeys, parse_jwks


def refused(
    chain: str,
    why: str,
    signer: LinkSigner | None = None,
    audience: Any = CRM,
    now: float = PASSED_ON,
    **narrowing: Any,
) -> None:
    with pytest.raises(MintingError, match=re.escape(why)):
        attenuate(signer or world().svids[RETRIEVER], chain, audience, Narrowing(**narrowing), now)


def root_refused(why: str, signer: LinkSigner | None = None, now: float = MINTED, **changes: Any) -> None:
    usual: dict[str, Any] = {"on_behalf_of": USER, "audience": RETRIEVER, "scopes": SCOPES, "allowed_targets": TARGETS}
    with pytest.raises(MintingError, match=re.escape(why)):
        mint_root(signer or world().sts, Root(**usual | changes), now)


def test_claims_of_a_root() -> None:
    """A root says what was asked for, sorted, with an id of 128 random bits; what was not asked for is absent."""
    claims = claims_of(world().root())
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", claims.pop("jti"))
    assert {
        "iss": STS.uri,
        "sub": USER,
        "sid": "session-9f86d081884c",
        "act": {"sub": PLANNER.uri},
        "aud": RETRIEVER.uri,
        "scope": sorted(SCOPES),
        "allowed_targets": sorted(target.uri for target in TARGETS),
        "delegation_depth": 3,
        "max_delegation_depth": 3,
        "iat": MINTED,
        "exp": MINTED + 900,
    } == claims


def test_what_a_root_may_say_beside() -> None:
    """Not-before, binding to a certificate and single use are said on demand."""
    claims = claims_of(world().root(not_before=NOW, certificate_sha256=bytes(32), once=True))
    assert (NOW, {"x5t#S256": encode_base64url(bytes(32))}, {"once": True}) == (
        *(claims["nbf"], claims["cnf"], claims["caveats"]),
    )


def test_claims_of_a_child() -> None:
    """A child names its parent, keeps session and maximum, and has one hop less; scopes and targets stay unless narrowed."""
    w = world()
    parent = w.root()
    chain = attenuate(w.svids[RETRIEVER], parent, CRM, Narrowing(), NOW + 0.9)
    claims, given = claims_of(chain), claims_of(parent)
    assert chain.startswith(f"{parent}~")
    assert claims["jti"] != given["jti"]
    assert {
        **given,
        "iss": RETRIEVER.uri,
        "aud": CRM.uri,
        "delegation_depth": 2,
        "iat": NOW,
        "jti": claims["jti"],
        "par_hash": signing_hash(parent),
    } == {**claims, "act": given["act"]}
    assert "act" not in claims


def test_narrowed() -> None:
    """What is asked for is what the next holder gets."""
    narrowing = Narrowing(scopes=["kb:search"], allowed_targets=[CRM], depth=0, lifetime_seconds=60, once=True)
    chain = attenuate(world().svids[RETRIEVER], world().root(), CRM, narrowing, PASSED_ON)
    delegation = shown_by_retriever(chain).verified()
    assert (frozenset({"kb:search"}), frozenset({CRM}), 0, PASSED_ON + 60, True) == (
        *(delegation.scopes, delegation.allowed_targets, delegation.depth, delegation.expires_at, delegation.once),
    )


def test_ids_are_fresh() -> None:
    """No two links have the same id."""
    chains = [world().two_links() for _ in range(20)]
    assert 40 == len({claims_of(link)["jti"] for chain in chains for link in chain.split("~")})


def test_beyond_what_the_chain_gives() -> None:
    """Asking for more names what there is too much of, all of it at once."""
    chain = world().root()
    refused(chain, "the chain does not give scope `admin`, `root`", scopes=["root", "kb:search", "admin"])
    refused(chain, f"the chain does not give target `{EVIL}`", allowed_targets=[CRM, EVIL])
    refused(chain, f"the chain does not give target `{EVIL}`", audience=EVIL)
    refused(chain, f"the chain does not give target `{CRM}`", allowed_targets=[MAILER])
    for depth in (3, 4, -1):
        refused(chain, f"depth `{depth}` is not possible: expected 0 to 2", depth=depth)
    for lifetime in (0, -1, 3601):
        refused(chain, f"a lifetime of `{lifetime}` s is not possible", lifetime_seconds=lifetime)


def test_nothing_at_all_is_no_authority() -> None:
    """An empty list of scopes is not all of them."""
    refused(world().root(), "scope is missing or no list of 1 to 64 strings", scopes=[])
    refused(world().root(), f"the chain does not give target `{CRM}`", allowed_targets=[])
    root_refused("scope is missing", scopes=[])


def test_chain_of_somebody_else() -> None:
    """Only the workload that received a chain can pass it on, also where a minter signs."""
    w = world()
    refused(w.root(), f"the chain was made for `{RETRIEVER}`: `{EVIL}` cannot pass it on", signer=w.svids[EVIL])
    refused(w.root(), f"the chain was made for `{RETRIEVER}`: `{STS}` cannot pass it on", signer=w.sts)
    refused(w.root(), f"the chain was made for `{RETRIEVER}`: `{EVIL}` cannot pass it on", signer=w.sts, actor=EVIL)


def test_to_oneself() -> None:
    """A link is for another workload."""
    refused(world().root(), "aud is the holder itself", audience=RETRIEVER)


def test_end_of_the_depth() -> None:
    """A link of depth 0 is the last one, and so is the sixth."""
    w = world()
    refused(w.root(depth=0), "the chain allows no further hop")
    chain = w.root(depth=MAX_DEPTH)
    for holder, audience in zip([RETRIEVER, CRM] * 3, [CRM, RETRIEVER] * 2 + [CRM], strict=False):
        chain = w.passed_on(chain, holder, audience)
    longest = forged(chain, w.svids[RETRIEVER], claims={"delegation_depth": 1})
    refused(longest, "the chain has 6 links already", signer=w.svids[CRM], audience=RETRIEVER)


def test_end_of_the_time() -> None:
    """A link ends with its chain, and an expired chain is not passed on."""
    w = world()
    chain = w.root()
    assert (
        MINTED + 900
        == claims_of(attenuate(w.svids[RETRIEVER], chain, CRM, Narrowing(lifetime_seconds=3600), NOW))["exp"]
    )
    assert MINTED + 900 == claims_of(attenuate(w.svids[RETRIEVER], chain, CRM, Narrowing(), MINTED + 899))["exp"]
    refused(chain, "the chain has expired", now=MINTED + 900)
    refused(chain, "the chain was issued in the future", now=MINTED - 31)
    assert attenuate(w.svids[RETRIEVER], chain, CRM, Narrowing(), MINTED - 30)


def test_end_of_the_certificate() -> None:
    """A link ends with the certificate that signs it, and an expired or future certificate signs nothing."""
    w = world()
    certificate, key = Authority.of(w.ca).svid([RETRIEVER.uri], not_before=NOW, not_after=NOW + 60)
    signer = LinkSigner.with_svid([certificate], key)
    chain = attenuate(signer, w.root(), CRM, Narrowing(), NOW)
    assert NOW + 60 == shown_by_retriever(chain).verified().expires_at
    refused(w.root(), "the certificate has expired", signer=signer, now=NOW + 60)
    refused(w.root(), "the certificate is not valid yet", signer=signer, now=NOW - 31)
    root_refused("the certificate has expired", signer=signer, now=NOW + 60, audience=CRM)


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("sub has characters", {"on_behalf_of": "a b"}),
        ("sid has characters", {"session_id": "short"}),
        ("scope has an entry that is not allowed", {"scopes": ["tickets:*"]}),
        ("aud is not in allowed_targets", {"audience": EVIL}),
        ("aud is the holder itself", {"actor": RETRIEVER}),
        ("max_delegation_depth is above 5", {"depth": 6}),
        ("delegation_depth is missing", {"depth": -1}),
        ("a lifetime of `3601` s is not possible", {"lifetime_seconds": 3601}),
        ("names an identity of SPIRE itself", {"actor": workload("spire/server")}),
    ],
)
def test_root_that_the_profile_does_not_allow(why: str, changes: dict[str, Any]) -> None:
    """What a verifier would refuse is not signed."""
    root_refused(why, **changes)


@pytest.mark.parametrize("text", ["", "a.b.c", "~", "x" * 20000, "~".join("a" * 7)])
def test_what_is_no_chain(text: str) -> None:
    """What cannot be read is not passed on; the error does not repeat it."""
    with pytest.raises(MintingError) as caught:
        LastLink.of(text)
    assert len(text) < 2 or text not in str(caught.value)


def test_broken_last_link() -> None:
    """A chain whose last link breaks the profile is not passed on."""
    refused(
        forged(world().root(), world().sts, claims={"scope": "all"}),
        "the last link has a claim that is not allowed: scope",
    )


def many(letters: int) -> list[SpiffeId]:
    """Return as many targets as there may be, with long names."""
    return [RETRIEVER, *(workload(f"{'a' * letters}{index}") for index in range(31))]


def test_budget(caplog: pytest.LogCaptureFixture) -> None:
    """A chain that grows uncomfortable is reported without its text; one that nobody would accept is not made."""
    with caplog.at_level(logging.WARNING):
        chain = world().root(allowed_targets=many(120))
    (record,) = caplog.records
    assert f"a delegation chain has {len(chain)} bytes: above 6144, exchange it for a checkpoint" == record.getMessage()
    root_refused("at most 16384 are accepted", allowed_targets=many(400))


@pytest.mark.parametrize(
    ("warnings", "size"), [(0, COMFORTABLE_CHAIN_BYTES), (1, COMFORTABLE_CHAIN_BYTES + 1), (1, MAX_CHAIN_BYTES)]
)
def test_limits_of_the_budget(caplog: pytest.LogCaptureFixture, warnings: int, size: int) -> None:
    """6144 bytes are comfortable, 16384 are accepted."""
    assert size == len(_within_budget("a" * size))
    assert warnings == len(caplog.records)
    with pytest.raises(MintingError, match="the chain would have 16385 bytes"):
        _within_budget("a" * (MAX_CHAIN_BYTES + 1))


KEYS: list[tuple[str, Any]] = [
    ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ("ES384", ec.generate_private_key(ec.SECP384R1())),
    ("Ed25519", ed25519.Ed25519PrivateKey.generate()),
    ("RS256", rsa.generate_private_key(65537, 2048)),
]


def verified_with(jwk: dict[str, str], chain: str) -> Delegation:
    """Verify a root with nothing but one public key of the token service."""
    keys = TrustedKeys({STS: KeySet(parse_jwks(json.dumps({"keys": [jwk]})))})
    return verify_chain(chain, Showing(chain).presentation, replace(world().trust(), keys=keys))


@pytest.mark.parametrize(("algorithm", "key"), KEYS)
def test_registered_keys_of_all_types(algorithm: str, key: Any) -> None:
    """What a key signs, its published half verifies: JWK set, name and all."""
    w = world()
    signer = LinkSigner.with_key_id(STS, "new", key)
    chain = forged(w.root(), signer)
    assert {"alg": algorithm, "typ": "dlg+jwt", "kid": "new"} == header_of(chain)
    assert STS == verified_with(public_jwk(key, "new"), chain).root_issuer


@pytest.mark.parametrize(("algorithm", "key"), KEYS)
def test_svids_of_all_types(algorithm: str, key: Any) -> None:
    """An SVID signs with the algorithm of its key, and travels as x5c or as its thumbprint."""
    w = world()
    certificate, _ = Authority.of(w.ca).svid([RETRIEVER.uri], key)
    for signer in (LinkSigner.with_svid([certificate], key), LinkSigner.with_presented_svid(certificate, key)):
        assert (RETRIEVER, algorithm) == (signer.issuer, signer.algorithm)
        chain = attenuate(signer, w.root(), CRM, Narrowing(), NOW)
        assert 2 == shown_by_retriever(chain, certificate=certificate).verified().hops


def test_rsa_with_the_other_padding() -> None:
    """A key that is registered for PS256 signs so."""
    signer = LinkSigner.with_key_id(STS, "pss", KEYS[3][1], "PS256")
    jwk = {**public_jwk(KEYS[3][1], "pss"), "alg": "PS256"}
    assert STS == verified_with(jwk, forged(world().root(), signer)).root_issuer


def test_thumbprint_ends_a_chain() -> None:
    """A link that only the next workload can verify allows no hop below it."""
    w = world()
    signer = LinkSigner.with_presented_svid(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    assert 0 == claims_of(attenuate(signer, w.root(), CRM, Narrowing(), NOW))["delegation_depth"]
    refused(w.root(), "depth `1` is not possible: expected 0 to 0", signer=signer, depth=1)
    root_refused("a link signed by thumbprint ends the chain: ask for depth 0", signer=signer)


def test_keys_that_do_not_fit() -> None:
    """A key signs only for its certificate, its algorithm and one workload."""
    w = world()
    certificate, key = Authority.of(w.ca).svid([RETRIEVER.uri])
    cases: tuple[tuple[str, Callable[[], LinkSigner]], ...] = (
        ("does not belong to the certificate", lambda: LinkSigner.with_svid([certificate], w.private_keys[CRM])),
        ("does not belong to the certificate", lambda: LinkSigner.with_presented_svid(certificate, KEYS[2][1])),
        ("1 to 3 certificates", lambda: LinkSigner.with_svid([], key)),
        ("1 to 3 certificates", lambda: LinkSigner.with_svid([certificate] * 4, key)),
        ("cannot sign links", lambda: LinkSigner.with_key_id(STS, "k", key, "Ed25519")),
        ("cannot sign links", lambda: LinkSigner.with_key_id(STS, "k", key, "HS256")),
        ("cannot sign links", lambda: LinkSigner.with_key_id(STS, "k", ec.generate_private_key(ec.SECP521R1()))),
        ("1 to 128 characters", lambda: LinkSigner.with_key_id(STS, "", key)),
        ("1 to 128 characters", lambda: LinkSigner.with_key_id(STS, "k" * 129, key)),
    )
    for why, make in cases:
        with pytest.raises(MintingError, match=why):
            make()


@pytest.mark.parametrize(
    "uris", [[], [CRM.uri, EVIL.uri], ["https://agents.example.com"], ["spiffe://agents.example.com"]]
)
def test_certificates_that_name_no_workload(uris: list[str]) -> None:
    """A certificate must name one workload to sign for it."""
    certificate, key = Authority.of(world().ca).svid(uris)
    with pytest.raises(MintingError, match="does not name one workload"):
        LinkSigner.with_svid([certificate], key)


@pytest.mark.parametrize("algorithm", ["Ed25519", "ES256", "ES384"])
def test_new_keys(algorithm: str) -> None:
    """A new key is written and read back as the same key; its name is its thumbprint unless it has another."""
    key = generate_private_key(algorithm)
    jwk = public_jwk(key)
    assert jwk == public_jwk(load_private_key(private_key_pem(key)))
    assert algorithm == jwk["alg"]
    assert 43 == len(jwk["kid"])
    assert "named" == public_jwk(key, "named")["kid"]
    assert not {"d", "k"} & jwk.keys()


def test_thumbprint_of_a_key() -> None:
    """The name of a key is what RFC 8037 appendix A.3 says it is."""
    private_key = ed25519.Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" == public_jwk(private_key)["kid"]


def test_keys_that_are_not_made() -> None:
    """Keys are made for the algorithms of new deployments."""
    with pytest.raises(MintingError, match="no key is made for `RS256`"):
        generate_private_key("RS256")


@pytest.mark.parametrize("pem", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_damaged_files(pem: bytes) -> None:
    """What is no key and no certificate is said to be none."""
    with pytest.raises(MintingError, match="not an unencrypted private key"):
        load_private_key(pem)
    with pytest.raises(MintingError, match="not a list of certificates"):
        load_certificates(pem)


def test_keys_of_other_types() -> None:
    """Keys that sign no links are refused when they are read."""
    with pytest.raises(MintingError, match="expected EC, Ed25519 or RSA"):
        load_private_key(private_key_pem(ed448.Ed448PrivateKey.generate()))  # type: ignore[arg-type]


def test_secrets_do_not_show() -> None:
    """The repr of a signer holds no key."""
    w = world()
    shown = repr(w.sts) + repr(w.svids[RETRIEVER])
    assert "_sign" not in shown
    assert "PRIVATE" not in shown
    assert f"{w.private_keys[RETRIEVER].private_numbers().private_value:x}" not in shown


def test_minted_chain_of_three() -> None:
    """What this package makes, this package verifies."""
    chain = world().three_links(certificate_sha256=world().certificates[CRM].fingerprint(hashes.SHA256()))
    assert 3 == shown_by_crm(chain, certificate=world().certificates[CRM]).verified().hops
