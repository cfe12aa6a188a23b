"""Access tokens from the bytes of a check to answer and record: who is asked for one, what it changes, what never leaves."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.access_tokens import (
    CLIENT,
    IDP_SESSION,
    ISSUED,
    ISSUER,
    PARTNER,
    SHARED_CLIENT,
    TOKEN_ID,
    USER,
    Providers,
    bearing,
    providers,
    token_policy,
    token_snapshot,
)
from support.authorizers import answer, new_authorizer, reason_of
from support.check_requests import QUESTION, Question
from support.delegations import CRM, DROP, EVIL, MAILER, NOW, PLANNER, RETRIEVER, SESSION, world

from ext_authz.audit.jsonlines import to_line
from ext_authz.decision.controls import Controls
from ext_authz.decision.decide import Snapshot
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import NO_KEYS
from ext_authz.tokens.revocation import Revocations

FORGED_HEADERS = [("x-authz-on-behalf-of", "user:root"), ("x-authz-scopes", "all"), ("x-authz-actors", "nobody")]
CHALLENGE = 'Bearer realm="ext_authz"'


def decided(question: Question, snapshot: Snapshot | None = None) -> tuple[CheckResponse, Mapping[str, Any]]:
    """Return answer and record of one call under the policy with access tokens."""
    authorizer, recorder = new_authorizer(snapshot or token_snapshot())
    response = answer(authorizer, question.serialized())
    [record] = recorder.records
    assert reason_of(response) == record.reason
    return response, record.attributes()


def outcome(question: Question, snapshot: Snapshot | None = None) -> str:
    """Return the reason code of one call."""
    return reason_of(decided(question, snapshot)[0])


def headers_of(options: Any) -> dict[str, str]:
    """Return headers that an answer sets."""
    return {option.header.key: option.header.value for option in options}


def chain_and_token(chain: str, token: str | None) -> Question:
    """Return a call of the retriever at the crm, which needs both."""
    return bearing(token, RETRIEVER, CRM, chain)


def shared(p: Providers, **claims: Any) -> str:
    """Return a token that the retriever may show as well."""
    return p.idp.token(client_id=SHARED_CLIENT, **claims)


# Who calls whom with what, and what comes of it. The matrix is in tests/support/access_tokens.py.
CASES: Mapping[str, tuple[str, Callable[[Providers], Question]]] = {
    "required, a good one": ("allowed", lambda p: bearing(p.idp.token())),
    "required, none": ("oidc_missing", lambda _: bearing(None)),
    "required, a bad one": ("oidc_malformed", lambda _: bearing("a.b.c")),
    "required, one of the partner": ("allowed", lambda p: bearing(p.partner_token())),
    "required, shown by another workload": ("oidc_binding", lambda p: bearing(p.idp.token(), EVIL)),
    "required, no scope for it": ("oidc_scope", lambda p: bearing(p.idp.token(scope="openid"))),
    "required, scope of another action": ("oidc_scope", lambda p: bearing(p.idp.token(), path="/v1/chat")),
    "required, scope of this action": ("allowed", lambda p: bearing(p.idp.token(scope="llm:read"), path="/v1/chat")),
    "optional, none": ("allowed", lambda _: bearing(None, PLANNER, CRM)),
    "optional, a good one": ("allowed", lambda p: bearing(p.idp.token(), PLANNER, CRM)),
    "optional, an expired one": ("oidc_expired", lambda p: bearing(p.idp.token(exp=NOW), PLANNER, CRM)),
    "optional, another scheme": (
        "oidc_malformed", lambda _: bearing(None, PLANNER, CRM, headers=[("authorization", "Basic Zm9v")]),
    ),
    "optional, an empty header": (
        "oidc_malformed", lambda _: bearing(None, PLANNER, CRM, headers=[("authorization", "")]),
    ),
    "optional, no scope of the cell": ("oidc_scope", lambda p: bearing(p.idp.token(scope="kb:search"), PLANNER, CRM)),
    "the cell's word beats the action's": ("allowed", lambda _: bearing(None, PLANNER, CRM, path="/v1/chat")),
    "forbidden, none": ("allowed", lambda _: bearing(None, PLANNER, MAILER)),
    "forbidden, a good one": ("token_forbidden", lambda p: bearing(p.idp.token(), PLANNER, MAILER)),
    "forbidden, anything": (
        "token_forbidden", lambda _: bearing(None, PLANNER, MAILER, headers=[("authorization", "Basic Zm9v")]),
    ),
    "not asked, none": ("allowed", lambda _: bearing(None, RETRIEVER, MAILER)),
    "not asked, anything": (
        "allowed", lambda _: bearing(None, RETRIEVER, MAILER, headers=[("authorization", "Basic Zm9v")]),
    ),
    "asked by the action, none": ("oidc_missing", lambda _: bearing(None, RETRIEVER, MAILER, path="/v1/chat")),
    "asked by the action, a good one": (
        "allowed", lambda p: bearing(shared(p, scope="llm:read"), RETRIEVER, MAILER, path="/v1/chat"),
    ),
    "one of two cells asks, none": ("allowed", lambda _: bearing(None, CRM, MAILER)),
    "one of two cells asks, one without its scope": ("allowed", lambda p: bearing(p.partner_token(scp=""), CRM, MAILER)),
    "one of two cells asks, a bad one": ("oidc_malformed", lambda _: bearing("a.b.c", CRM, MAILER)),
    "two headers": (
        "header_ambiguous",
        lambda p: bearing(p.idp.token(), headers=[("authorization", f"Bearer {p.idp.token()}")] * 2),
    ),
    "two headers in one map": (
        "oidc_malformed",
        lambda p: bearing(None, raw=False, headers=[("authorization", f"Bearer {p.idp.token()}")] * 2),
    ),
    "not granted at all": ("not_in_matrix", lambda _: bearing("a.b.c", RETRIEVER, PLANNER)),
    "both, for the same": ("allowed", lambda p: chain_and_token(world().two_links(), shared(p))),
    "both needed, no token": ("oidc_missing", lambda _: chain_and_token(world().two_links(), None)),
    "both needed, no chain": ("token_missing", lambda p: bearing(shared(p), RETRIEVER, CRM)),
    "both, for two people": ("oidc_subject", lambda p: chain_and_token(world().two_links(), shared(p, sub="other"))),
    "both, the same sub of another issuer": (
        "oidc_subject", lambda p: chain_and_token(world().two_links(), p.partner_token()),
    ),
    "both, scope in the chain alone": ("oidc_scope", lambda p: chain_and_token(world().two_links(), shared(p, scope="x"))),
    "both, scope in the token alone": (
        "token_scope", lambda p: chain_and_token(world().two_links(scopes=["tickets:read"]), shared(p)),
    ),
    "both, for two people, where one of two cells asks": (
        "oidc_subject",
        lambda p: bearing(p.partner_token(), CRM, MAILER, world().passed_on(world().two_links(), CRM, MAILER)),
    ),
    "a chain that does not hold beside a good token": (
        "token_malformed", lambda p: chain_and_token("a.b.c", shared(p)),
    ),
    "an access token as a chain": ("token_malformed", lambda p: bearing(None, chain=p.idp.token())),
    "a chain as an access token": ("oidc_issuer", lambda _: bearing(world().root())),
}  # fmt: skip


@pytest.mark.parametrize(("expected", "ask"), CASES.values(), ids=CASES)
def test_case(expected: str, ask: Callable[[Providers], Question]) -> None:
    """Each cell is a grant of its own; a token that any of them asks for is verified, and a bad one denies."""
    assert expected == outcome(ask(providers()))


def test_allow_says_for_whom() -> None:
    """The agent hears for whom it acts and with which scopes; nobody acted before, and no forged header says so."""
    question = bearing(providers().idp.token())
    response, attributes = decided(question.but(headers=[*question.headers, *FORGED_HEADERS]))
    headers = headers_of(response.ok_response.headers)
    assert (USER, "kb:search openid tickets:read") == (headers["x-authz-on-behalf-of"], headers["x-authz-scopes"])
    assert "x-authz-actors" not in headers
    assert ["x-authz-actors"] == list(response.ok_response.headers_to_remove)
    assert {
        "ext_authz.on_behalf_of": USER,
        "ext_authz.scopes": ("kb:search", "openid", "tickets:read"),
        "ext_authz.oidc_issuer": ISSUER,
        "ext_authz.oidc_client": CLIENT,
        "ext_authz.oidc_token_id": TOKEN_ID,
        "ext_authz.oidc_session_id": IDP_SESSION,
    }.items() <= attributes.items()
    assert token_policy().digest == attributes["ext_authz.policy_digest"]
    assert "ext_authz.token_ids" not in attributes


def test_allow_with_a_chain_too() -> None:
    """With both, the actors are the chain's and the scopes those that both have."""
    chain = world().two_links()
    response, attributes = decided(chain_and_token(chain, shared(providers(), scope="kb:search tickets:read admin")))
    headers = headers_of(response.ok_response.headers)
    assert {
        "x-authz-on-behalf-of": USER,
        "x-authz-scopes": "kb:search tickets:read",
        "x-authz-actors": f"{PLANNER} {RETRIEVER}",
    }.items() <= headers.items()
    assert [] == list(response.ok_response.headers_to_remove)
    assert ("kb:search", "tickets:read") == attributes["ext_authz.scopes"]
    assert (SESSION, IDP_SESSION) == (attributes["ext_authz.session_id"], attributes["ext_authz.oidc_session_id"])


