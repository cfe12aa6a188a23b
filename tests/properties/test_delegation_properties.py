"""What holds for every delegation chain, good or damaged."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.delegations import (
    BROKER,
    CRM,
    EVIL,
    MAILER,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    SCOPES,
    Showing,
    claims_of,
    forged,
    header_of,
    world,
)

from ext_authz.client.signing import LinkSigner
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Delegation, LinkCache
from ext_authz.tokens.jws import decode_base64url, decode_link, encode_base64url, split_chain

EXAMPLES = settings(max_examples=100, deadline=None, database=None)
MANY_EXAMPLES = settings(max_examples=1000, deadline=None, database=None)

AGENTS = (RETRIEVER, CRM, MAILER, BROKER)

texts = st.text(max_size=60)
# What a chain is made of, in any order, with a little of everything else.
chain_texts = st.lists(
    st.sampled_from([".", "..", "~", "~~", "=", "\n", "e30", "eyJhIjoxfQ", "AAAA", "A", "*", ",", "Bearer ", "\u0430"])
    | st.binary(max_size=20).map(encode_base64url)
    | texts,
    max_size=12,
).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def chains(draw: st.DrawFn) -> Showing:
    """Draw a good chain: a root, and links that each take away something or nothing."""
    w = world()
    length = draw(st.integers(1, 5))
    depth = draw(st.integers(length - 1, 5))
    held = draw(st.sampled_from(AGENTS))
    chain = w.root(audience=held, allowed_targets=AGENTS, depth=depth, once=draw(st.booleans()))
    presenter = PLANNER
    for links_to_come in reversed(range(length - 1)):
        claims = claims_of(chain)
        targets = [agent for agent in AGENTS if agent.uri in claims["allowed_targets"]]
        others = [agent for agent in targets if agent != held]
        if not others:
            break
        audience = draw(st.sampled_from(others))
        # Whoever is to pass it on must have somebody to pass it on to.
        kept = draw(st.sets(st.sampled_from(targets))) | {audience} | set(targets if links_to_come else ())
        lifetimes = st.integers(claims["exp"] - NOW - 60, claims["exp"] - NOW).map(
            lambda seconds: max(seconds, NOW - PASSED_ON + 1)
        )
        chain = w.passed_on(
            chain,
            held,
            audience,
            scopes=draw(st.sets(st.sampled_from(claims["scope"]), min_size=1)),
            allowed_targets=kept,
            depth=draw(st.integers(links_to_come, claims["delegation_depth"] - 1)),
            lifetime_seconds=draw(lifetimes),
        )
        presenter, held = held, audience
    return Showing(chain, presenter, held)


def outcome(showing: Showing, cache: LinkCache | None = None) -> Delegation | tuple[str, str]:
    """Return what a verification gives, or why it refuses."""
    try:
        return showing.verified(cache)
    except Refusal as refusal:
        return refusal.reason, refusal.detail


def is_refused(showing: Showing) -> bool:
    return isinstance(outcome(showing), tuple)


def owner(link: str) -> LinkSigner:
    """Return what signed a link of a good chain."""
    issuer = SpiffeId.parse_workload(claims_of(link)["iss"])
    return world().svids.get(issuer, world().sts)


@EXAMPLES
@given(chains())
def test_chains_that_shrink_hold(showing: Showing) -> None:
    """However links take away, the chain holds, and gives no more than any of its links."""
    delegation = showing.verified()
    links = [claims_of(link) for link in showing.chain.split("~")]
    assert len(links) == delegation.hops == len(delegation.actors)
    assert showing.presenter == delegation.actors[-1]
    for claims in links:
        assert delegation.scopes <= set(claims["scope"]) <= set(SCOPES)
        assert {target.uri for target in delegation.allowed_targets} <= set(claims["allowed_targets"])
        assert delegation.expires_at <= claims["exp"]
        assert delegation.depth <= claims["delegation_depth"]


@EXAMPLES
@given(chains(), st.data())
def test_any_changed_character_is_noticed(showing: Showing, data: st.DataObject) -> None:
    """One other character anywhere, in a header, in claims, in a signature or between them, and the chain is refused."""
    place = data.draw(st.integers(0, len(showing.chain) - 1))
    other = data.draw(st.characters(max_codepoint=0x17F).filter(lambda character: character != showing.chain[place]))
    assert is_refused(replace(showing, chain=showing.chain[:place] + other + showing.chain[place + 1 :]))


@EXAMPLES
@given(chains(), st.data())
def test_any_changed_byte_is_noticed(showing: Showing, data: st.DataObject) -> None:
    """One other byte in what a segment encodes, and the chain is refused."""
    links = [link.split(".") for link in showing.chain.split("~")]
    link = data.draw(st.integers(0, len(links) - 1))
    segment = data.draw(st.integers(0, 2))
    content = bytearray(decode_base64url(links[link][segment]))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    links[link][segment] = encode_base64url(bytes(content))
    assert is_refused(replace(showing, chain="~".join(map(".".join, links))))


@EXAMPLES
@given(chains(), st.data())
def test_other_order_is_noticed(showing: Showing, data: st.DataObject) -> None:
    """Links in another order, left out, repeated or of another chain are refused."""
    links = showing.chain.split("~")
    foreign = data.draw(chains()).chain.split("~")
    order = data.draw(st.lists(st.sampled_from(links + foreign), min_size=1, max_size=6))
    # The beginning of a chain is a chain, and the same agents may have shown it.
    assume(order != links[: len(order)] and order != foreign[: len(order)])
    assert is_refused(replace(showing, chain="~".join(order)))


@EXAMPLES
@given(chains(), st.data())
def test_signature_of_another_key_is_noticed(showing: Showing, data: st.DataObject) -> None:
    """A link under its own name of a key, signed with another, is refused."""
    w, links = world(), showing.chain.split("~")
    index = data.draw(st.integers(0, len(links) - 1))
    own = owner(links[index])
    thief = data.draw(
        st.sampled_from([*w.svids.values(), w.sts, w.sts_rsa, w.planner_root]).filter(lambda each: each != own)
    )
    links[index] = forged(links[index], header={"alg": thief.algorithm}, sign=thief._sign)
    assert is_refused(replace(showing, chain="~".join(links)))
    links[index] = forged(links[index], thief)
    if header_of(links[index]) != header_of(showing.chain.split("~")[index]) and thief.issuer != own.issuer:
        assert is_refused(replace(showing, chain="~".join(links)))


def widened(claims: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """Draw a change that gives a link more than it was given, or that breaks it off its parent."""
    changes: list[dict[str, Any]] = [
        {"scope": [*claims["scope"], "admin:everything"]},
        {"allowed_targets": [*claims["allowed_targets"], EVIL.uri]},
        {"delegation_depth": claims["delegation_depth"] + data.draw(st.integers(1, 5))},
        {"max_delegation_depth": claims["max_delegation_depth"] + data.draw(st.sampled_from([-1, 1]))},
        {"exp": claims["exp"] + data.draw(st.integers(1_000, 3_000))},
        {"sub": claims["sub"] + data.draw(st.sampled_from("ab"))},
        {"sid": claims["sid"] + data.draw(st.sampled_from("ab"))},
        {"aud": EVIL.uri},
        {"iss": EVIL.uri},
        {"act": {"sub": EVIL.uri}},
        {"par_hash": encode_base64url(data.draw(st.binary(min_size=32, max_size=32)))},
        {"jti": data.draw(st.sampled_from(["short", "", "a" * 65]))},
        {"iat": NOW + data.draw(st.integers(31, 100))},
        {"nbf": NOW + data.draw(st.integers(31, 100))},
        {"caveats": {"unknown": True}},
    ]
    return data.draw(st.sampled_from(changes))


@EXAMPLES
@given(chains(), st.data())
def test_signed_widening_of_the_last_link_is_noticed(showing: Showing, data: st.DataObject) -> None:
    """A holder that signs more than it was given is refused, whatever it adds."""
    assume("~" in showing.chain)
    last = showing.chain.rpartition("~")[2]
    changes = widened(claims_of(last), data)
    parent = claims_of(showing.chain.split("~")[-2])
    if "delegation_depth" in changes:
        changes = {"delegation_depth": parent["delegation_depth"]}
    assert is_refused(replace(showing, chain=forged(showing.chain, owner(last), claims=changes)))


@EXAMPLES
@given(
    chains(),
    st.sampled_from(
        ["iss", "sub", "aud", "scope", "exp", "iat", "jti", "act", "sid", "par_hash", "cnf", "caveats", "orig"]
    ),
    json_values,
)
def test_claims_of_any_kind_never_surprise(showing: Showing, name: str, value: object) -> None:
    """Whatever value a signed claim has, the answer is a Delegation or a Refusal, and the same from memory."""
    last = showing.chain.rpartition("~")[2]
    try:
        chain = forged(showing.chain, owner(last), claims={name: value})
    except UnicodeEncodeError:
        return
    changed, cache = replace(showing, chain=chain), LinkCache()
    assert outcome(changed) == outcome(changed, cache) == outcome(changed, cache)


@MANY_EXAMPLES
@given(chain_texts | texts)
def test_decoder_only_ever_refuses(text: str) -> None:
    """No text makes the decoder do anything but decode or refuse."""
    try:
        for index, link in enumerate(split_chain(text)):
            decode_link(link, index)
    except Refusal:
        pass


@MANY_EXAMPLES
@given(json_values, json_values)
def test_unsigned_objects_only_ever_refuse(header: object, claims: object) -> None:
    """Any JSON in the two segments is refused: nothing holds without a signature."""
    segments = (encode_base64url(json.dumps(value).encode()) for value in (header, claims))
    assert is_refused(Showing(f"{'.'.join(segments)}.AAAA"))


@EXAMPLES
@given(st.lists(chains(), min_size=1, max_size=4), st.data())
def test_memory_changes_nothing(showings: list[Showing], data: st.DataObject) -> None:
    """With and without a cache, in any order of showings and at any time, the answers are the same."""
    cache = LinkCache(max_characters=data.draw(st.sampled_from([1, 5_000, 1_000_000])))
    for _ in range(6):
        showing = data.draw(st.sampled_from(showings))
        presenter = data.draw(st.sampled_from([showing.presenter, EVIL]))
        now = NOW + data.draw(st.integers(-1_000, 4_000))
        other = replace(showing, presenter=presenter, now=now)
        assert outcome(other) == outcome(other, cache)
