"""Tests of policies that ask for access tokens: what `policy test`, `policy show` and an explanation make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.access_tokens import bearing, providers, token_snapshot
from support.authorizers import NOW
from support.check_requests import Question
from support.delegations import CRM, EVIL, MAILER, PLANNER, RETRIEVER, world
from typer.testing import CliRunner

from ext_authz.analysis.effective import effective
from ext_authz.analysis.survey import survey
from ext_authz.cli.exits import NO, UNUSABLE
from ext_authz.cli.main import app
from ext_authz.decision.explain import Explanation
from ext_authz.review.explaining import explain_bytes

POLICY = """kind: PermissionMatrix
trust_domain: agents.example.com
matrix:
  ui:
    planner: {actions: [plan, status], access_token: required, scopes: [plans.write]}
    crm: [plan, status]
  planner:
    ui: {actions: [plan], access_token: forbidden}
---
kind: ActionRegistry
actions:
  plan: {http: ["POST /plans"], scope: plan}
  status: {http: ["GET /status"], scope: plan, access_token: optional}
---
kind: IdentityProviders
providers: [{issuer: "https://login.example.com", audience: x, clients: {web: ui}}]
---
"""


def run(directory: Path, *tests: dict[str, Any], **defaults: Any) -> tuple[int, str]:
    """Run `ext-authz policy test` on a policy with these tests; return exit code and output."""
    (directory / "policy.yaml").write_text(POLICY)
    suite = {"kind": "TestSuite", "defaults": defaults, "tests": list(tests)}
    (directory / "tests.yaml").write_text(json.dumps(suite))
    done = CliRunner().invoke(app, ["policy", "test", str(directory)])
    return done.exit_code, done.output


PLAN = {"from": "ui", "to": "planner", "action": "plan"}
GOOD = {"on_behalf_of": "user:1", "scopes": ["plan", "plans.write"]}
REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({**PLAN, "access_token": GOOD}, "allowed"),
    (PLAN, "oidc_missing"),
    ({**PLAN, "access_token": {**GOOD, "scopes": ["plan"]}}, "oidc_scope"),
    ({**PLAN, "headers": {"authorization": "Basic Zm9v"}}, "oidc_malformed"),
    ({**PLAN, "headers": {"authorization": "Bearer a.b.c"}}, "oidc_malformed"),
    ({**PLAN, "to": "crm"}, "allowed"),
    ({**PLAN, "to": "crm", "access_token": {"on_behalf_of": "user:1"}}, "allowed"),
    ({**PLAN, "to": "crm", "action": "status"}, "allowed"),
    ({**PLAN, "to": "crm", "action": "status", "access_token": {"on_behalf_of": "user:1"}}, "oidc_scope"),
    ({"from": "planner", "to": "ui", "action": "plan"}, "allowed"),
    ({"from": "planner", "to": "ui", "action": "plan", "access_token": GOOD}, "token_forbidden"),
]


@pytest.mark.parametrize(("request_", "reason"), REQUESTS)
def test_request(tmp_path: Path, request_: dict[str, Any], reason: str) -> None:
    """An access token in an author's words goes through the stages of a real one; any other expectation fails."""
    outcome = "allow" if reason == "allowed" else "deny"
    test = {"name": "it", "request": request_, "expect": {"outcome": outcome, "reason": reason}}
    code, output = run(tmp_path, test)
    assert 0 == code, output
    code, _ = run(tmp_path, test | {"expect": "error"})
    assert NO == code


def test_mistakes(tmp_path: Path) -> None:
    """A token stands in one place only, and says for whom it is."""
    both = {**PLAN, "access_token": GOOD, "headers": {"Authorization": "Bearer x"}}
    code, output = run(tmp_path, {"name": "it", "request": both, "expect": "allow"})
    assert UNUSABLE == code
    assert "write either `access_token`, or the header `authorization`" in output
    nobody = {**PLAN, "access_token": {"scopes": ["plan"]}}
    code, output = run(tmp_path, {"name": "it", "request": nobody, "expect": "allow"})
    assert UNUSABLE == code
    assert "key `on_behalf_of` is missing" in output


def test_what_takes_effect(tmp_path: Path) -> None:
    """The matrix as it takes effect says what cell or action ask."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    asked = {
        (Path(entry.subject).name, Path(entry.resource).name, entry.action): entry.grants[0].asks.get("access_token")
        for entry in effective(survey(tmp_path))
    }
    assert {
        ("planner", "ui", "plan"): "forbidden",
        ("ui", "crm", "plan"): None,
        ("ui", "crm", "status"): "optional",
        ("ui", "planner", "plan"): "required",
        ("ui", "planner", "status"): "required",
    } == asked


def explained(question: Question) -> Explanation:
    """Explain a real request under the policy of tests/support/access_tokens.py."""
    return explain_bytes(question.serialized(), token_snapshot(), NOW)


EXPLAINED: dict[str, tuple[str, Callable[[], Question]]] = {
    "a good one": ("allowed", lambda: bearing(providers().idp.token())),
    "none, and none is asked for": ("allowed", lambda: bearing(None, RETRIEVER, MAILER)),
    "none": ("oidc_missing", lambda: bearing(None)),
    "stolen": ("oidc_binding", lambda: bearing(providers().idp.token(), EVIL)),
    "without a scope": ("oidc_scope", lambda: bearing(providers().idp.token(scope="x"), PLANNER, CRM)),
    "forbidden": ("token_forbidden", lambda: bearing("x", PLANNER, MAILER)),
    "for another than the chain": (
        "oidc_subject",
        lambda: bearing(providers().idp.token(sub="x"), chain=world().root()),
    ),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_explanation(name: str) -> None:
    """The step that refuses is the one that decided, and each cell's own verdict is told."""
    reason, ask = EXPLAINED[name]
    found = explained(ask())
    steps = {step.stage: step.reason for step in found.steps}
    assert reason == found.decision.reason
    assert "decide" not in steps
    refusing = [stage for stage, each in steps.items() if each not in (None, "allowed")]
    stage = {"oidc_binding": "access token", "oidc_subject": "access token"}.get(reason, "constraints")
    assert ([] if reason == "allowed" else [stage]) == refusing
    verdicts = [grant.reason for grant in found.grants]
    assert ([] if stage == "access token" and refusing else [reason]) == verdicts
