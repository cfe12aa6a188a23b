"""A first chain for a user's access token: for the exchange, issued to this client, and never more than it asks for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.access_tokens import IDP_SESSION, ISSUED, SHARED_CLIENT, TOKEN_ID, USER, providers
from support.delegations import CRM, DROP, EVIL, MAILER, NOW, PLANNER, RETRIEVER, claims_of, world
from support.exchanges import EXCHANGE, POLICY, WITH_PROVIDERS, Answer, Bench

from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Presentation, Receipt, verify_chain, verify_received_chain
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import KeySet
from ext_authz.tokens.revocation import Revocations

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
JWT = "urn:ietf:params:oauth:token-type:jwt"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench.running(tmp_path, WITH_PROVIDERS) as bench:
        yield bench


def token(**claims: Any) -> str:
    """Return a token of the planner's user interface for the exchange."""
    return providers().idp.token(**{"aud": EXCHANGE.uri} | claims)


async def ask(
    bench: Bench,
    shown: str | None = None,
    client: SpiffeId = PLANNER,
    audience: SpiffeId = RETRIEVER,
    **parameters: Any,
) -> Answer:
    """Ask for a first chain."""
    usual = {"subject_token_type": ACCESS_TOKEN, "scope": "kb:search"}
    return await bench.ask(shown or token(), client, audience, **usual | parameters)


@pytest.mark.parametrize("kind", [ACCESS_TOKEN, JWT])
async def test_first_chain(bench: Bench, kind: str) -> None:
    """The client gets a link in act form for the user of the token, which ends with it and is as old."""
    answer = await ask(bench, subject_token_type=kind)
    granted = bench.verified(answer.chain, PLANNER, RETRIEVER)
    assert (USER, IDP_SESSION, frozenset({"kb:search"}), frozenset({RETRIEVER}), (PLANNER,), EXCHANGE) == (
        granted.on_behalf_of,
        granted.session_id,
        granted.scopes,
        granted.allowed_targets,
        granted.actors,
        granted.root_issuer,
    )
    link = claims_of(answer.chain)
    assert (ISSUED, ISSUED + 600, 600 - 60) == (link["iat"], link["exp"], answer.body["expires_in"])
    (record,) = bench.records
    assert ("issued", "root", USER) == (
        record["exchange.outcome"],
        record["exchange.mode"],
        record["ext_authz.on_behalf_of"],
    )


async def test_grant_for_the_client(bench: Bench) -> None:
    """A client that is itself the audience gets a grant, which it signs on, or exchanges again for each call."""
    answer = await ask(bench, audience=PLANNER, resource=[PLANNER.uri, RETRIEVER.uri, CRM.uri])
    received = verify_received_chain(answer.chain, Receipt(PLANNER, NOW), bench.trust)
    assert "act" not in claims_of(answer.chain)
    assert 0 == received.delegation.hops
    signed = world().passed_on(answer.chain, PLANNER, RETRIEVER, lifetime_seconds=60)
    assert 1 == bench.verified(signed, PLANNER, RETRIEVER).hops
    exchanged = await bench.ask(answer.chain, PLANNER, RETRIEVER)
    assert (PLANNER,) == bench.verified(exchanged.chain, PLANNER, RETRIEVER).actors


async def test_less(bench: Bench) -> None:
    """Scopes, targets, hops, time and use are as asked."""
    answer = await ask(
        bench, scope="kb:search tickets:read", resource=[RETRIEVER.uri, CRM.uri], depth="1", lifetime="30", once="true"
    )
    granted = bench.verified(answer.chain, PLANNER, RETRIEVER)
    assert (frozenset({"kb:search", "tickets:read"}), frozenset({RETRIEVER, CRM}), 1, NOW + 30, True) == (
        granted.scopes,
        granted.allowed_targets,
        granted.depth,
        granted.expires_at,
        granted.once,
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "for the agents": ({"aud": "agents-api"}, "invalid_request"),
    "for another exchange": ({"aud": f"{EXCHANGE}-2"}, "invalid_request"),
    "issued to another client": ({"client_id": "somebody-else"}, "invalid_request"),
    "issued to nobody": ({"client_id": DROP}, "invalid_request"),
    "two clients": ({"azp": "planner-ui-2"}, "invalid_request"),
    "expired": ({"exp": NOW}, "invalid_request"),
    "lives too long": ({"exp": ISSUED + 901}, "invalid_request"),
    "of the future": ({"iat": NOW + 31, "exp": NOW + 60}, "invalid_request"),
    "of another issuer": ({"iss": "https://evil.test"}, "invalid_request"),
    "bound to a key": ({"cnf": {"jkt": "x" * 43}}, "invalid_request"),
    "bound to another certificate": ({"cnf": {"x5t#S256": encode_base64url(b"x" * 32)}}, "invalid_request"),
    "somebody else acts": ({"act": {"sub": EVIL.uri}}, "invalid_request"),
    "ID token": ({"at_hash": "x"}, "invalid_request"),
    "session that no chain carries": ({"sid": "short"}, "invalid_request"),
    "without the scope": ({"scope": "openid"}, "invalid_scope"),
    "without any scope": ({"scope": DROP}, "invalid_scope"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_token(bench: Bench, name: str) -> None:
    """A token that is not this user's, for this client, for the exchange, starts nothing."""
    claims, code = REFUSED[name]
    shown = token(**claims)
    answer = await ask(bench, shown)
    assert (400, code) == answer.error
    assert shown not in bench.journal.read_text() + answer.body["error_description"]


async def test_bound_token(bench: Bench) -> None:
    """A token that is bound to the client's certificate is taken from that client."""
    answer = await ask(bench, token(cnf={"x5t#S256": encode_base64url(bytes(32))}))
    assert 200 == answer.status


async def test_other_agent_with_the_users_token(bench: Bench) -> None:
    """An agent that received a user's token cannot mint with it; one that the mapping names can."""
    assert (400, "invalid_request") == (await ask(bench, client=CRM)).error
    assert (400, "invalid_request") == (await ask(bench, client=RETRIEVER, audience=CRM)).error
    shared = token(client_id=SHARED_CLIENT)
    assert [200, 400] == [(await ask(bench, shown, RETRIEVER, CRM)).status for shown in (shared, token())]


async def test_provider_without_clients(bench: Bench) -> None:
    """A provider that does not say whose clients are which workloads starts nothing, even where its audience fits."""
    shown = providers().partner_token(aud=EXCHANGE.uri, scp=DROP, scope="kb:search")
    answer = await ask(bench, shown)
    assert (400, "invalid_request") == answer.error
    assert "issuer" in answer.body["error_description"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"scope": None}, "invalid_scope"),
        ({"scope": "kb:search admin"}, "invalid_scope"),
        ({"scope": "openid"}, "invalid_scope"),
        ({"scope": "profile offline_access"}, "invalid_scope"),
        ({"resource": [CRM.uri]}, "invalid_target"),
        ({"mode": "append"}, "invalid_request"),
        ({"subject_token_type": "urn:ext-authz:token-type:delegation-chain"}, "invalid_request"),
    ],
)
async def test_more_than_the_token_gives(bench: Bench, parameters: dict[str, Any], code: str) -> None:
    """Scopes are asked for by name, in our words, and lie within the token's."""
    assert (400, code) == (await ask(bench, **parameters)).error