@pytest.mark.parametrize(("caller", "target"), [(CRM, MAILER), (RETRIEVER, MAILER)])
def test_grant_that_asks_for_none_gets_nothing_of_it(caller: Any, target: Any) -> None:
    """A token that the satisfied grant does not ask for is no word on whose behalf the caller acts."""
    response, attributes = decided(bearing(providers().partner_token(scp=""), caller, target))
    assert "allowed" == reason_of(response)
    assert ["x-authz-on-behalf-of", "x-authz-scopes", "x-authz-actors"] == list(response.ok_response.headers_to_remove)
    assert not [name for name in attributes if "oidc" in name or name == "ext_authz.on_behalf_of"]


DENIALS: Mapping[str, tuple[bool, str | None, Callable[[Providers], Question]]] = {
    "oidc_missing": (False, CHALLENGE, lambda _: bearing(None)),
    "oidc_signature": (True, "invalid_token", lambda p: bearing(p.idp.token(sign=lambda _: bytes(64)))),
    "oidc_binding": (True, "invalid_token", lambda p: bearing(p.idp.token(), EVIL)),
    "oidc_lifetime": (False, "invalid_token", lambda p: bearing(p.idp.token(exp=ISSUED + 901))),
    "oidc_subject": (False, None, lambda p: bearing(p.idp.token(act={"sub": EVIL.uri}))),
    "token_revoked": (False, "SPIFFE", lambda p: bearing(p.idp.token())),
}


