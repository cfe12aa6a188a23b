"""Delegation from the bytes of a check to answer and record: what a verified chain changes, and what never leaves of it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from support.authorizers import answer, new_authorizer, reason_of
from support.check_requests import QUESTION, Question
from support.delegated_policies import calling, delegated_policy, delegated_snapshot
from support.delegations import (
    CRM,
    EVIL,
    MAILER,
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
    world,
)

from ext_authz.audit.jsonlines import to_line
from ext_authz.errors import Reason
from ext_authz.identity.identify import Identifier
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.tokens.jws import encode_base64url

FORGED_HEADERS = [("x-authz-on-behalf-of", "user:root"), ("x-authz-scopes", "all"), ("x-authz-actors", "nobody")]


def decided(question: Question) -> tuple[CheckResponse, Mapping[str, Any]]:
    """Return answer and record of one call under the policy with delegation."""
    authorizer, recorder = new_authorizer(delegated_snapshot())
    response = answer(authorizer, question.serialized())
    [record] = recorder.records
    return response, record.attributes()


def headers_of(response: CheckResponse) -> dict[str, str]:
    """Return the headers that an allow sets."""
    return {option.header.key: option.header.value for option in response.ok_response.headers}


def test_allow_says_for_whom() -> None:
    """The agent hears for whom it acts, with which scopes and who acted before it; no forged copy of that survives."""
    chain = world().two_links()
    question = calling(chain, RETRIEVER, CRM)
    response, _ = decided(question.but(headers=[*question.headers, *FORGED_HEADERS]))
    headers = headers_of(response)
    assert {
        "x-authz-on-behalf-of": USER,
        "x-authz-scopes": "kb:search tickets:read",
        "x-authz-actors": f"{PLANNER} {RETRIEVER}",
        "x-authz-subject": RETRIEVER.uri,
        "x-authz-action": "search",
    } == {name: value for name, value in headers.items() if name != "x-authz-decision-id"}
    assert [] == list(response.ok_response.headers_to_remove)


def test_allow_without_a_chain_removes_the_headers() -> None:
    """Who acts on its own authority acts for nobody, whatever the caller writes."""
    question = calling(None, PLANNER, CRM)
    response, attributes = decided(question.but(headers=FORGED_HEADERS))
    assert ["x-authz-on-behalf-of", "x-authz-scopes", "x-authz-actors"] == list(response.ok_response.headers_to_remove)
    assert headers_of(response).keys().isdisjoint(name for name, _ in FORGED_HEADERS)
    assert "ext_authz.on_behalf_of" not in attributes


def test_record_says_for_whom() -> None:
    """The record names user, session, scopes, actors, root and links of the chain, and the grant that it satisfied."""
    chain = world().two_links()
    _, attributes = decided(calling(chain, RETRIEVER, CRM))
    assert {
        "ext_authz.on_behalf_of": USER,
        "ext_authz.session_id": SESSION,
        "ext_authz.scopes": SCOPES[1:],
        "ext_authz.actors": (PLANNER.uri, RETRIEVER.uri),
        "ext_authz.hops": 2,
        "ext_authz.root_issuer": STS.uri,
        "ext_authz.token_ids": tuple(claims_of(link)["jti"] for link in chain.split("~")),
        "ext_authz.rule_text": "retriever -> crm: search",
        "policy.decision": "allow",
    }.items() <= attributes.items()
    assert "security.alert_type" not in attributes
    assert delegated_policy().digest == attributes["ext_authz.policy_digest"]


def _cases() -> dict[str, tuple[Reason, bool, Question]]:
    w = world()
    widened = forged(w.two_links(), w.svids[RETRIEVER], claims={"scope": [*SCOPES[1:], "admin"]})
    header, _, signature = w.root().split(".")
    claims = {**claims_of(w.root()), "sub": "user:somebody-else"}
    changed = f"{header}.{encode_base64url(json.dumps(claims).encode())}.{signature}"
    return {
        "another target": (Reason.TOKEN_AUDIENCE, False, calling(w.root(), PLANNER, CRM)),
        "another presenter": (Reason.TOKEN_PRESENTER, True, calling(w.root(), EVIL)),
        "passed on unchanged": (
            Reason.TOKEN_PRESENTER, True, calling(w.root(allowed_targets=TARGETS, audience=CRM), RETRIEVER, CRM),
        ),
        "expired": (Reason.TOKEN_EXPIRED, False, calling(forged(w.root(), w.sts, claims={"exp": NOW}))),
        "wrong scope": (Reason.TOKEN_SCOPE, False, calling(w.root(), path="/v1/secrets")),
        "scope of the cell dropped": (
            Reason.TOKEN_SCOPE, False, calling(w.two_links(scopes=["kb:search"]), RETRIEVER, CRM),
        ),
        "widened": (Reason.TOKEN_CHAIN, True, calling(widened, RETRIEVER, CRM)),
        "tampered": (Reason.TOKEN_SIGNATURE, True, calling(changed)),
        "too many hops": (
            Reason.HOPS_EXCEEDED,
            False,
            calling(w.passed_on(w.passed_on(w.root(), RETRIEVER, CRM), CRM, MAILER), CRM, MAILER),
        ),
        "no chain": (Reason.TOKEN_MISSING, False, calling(None)),
        "not granted": (Reason.NOT_IN_MATRIX, False, calling(w.root(), RETRIEVER, MAILER)),
    }  # fmt: skip


CASES = (
    *("another target", "another presenter", "passed on unchanged", "expired", "wrong scope"),
    *("scope of the cell dropped", "widened", "tampered", "too many hops", "no chain", "not granted"),
)


@pytest.mark.parametrize("name", CASES)
def test_denial(name: str) -> None:
    """A chain that does not hold, or not for this, denies; what points to tampering is an alert of its own type."""
    assert set(CASES) == _cases().keys()
    reason, is_tampering, question = _cases()[name]
    response, attributes = decided(question)
    assert reason.value == reason_of(response)
    assert reason.meaning.http_status == response.denied_response.status.code
    assert (True, reason.value) == (attributes["security.alert"], attributes["security.alert_reason"])
    assert ("tampered_token" if is_tampering else None) == attributes.get("security.alert_type")


@pytest.mark.parametrize(
    ("name", "is_known"), [("wrong scope", True), ("too many hops", True), ("tampered", False), ("expired", False)]
)
def test_record_of_a_denial_believes_verified_chains_only(name: str, is_known: bool) -> None:  # noqa: FBT001
    """A chain that holds and does not suffice is in the record; of one that does not hold, nothing is."""
    _, attributes = decided(_cases()[name][2])
    assert ((USER, SESSION) if is_known else (None, None)) == (
        attributes.get("ext_authz.on_behalf_of"),
        attributes.get("ext_authz.session_id"),
    )
    assert "ext_authz.grant" in attributes


def test_chain_without_a_delegation_document() -> None:
    """A chain that nobody can verify is not decided as if it were not there."""
    authorizer, _ = new_authorizer()
    response = answer(authorizer, QUESTION.but(headers=[("x-delegation-token", world().root())]).serialized())
    assert "keys_unavailable" == reason_of(response)
    assert 503 == response.denied_response.status.code


def test_chain_bound_to_a_certificate_needs_a_known_one() -> None:
    """A chain is bound to the caller's SPIFFE ID; one bound to a certificate counts only where that one is known."""
    snapshot = replace(delegated_snapshot(), identifier=Identifier(require_xfcc=False))
    authorizer, _ = new_authorizer(snapshot)
    thumbprint = world().certificates[PLANNER].fingerprint(hashes.SHA256())
    free, bound = calling(world().root()), calling(world().root(certificate_sha256=thumbprint))
    unknown = {"xfcc": None, "certificate": ""}
    reasons = [
        reason_of(answer(authorizer, each.serialized())) for each in (free.but(**unknown), bound.but(**unknown), bound)
    ]
    assert ["allowed", "token_presenter", "allowed"] == reasons


