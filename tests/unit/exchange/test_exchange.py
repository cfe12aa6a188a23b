"""What the exchange gives for a chain: one more link, or a checkpoint, and never more than came in."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from support.delegations import (
    CRM,
    DROP,
    EVIL,
    MAILER,
    MINTED,
    NOW,
    PLANNER,
    RETRIEVER,
    SCOPES,
    SESSION,
    STS,
    TARGETS,
    USER,
    claims_of,
    forged,
    header_of,
    signing_hash,
    workload,
    world,
)
from support.exchanges import EXCHANGE, POLICY, Bench

from ext_authz.client.minting import Root, mint_root
from ext_authz.client.signing import LinkSigner, certificate_sha256, generate_private_key, public_jwk
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Presentation, Receipt, verify_chain, verify_received_chain
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import KeySet, parse_jwks
from ext_authz.tokens.revocation import Revocations


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench.running(tmp_path) as bench:
        yield bench


def with_controls(bench: Bench, **changes: Any) -> None:
    """Put controls in force, as the control store would."""
    controls = replace(bench.exchange.snapshot.controls, **changes)
    bench.exchange.snapshot = replace(bench.exchange.snapshot, controls=controls)


async def test_append(bench: Bench) -> None:
    """By default a chain gets a link that the exchange signs and in which the client acts."""
    received = world().root()
    answer = await bench.ask(received)
    assert answer.chain.startswith(f"{received}~")
    link = claims_of(answer.chain)
    assert (EXCHANGE.uri, {"sub": RETRIEVER.uri}, CRM.uri) == (link["iss"], link["act"], link["aud"])
    assert signing_hash(received) == link["par_hash"]
    granted = bench.verified(answer.chain)
    assert (USER, SESSION, (PLANNER, RETRIEVER), 2) == (
        granted.on_behalf_of,
        granted.session_id,
        granted.actors,
        granted.hops,
    )


async def test_answer(bench: Bench) -> None:
    """The answer has the members of RFC 8693 and may not be stored."""
    answer = await bench.ask(world().root())
    assert {
        "access_token": answer.chain,
        "issued_token_type": "urn:ext-authz:token-type:delegation-chain",
        "token_type": "N_A",
        "expires_in": MINTED + 900 - NOW,
        "scope": " ".join(SCOPES),
    } == answer.body
    assert ("no-store", "application/json") == (answer.headers["cache-control"], answer.headers["content-type"])


async def test_checkpoint(bench: Bench) -> None:
    """A checkpoint is one link that names all that it replaces, and as old as the oldest of it."""
    received = world().two_links()
    answer = await bench.ask(received, CRM, MAILER, mode="checkpoint")
    link = claims_of(answer.chain)
    root, second = map(claims_of, received.split("~"))
    thumbprint = encode_base64url(certificate_sha256(world().certificates[RETRIEVER]))
    assert {
        "h": signing_hash(received),
        "n": 2,
        "jti": [root["jti"], second["jti"]],
        "act": [PLANNER.uri, RETRIEVER.uri],
        "key": ["sts-1", thumbprint],
        "iss": [STS.uri, ""],
    } == link["orig"]
    assert "~" not in answer.chain
    assert (MINTED, second["exp"], second["delegation_depth"] - 1, root["max_delegation_depth"]) == (
        link["iat"],
        link["exp"],
        link["delegation_depth"],
        link["max_delegation_depth"],
    )
    assert "par_hash" not in link


def grants() -> list[tuple[str, SpiffeId, SpiffeId]]:
    """Return chains of both forms and several lengths, who received each, and whom it may call."""
    w = world()
    granted = w.grant()
    once_passed = w.passed_on(granted, PLANNER, RETRIEVER)
    return [
        (w.root(), RETRIEVER, CRM),
        (w.two_links(), CRM, MAILER),
        (granted, PLANNER, RETRIEVER),
        (once_passed, RETRIEVER, CRM),
        (w.passed_on(once_passed, RETRIEVER, CRM), CRM, MAILER),
    ]


@pytest.mark.parametrize("number", range(5))
async def test_both_modes_count_alike(bench: Bench, number: int) -> None:
    """Hops, actors, ids, scopes, depth and end are the same, appended or replaced: a grant is no hop in either."""
    chain, client, audience = grants()[number]
    found = []
    for mode in ("append", "checkpoint"):
        answer = await bench.ask(chain, client, audience, mode=mode)
        found.append(bench.verified(answer.chain, client, audience))
    appended, replaced = found
    before = verify_received_chain(chain, Receipt(client, NOW), bench.trust).delegation
    assert before.hops + 1 == appended.hops == replaced.hops
    assert (*before.actors, client) == appended.actors == replaced.actors
    assert before.token_ids == appended.token_ids[:-1] == replaced.token_ids[:-1]
    same = ("on_behalf_of", "session_id", "scopes", "allowed_targets", "depth", "expires_at", "once")
    assert [getattr(appended, name) for name in same] == [getattr(replaced, name) for name in same]
    assert (STS, EXCHANGE) == (appended.root_issuer, replaced.root_issuer)


async def test_checkpoint_of_a_checkpoint(bench: Bench) -> None:
    """A checkpoint names the ancestors of the one that it replaces, so that hops and revocation go back to the root."""
    first = (await bench.ask(world().grant(), PLANNER, RETRIEVER, mode="checkpoint")).chain
    second = (await bench.ask(first, RETRIEVER, CRM, mode="checkpoint")).chain
    granted = bench.verified(second, RETRIEVER, CRM)
    assert ((PLANNER, RETRIEVER), 2, 3) == (granted.actors, granted.hops, len(granted.token_ids))
    assert [STS.uri, PLANNER.uri] == claims_of(second)["orig"]["act"]


async def test_checkpoint_without_keys_is_replaced(bench: Bench) -> None:
    """Another minter may have left out the keys of its checkpoint; their places stay empty."""
    chain = forged(world().checkpoint(world().two_links()), world().sts)
    answer = await bench.ask(chain, MAILER, RETRIEVER)
    assert (400, "unauthorized_client") == answer.error  # the mailer may not; the world's checkpoint is for it
    received = verify_received_chain(chain, Receipt(MAILER, NOW), bench.trust)
    assert ("", "", "sts-1") == received.origin.keys


async def test_long_chain_becomes_a_checkpoint(bench: Bench) -> None:
    """Above 6,144 bytes the exchange replaces the chain instead of making it longer; a client may still ask for a link."""
    targets = [workload(f"a-workload-with-a-long-name-{number:02}") for number in range(14)]
    chain = world().root(allowed_targets=(*TARGETS, *targets))
    chain = world().passed_on(chain, RETRIEVER, CRM)
    assert 4800 < len(chain) < 5500
    checkpoint, appended = [await bench.ask(chain, CRM, MAILER, mode=mode) for mode in (None, "append")]
    assert (1, 3) == (len(checkpoint.chain.split("~")), len(appended.chain.split("~")))
    assert ["checkpoint", "append"] == [record["exchange.mode"] for record in bench.records]


async def test_narrowing(bench: Bench) -> None:
    """A client gets less where it asks for less: scopes, targets, hops, time, one use."""
    answer = await bench.ask(
        world().root(),
        scope="kb:search tickets:read",
        resource=[CRM.uri],
        depth="0",
        lifetime="60",
        once="true",
    )
    granted = bench.verified(answer.chain)
    assert (frozenset(SCOPES[1:]), frozenset({CRM}), 0, NOW + 60, True) == (
        granted.scopes,
        granted.allowed_targets,
        granted.depth,
        granted.expires_at,
        granted.once,
    )
    assert "kb:search tickets:read" == answer.body["scope"]


async def test_lifetime_ends_with_the_policy_and_the_chain(tmp_path: Path) -> None:
    """Neither mode makes anything live longer than the policy allows from the first link on."""
    policy = POLICY.replace("required: false", "required: false\nmax_ttl: 15m")
    with Bench.running(tmp_path, policy) as short:
        chain = world().root()
        for mode in ("append", "checkpoint"):
            link = claims_of((await short.ask(chain, mode=mode, lifetime="3600")).chain)
            assert MINTED + 900 == link["exp"]
            assert link["exp"] - link["iat"] <= 900


async def test_bound_chain_is_exchanged(bench: Bench) -> None:
    """`cnf` bound the last link to whoever showed it; the client, whom it was shown to, has another certificate."""
    chain = world().root(certificate_sha256=bytes(32))
    assert "cnf" not in claims_of((await bench.ask(chain)).chain)


class Wish(NamedTuple):
    """Something that a client must not get for a root that was made for the retriever."""

    client: SpiffeId
    audience: SpiffeId
    code: str
    parameters: Mapping[str, Any] = MappingProxyType({})


REFUSED = [
    pytest.param(Wish(EVIL, CRM, "invalid_request"), id="client is not the audience of the last link"),
    pytest.param(Wish(PLANNER, CRM, "invalid_request"), id="client is its presenter"),
    pytest.param(Wish(RETRIEVER, RETRIEVER, "invalid_target"), id="client asks for itself"),
    pytest.param(Wish(RETRIEVER, EVIL, "invalid_target"), id="foreign audience"),
    pytest.param(Wish(RETRIEVER, PLANNER, "invalid_target"), id="audience that acted before"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_scope", {"scope": "kb:search admin"}), id="widened scope"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_scope", {"scope": "kb:SEARCH"}), id="unknown scope"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_scope", {"scope": "*"}), id="wildcard scope"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_target", {"resource": [CRM.uri, EVIL.uri]}), id="widened targets"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_target", {"resource": [MAILER.uri]}), id="audience not in resource"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_request", {"depth": "3"}), id="depth kept"),
    pytest.param(Wish(RETRIEVER, CRM, "invalid_request", {"depth": "5"}), id="depth raised"),
]


@pytest.mark.parametrize("mode", ["append", "checkpoint"])
@pytest.mark.parametrize("wish", REFUSED)
async def test_more_than_was_given(bench: Bench, wish: Wish, mode: str) -> None:
    """What the last link does not give is refused, with the code that says what."""
    answer = await bench.ask(world().root(), wish.client, wish.audience, mode=mode, **wish.parameters)
    assert (400, wish.code) == answer.error
    assert {"error", "error_description"} == answer.body.keys()


def own_signer() -> LinkSigner:
    """Return the signer of the retriever's own key, under the exchange's name."""
    return replace(world().svids[RETRIEVER], issuer=EXCHANGE)


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "expired": lambda: forged(world().root(), world().sts, claims={"exp": NOW, "iat": NOW - 60}),
    "of the future": lambda: forged(world().root(), world().sts, claims={"iat": NOW + 31, "exp": NOW + 60}),
    "no further hop": lambda: world().root(depth=0),
    "unsigned": lambda: forged(world().root(), header={"alg": "none"}, sign=lambda _: b""),
    "signed by HMAC": lambda: forged(world().root(), header={"alg": "HS256"}, sign=lambda _: bytes(32)),
    "typ of a JWT": lambda: forged(world().root(), world().sts, header={"typ": "JWT"}),
    "typ of an access token": lambda: forged(world().root(), world().sts, header={"typ": "at+jwt"}),
    "no typ": lambda: forged(world().root(), world().sts, header={"typ": DROP}),
    "changed byte": lambda: world().root()[:-2] + "AA",
    "root of an agent": lambda: forged(world().root(), world().svids[EVIL], claims={"iss": EVIL.uri, "act": DROP}),
    "signed in our name": lambda: forged(world().root(), own_signer(), claims={"iss": EVIL.uri}),
    "leaf by thumbprint": lambda: world().passed_on(
        world().grant(),
        LinkSigner.with_presented_svid(world().certificates[PLANNER], world().private_keys[PLANNER]),
        RETRIEVER,
        depth=0,
    ),
    "same link twice": lambda: f"{world().root()}~{world().root()}",
    "empty link": lambda: f"{world().root()}~",
    "no token": lambda: "neither-link-nor-chain",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_bad_subject_token(bench: Bench, name: str) -> None:
    """A subject token that does not hold is refused as RFC 8693 says, and none of it is repeated."""
    chain = BAD_TOKENS[name]()
    answer = await bench.ask(chain)
    assert (400, "invalid_request") == answer.error
    assert chain not in answer.body["error_description"]
    assert chain not in bench.journal.read_text()


async def test_expiry_has_no_leeway(bench: Bench) -> None:
    """In its last second a chain can be exchanged for a chain of that second; when it has expired it cannot."""
    chain = world().root(lifetime_seconds=60)
    bench.clock[0] = MINTED + 59
    assert 1 == (await bench.ask(chain)).body["expires_in"]
    bench.clock[0] = MINTED + 60
    assert (400, "invalid_request") == (await bench.ask(chain)).error


async def test_matrix_must_grant_the_exchange(bench: Bench) -> None:
    """Only clients that the matrix grants `token.exchange` get anything; a deny rule beats the grant."""
    stranger = workload("stranger")
    for client in (stranger, MAILER):
        answer = await bench.ask("x", client)
        assert (400, "unauthorized_client") == answer.error


@pytest.mark.parametrize("mode", ["required", "optional"])
async def test_cell_is_asked_as_the_sidecar_asks(tmp_path: Path, mode: str) -> None:
    """A cell that demands a chain in the header is no grant to somebody who sends it in the body."""
    with Bench.running(tmp_path, POLICY.replace("delegation: forbidden", f"delegation: {mode}")) as bench:
        answer = await bench.ask(world().root())
        assert (200 if mode == "optional" else 400) == answer.status


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        ((400, "unauthorized_client"), "subject.trust_domain == resource.trust_domain"),
        ((400, "unauthorized_client"), "delegation.sub == 'user:1'"),
        ((503, "temporarily_unavailable"), "subject.path == '/retriever' ? 1 / 0 == 1 : true"),
    ],
)
async def test_deny_rules_with_conditions(tmp_path: Path, error: tuple[int, str], condition: str) -> None:
    """A deny rule with a condition counts here as in decisions: it denies unless the condition is false."""
    rule = f'\n  - {{subject: retriever, resource: {EXCHANGE.uri}, action: token.exchange, when: "{condition}"}}'
    with Bench.running(tmp_path, POLICY.replace("deny:", f"deny:{rule}")) as bench:
        assert error == (await bench.ask(world().root())).error


async def test_quarantine(bench: Bench) -> None:
    """A client in quarantine gets nothing, and neither does anybody for a session in quarantine."""
    with_controls(bench, quarantined={RETRIEVER: NOW + 1})
    assert (400, "unauthorized_client") == (await bench.ask(world().root())).error
    with_controls(bench, quarantined={RETRIEVER: NOW}, quarantined_sessions={SESSION: NOW + 1})
    assert (400, "invalid_request") == (await bench.ask(world().root())).error


async def test_old_controls(bench: Bench) -> None:
    """When nobody knows what was revoked lately, nothing is exchanged."""
    with_controls(bench, fresh_until=NOW - 1)
    assert (503, "temporarily_unavailable") == (await bench.ask(world().root())).error


def revocations_of_an_ancestor(chain: str) -> dict[str, Revocations]:
    """Return what revokes the first or the second link of a chain, each in its own way."""
    root, second = map(claims_of, chain.split("~")[:2])
    return {
        "root id": Revocations(token_ids=frozenset({root["jti"]})),
        "second id": Revocations(token_ids=frozenset({second["jti"]})),
        "session": Revocations(session_ids=frozenset({SESSION})),
        "root key": Revocations(key_ids=frozenset({"sts-1"})),
        "certificate": Revocations(certificates=frozenset({certificate_sha256(world().certificates[RETRIEVER])})),
        "user": Revocations(subjects={USER: MINTED}),
        "first agent": Revocations(workloads={PLANNER: MINTED}),
        "second agent": Revocations(workloads={RETRIEVER: NOW}),
        "issuer of the root": Revocations(workloads={STS: MINTED}),
        "issuer of the root, whose key is no longer believed": Revocations(workloads={STS: 1}),
    }


@pytest.mark.parametrize("name", revocations_of_an_ancestor(world().two_links()))
@pytest.mark.parametrize("mode", ["append", "checkpoint"])
async def test_ancestor_revoked_before(bench: Bench, name: str, mode: str) -> None:
    """A chain of which any link was revoked is not exchanged."""
    chain = world().two_links()
    with_controls(bench, revocations=revocations_of_an_ancestor(chain)[name])
    answer = await bench.ask(chain, CRM, MAILER, mode=mode)
    assert (400, "invalid_request") == answer.error
    assert "revoked" in answer.body["error_description"]


@pytest.mark.parametrize("name", revocations_of_an_ancestor(world().two_links()))
@pytest.mark.parametrize("mode", ["append", "checkpoint"])
async def test_ancestor_revoked_afterwards(bench: Bench, name: str, mode: str) -> None:
    """A link that a checkpoint replaced can be revoked as if it were still there, also by a mark before the exchange."""
    chain = world().two_links()
    issued = (await bench.ask(chain, CRM, MAILER, mode=mode)).chain
    revoked = revocations_of_an_ancestor(chain)[name]
    with pytest.raises(Refusal) as caught:
        verify_chain(issued, Presentation(CRM, MAILER, NOW), bench.trust, revocations=revoked)
    assert Reason.TOKEN_REVOKED is caught.value.reason


async def test_grant_revoked_after_its_checkpoint(bench: Bench) -> None:
    """The grant counts as no hop, and can be revoked by its id and its key all the same."""
    grant = world().grant()
    issued = (await bench.ask(grant, PLANNER, RETRIEVER, mode="checkpoint")).chain
    for revoked in (
        Revocations(token_ids=frozenset({claims_of(grant)["jti"]})),
        Revocations(key_ids=frozenset({"sts-1"})),
        Revocations(workloads={STS: MINTED}),
    ):
        with pytest.raises(Refusal, match="revoked"):
            verify_chain(issued, Presentation(PLANNER, RETRIEVER, NOW), bench.trust, revocations=revoked)


@pytest.mark.parametrize("mode", ["append", "checkpoint"])
async def test_one_time_chain_is_exchanged_once(bench: Bench, mode: str) -> None:
    """A chain that may be used once gives one chain, which again may be used once."""
    chain = world().root(once=True)
    first, second = [await bench.ask(chain, mode=mode) for _ in range(2)]
    assert bench.verified(first.chain).once
    assert (400, "invalid_request") == second.error


async def test_one_time_chain_that_was_shown_is_exchanged(bench: Bench) -> None:
    """Showing a one-time chain and exchanging it are two uses: its recipient gets it after it was shown."""
    chain = world().root(once=True)
    token_id = claims_of(chain)["jti"]
    assert bench.store.consume_once(token_id, token_id, NOW + 900)
    assert 200 == (await bench.ask(chain)).status


async def test_one_time_chain_needs_the_store(bench: Bench, tmp_path: Path) -> None:
    """A store that cannot be used stops one-time chains, and no others."""
    for file in (tmp_path / "control").iterdir():
        file.unlink()
    assert (503, "temporarily_unavailable") == (await bench.ask(world().root(once=True))).error
    assert 200 == (await bench.ask(world().root())).status


async def test_limits_of_the_exchange(tmp_path: Path) -> None:
    """A checkpoint stays inside what the policy lets the exchange start; a link needs no such limit."""
    policy = POLICY.replace(
        '{id: token-exchange, subjects: "user:*"}', '{id: token-exchange, subjects: "user:*", scopes: [search]}'
    )
    with Bench.running(tmp_path, policy) as bench:
        statuses = [(await bench.ask(world().root(), mode=mode)).status for mode in ("checkpoint", "append")]
        assert [503, 200] == statuses


async def test_revoked_key_of_the_exchange_signs_nothing(bench: Bench) -> None:
    """A key of the exchange that was revoked gives no token that verifiers would refuse."""
    key_id = header_of((await bench.ask(world().root())).chain)["kid"]
    with_controls(bench, revocations=Revocations(key_ids=frozenset({key_id})))
    assert (503, "temporarily_unavailable") == (await bench.ask(world().root())).error


async def test_key_that_signs_later(bench: Bench) -> None:
    """Before its first key signs, the exchange issues nothing."""
    bench.clock[0] = NOW - 10_000
    chain = forged(world().root(), world().sts, claims={"iat": NOW - 10_020, "exp": NOW - 9_000})
    assert (503, "temporarily_unavailable") == (await bench.ask(chain)).error


async def test_records(bench: Bench) -> None:
    """Each exchange leaves one line, issued or refused, with ids and no token."""
    chain = world().root()
    issued = (await bench.ask(chain)).chain
    await bench.ask(chain, EVIL)
    await bench.post(b"", xfcc=[])
    first, second, third = bench.records
    assert {
        "exchange.outcome": "issued",
        "exchange.mode": "append",
        "exchange.audience": CRM.uri,
        "agent.caller": RETRIEVER.uri,
        "agent.target": EXCHANGE.uri,
        "ext_authz.on_behalf_of": USER,
        "ext_authz.session_id": SESSION,
        "ext_authz.token_ids": [claims_of(chain)["jti"]],
        "exchange.issued_token_id": claims_of(issued)["jti"],
    }.items() <= first.items()
    assert ("refused", "invalid_request", EVIL.uri) == (
        second["exchange.outcome"],
        second["exchange.error"],
        second["agent.caller"],
    )
    assert ("refused", "invalid_client") == (third["exchange.outcome"], third["exchange.error"])
    for link in (*chain.split("~"), *issued.split("~")):
        assert link not in bench.journal.read_text()


async def test_no_record_no_token(bench: Bench) -> None:
    """A token that cannot be recorded is not issued."""
    journal = bench.exchange._journal
    journal._descriptor, kept = os.open("/dev/full", os.O_WRONLY), journal._descriptor
    answer = await bench.ask(world().root())
    os.close(journal._descriptor)
    journal._descriptor = kept
    assert (503, "temporarily_unavailable") == answer.error


async def test_fault_inside(bench: Bench) -> None:
    """Whatever fails inside is a 500 without a word of it, and is recorded."""
    nothing: Any = None
    bench.exchange.snapshot = replace(bench.exchange.snapshot, keys=nothing)
    answer = await bench.ask(world().root())
    assert (500, "server_error") == answer.error
    assert "error" == bench.records[0]["exchange.outcome"]


async def test_closed_window(tmp_path: Path) -> None:
    """While calls are closed for everybody, nothing is exchanged."""
    closed = '---\nkind: TimeWindows\nwindows: {night: {from: "22:00", to: "23:00", timezone: UTC}}\nclosed: [night]\n'
    with Bench.running(tmp_path, POLICY + closed) as bench:
        assert (400, "unauthorized_client") == (await bench.ask(world().root())).error
        bench.clock[0] = NOW + 3600
        assert (400, "invalid_request") == (await bench.ask(world().root())).error  # expired meanwhile


async def test_keys_of_another_process_count_as_long_as_they_were_heard_of(bench: Bench) -> None:
    """What another process of the exchange signed is remembered until its address was silent for too long."""
    other = generate_private_key("Ed25519")
    signer = LinkSigner.with_key_id(EXCHANGE, "other-process", other)
    received = mint_root(
        signer, Root(on_behalf_of=USER, audience=RETRIEVER, scopes=SCOPES, allowed_targets=TARGETS), NOW
    )
    jwks = json.dumps({"keys": [public_jwk(other, "other-process")]})
    snapshot = bench.exchange.snapshot
    delegation = snapshot.policy.delegation
    assert delegation is not None
    verifier = delegation.verifier.with_keys({EXCHANGE: KeySet(parse_jwks(jwks), NOW + 60.0, "fetched")})
    policy = replace(snapshot.policy, delegation=replace(delegation, verifier=verifier))
    bench.exchange.snapshot = replace(snapshot, policy=policy)
    bench.clock[0] = NOW + 60.0
    assert 200 == (await bench.ask(received)).status
    bench.clock[0] = NOW + 61.0
    assert (400, "invalid_request") == (await bench.ask(received)).error