async def test_chain_as_access_token(bench: Bench) -> None:
    """A delegation chain is no access token, and an access token is no chain."""
    assert (400, "invalid_request") == (await ask(bench, world().root(), RETRIEVER, CRM)).error


async def test_limits_of_the_exchange(tmp_path: Path) -> None:
    """What the policy lets the exchange start limits every user's token."""
    own = '{id: token-exchange, subjects: "user:*"}'
    limited = WITH_PROVIDERS.replace(own, '{id: token-exchange, subjects: "user:*", scopes: ["tickets:read"]}')
    with Bench.running(tmp_path, limited) as bench:
        assert (400, "invalid_scope") == (await ask(bench)).error
        assert 200 == (await ask(bench, scope="tickets:read")).status
    other = WITH_PROVIDERS.replace(own, '{id: token-exchange, subjects: "group:*"}')
    with Bench.running(tmp_path, other) as bench:
        assert (400, "invalid_request") == (await ask(bench)).error


async def test_policy_without_providers(tmp_path: Path) -> None:
    """Without an IdentityProviders document there is no such subject token."""
    with Bench.running(tmp_path, POLICY) as bench:
        assert (400, "invalid_request") == (await ask(bench)).error


def revocations() -> dict[str, Revocations]:
    """Return what revokes the token, each in its own way."""
    return {
        "id": Revocations(token_ids=frozenset({TOKEN_ID})),
        "session": Revocations(session_ids=frozenset({IDP_SESSION})),
        "key": Revocations(key_ids=frozenset({"idp-1"})),
        "user": Revocations(subjects={USER: ISSUED}),
        "client": Revocations(workloads={PLANNER: ISSUED}),
    }


@pytest.mark.parametrize("name", revocations())
async def test_revoked_token(bench: Bench, name: str) -> None:
    """A token that was revoked starts nothing."""
    controls = replace(bench.exchange.snapshot.controls, revocations=revocations()[name])
    bench.exchange.snapshot = replace(bench.exchange.snapshot, controls=controls)
    assert (400, "invalid_request") == (await ask(bench)).error


@pytest.mark.parametrize("name", ["session", "user", "client"])
async def test_revoked_afterwards(bench: Bench, name: str) -> None:
    """What was revoked by a mark before the exchange stays revoked, however late the exchange learns of it."""
    issued = (await ask(bench)).chain
    with pytest.raises(Refusal, match="revoked"):
        verify_chain(issued, Presentation(PLANNER, RETRIEVER, NOW), bench.trust, revocations=revocations()[name])


async def test_session_in_quarantine(bench: Bench) -> None:
    """A session in quarantine starts nothing."""
    controls = replace(bench.exchange.snapshot.controls, quarantined_sessions={IDP_SESSION: NOW + 1})
    bench.exchange.snapshot = replace(bench.exchange.snapshot, controls=controls)
    assert (400, "invalid_request") == (await ask(bench)).error


async def test_keys_that_fell_silent(bench: Bench) -> None:
    """While the provider's keys cannot be fetched, nothing is decided about its tokens."""
    policy = bench.policy
    assert policy.providers is not None
    found = dict(policy.providers.trust.providers)
    name = next(iter(found))
    found[name] = replace(found[name], keys=KeySet(found[name].keys.keys, usable_until=NOW - 1))
    stale = replace(policy.providers, trust=replace(policy.providers.trust, providers=found))
    bench.exchange.snapshot = replace(bench.exchange.snapshot, policy=replace(policy, providers=stale))
    assert (503, "temporarily_unavailable") == (await ask(bench)).error


async def test_unknown_key_is_asked_for(bench: Bench) -> None:
    """A key that is not known may be new: its address is asked again."""
    asked: list[str] = []
    bench.exchange._unknown_key = lambda: asked.append("again")
    await ask(bench, token(header={"kid": "idp-2"}))
    await bench.ask(world().passed_on(world().root(), RETRIEVER, CRM, actor=None), CRM, MAILER)
    assert ["again"] == asked