@pytest.mark.parametrize("reason", DENIALS)
def test_denial(reason: str) -> None:
    """A denial challenges as RFC 6750 says; what points to theft or tampering is an alert; nothing is believed."""
    is_tampering, challenge, ask = DENIALS[reason]
    controls = Controls(Revocations(token_ids=frozenset({TOKEN_ID} if reason == "token_revoked" else ())))
    response, attributes = decided(ask(providers()), token_snapshot(controls))
    headers = headers_of(response.denied_response.headers)
    assert reason == reason_of(response)
    assert (challenge is None) is ("www-authenticate" not in headers)
    assert challenge is None or challenge in headers["www-authenticate"]
    assert ("tampered_token" if is_tampering else None) == attributes.get("security.alert_type")
    assert "ext_authz.on_behalf_of" not in attributes
    assert "ext_authz.oidc_issuer" not in attributes


def test_denial_for_want_of_a_scope() -> None:
    """A token that holds and does not suffice is in the record, and the caller hears what was needed."""
    response, attributes = decided(bearing(providers().idp.token(scope="kb:search"), PLANNER, CRM))
    assert 403 == response.denied_response.status.code
    challenge = headers_of(response.denied_response.headers)["www-authenticate"]
    assert f'{CHALLENGE}, error="insufficient_scope", scope="kb:search tickets:read"' == challenge
    assert (USER, ("kb:search",), ISSUER) == (
        attributes["ext_authz.on_behalf_of"],
        attributes["ext_authz.scopes"],
        attributes["ext_authz.oidc_issuer"],
    )


def test_controls() -> None:
    """Revocation, quarantine of its session, and a list that is too old, hold for access tokens, where one came."""
    question = bearing(providers().idp.token())
    controls = {
        "token_revoked": Controls(Revocations(subjects={USER: ISSUED})),
        "revoked": Controls(quarantined_sessions={IDP_SESSION: NOW + 1}),
        "keys_unavailable": Controls(fresh_until=NOW - 1),
        "allowed": Controls(Revocations(subjects={USER: ISSUED - 1}), quarantined_sessions={IDP_SESSION: NOW}),
    }
    assert list(controls) == [outcome(question, token_snapshot(each)) for each in controls.values()]
    stale = token_snapshot(controls["keys_unavailable"])
    assert ["oidc_missing", "allowed"] == [outcome(bearing(None), stale), outcome(bearing(None, PLANNER, CRM), stale)]


def test_outage_of_an_issuer() -> None:
    """An issuer that cannot be reached denies what needs its keys with 503, and nothing else."""
    snapshot = token_snapshot()
    providing = snapshot.policy.providers
    assert providing is not None
    silent = replace(providing.trust.providers[ISSUER], keys=NO_KEYS)
    trust = replace(providing.trust, providers={**providing.trust.providers, ISSUER: silent})
    dark = replace(snapshot, policy=replace(snapshot.policy, providers=replace(providing, trust=trust)))
    p = providers()
    expected = {
        "keys_unavailable": bearing(p.idp.token(), PLANNER, CRM),
        "allowed": bearing(None, PLANNER, CRM),
        "oidc_missing": bearing(None),
        "token_forbidden": bearing(p.idp.token(), PLANNER, MAILER),
    }
    assert list(expected) == [outcome(question, dark) for question in expected.values()]
    assert ["allowed", "allowed"] == [
        outcome(question, dark) for question in (bearing(p.partner_token()), bearing(p.idp.token(), RETRIEVER, MAILER))
    ]