@pytest.mark.parametrize("value", [None, True, 1, "", (), {}, USER])
def test_verifier_that_answers_nonsense_allows_nothing(value: object) -> None:
    """What is no verified authority is never taken for an agent that acts on its own."""
    snapshot = delegated_snapshot()
    verifier: Any = SimpleNamespace(verify=lambda *_: value)
    delegation = replace(delegated_policy().delegation, verifier=verifier)  # type: ignore[type-var]
    broken = replace(snapshot, policy=replace(snapshot.policy, delegation=delegation))
    authorizer, recorder = new_authorizer(broken)
    question = calling(world().root(audience=CRM), PLANNER, CRM)
    assert "internal_error" == reason_of(answer(authorizer, question.serialized()))
    assert recorder.records[0].fault


# Stands in every part of a token that is nobody else's business.
CANARY = "c4n4ryc4n4ryc4n4ry"


@pytest.mark.parametrize(
    "question_of",
    [
        calling,
        lambda chain: calling(chain, EVIL),
        lambda chain: calling(chain, PLANNER, CRM),
        lambda chain: calling(chain, path="/v1/secrets"),
        lambda chain: calling(f"{chain}~{chain}"),
        lambda chain: calling(f"{chain[:-8]}AAAAAAAA"),
        lambda _: calling(f"{CANARY}.{CANARY}.{CANARY}"),
        lambda chain: calling(chain, path="//"),
    ],
    ids=["allowed", "stolen", "other target", "scope", "spliced", "signature", "malformed", "path"],
)
def test_nothing_else_of_a_token_leaves(question_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No token, no part of one, and no claim that is not recorded by name is in answer, record, line or log."""
    claims = {"note": CANARY, "tctx": {"purpose": CANARY}}
    chain = forged(world().root(depth=2), world().sts, claims=claims)
    authorizer, recorder = new_authorizer(delegated_snapshot())
    with caplog.at_level(logging.DEBUG):
        response = answer(authorizer, question_of(chain).serialized())
    [record] = recorder.records
    texts = (repr(record), repr(record.attributes()), to_line(record).decode(), str(response), caplog.text)
    for text in texts:
        assert CANARY not in text
        for segment in chain.split("."):
            assert segment not in text