def test_policy_without_providers_never_verifies() -> None:
    """A grant that asks, in a policy that lost its providers, is refused: a token is never taken for none."""
    bare = replace(token_snapshot(), policy=replace(token_policy(), providers=None))
    assert "keys_unavailable" == outcome(bearing(providers().idp.token(), PLANNER, CRM), bare)


def test_default_policy_does_not_look() -> None:
    """Where nobody asks for access tokens, `authorization` is the agent's own."""
    authorizer, _ = new_authorizer()
    question = QUESTION.but(headers=[("authorization", "Basic cGxhbm5lcjpzZWNyZXQ=")])
    assert "allowed" == reason_of(answer(authorizer, question.serialized()))


@pytest.mark.parametrize("value", [None, True, 1, "", (), {}, USER])
def test_verifier_that_answers_nonsense_allows_nothing(value: object) -> None:
    """What is no verified access token is never taken for none."""
    broken: Any = SimpleNamespace(verify=lambda *_: value)
    snapshot = replace(token_snapshot(), policy=replace(token_policy(), providers=broken))
    authorizer, recorder = new_authorizer(snapshot)
    question = bearing(providers().idp.token(), PLANNER, CRM)
    assert "internal_error" == reason_of(answer(authorizer, question.serialized()))
    assert recorder.records[0].fault


# Stands in every part of a token that is nobody else's business.
CANARY = "c4n4ryc4n4ryc4n4ry"


@pytest.mark.parametrize(
    "question_of",
    [
        bearing,
        lambda token: bearing(token, EVIL),
        lambda token: bearing(token, path="/v1/chat"),
        lambda token: bearing(token, PLANNER, MAILER),
        lambda token: bearing(f"{token[:-8]}AAAAAAAA"),
        lambda _: bearing(f"{CANARY}.{CANARY}.{CANARY}"),
        lambda _: bearing(providers().idp.token(iss=f"https://{CANARY}.test")),
        lambda _: bearing(providers().idp.token(header={"kid": CANARY})),
        lambda _: bearing(providers().idp.token(aud=CANARY, scope=CANARY)),
        lambda token: bearing(token, path="//"),
    ],
    ids=["allowed", "stolen", "scope", "forbidden", "signature", "malformed", "issuer", "key", "audience", "path"],
)
def test_nothing_else_of_a_token_leaves(question_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No token, no part of one, and no claim that is not recorded by name is in answer, record, line or log."""
    token = providers().idp.token(email=f"{CANARY}@example.com", roles=[CANARY])
    authorizer, recorder = new_authorizer(token_snapshot())
    with caplog.at_level(logging.DEBUG):
        response = answer(authorizer, question_of(token).serialized())
    [record] = recorder.records
    texts = (repr(record), repr(record.attributes()), to_line(record).decode(), str(response), caplog.text)
    for text in texts:
        assert CANARY not in text
        for segment in token.split("."):
            assert segment not in text


def test_claims_that_are_recorded_break_no_line() -> None:
    """What a record repeats of a token is printable ASCII, and bounded."""
    odd = {"jti": "'\"\\<>{}", "client_id": DROP, "azp": "a b", "sid": "~" * 255}
    _, attributes = decided(bearing(providers().partner_token(**odd)))
    assert ("'\"\\<>{}", "a b", "~" * 255, PARTNER) == (
        attributes["ext_authz.oidc_token_id"],
        attributes["ext_authz.oidc_client"],
        attributes["ext_authz.oidc_session_id"],
        attributes["ext_authz.oidc_issuer"],
    )


def test_bound_to_the_certificate_of_the_connection() -> None:
    """RFC 8705: a bound token counts over the connection whose certificate it names, and over no other."""
    p = providers()
    question = bearing(None)
    sha256 = bytes.fromhex(str(question.xfcc).partition("Hash=")[2].partition(";")[0])
    bound = p.idp.token(cnf={"x5t#S256": encode_base64url(sha256)})
    other = p.idp.token(cnf={"x5t#S256": encode_base64url(bytes(32))})
    assert ["allowed", "oidc_binding"] == [outcome(bearing(each)) for each in (bound, other)]
    assert json.loads(decided(bearing(other))[0].denied_response.body)["reason"] == "oidc_binding"
