"""The Rego export says everything or nothing. tests/properties/test_rego_parity.py compares its verdicts."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from regopy import Interpreter

from ext_authz.documents.loader import load_policy
from ext_authz.policy.compile import Policy, compile_policy
from ext_authz.policy.export.envoy_rbac import to_envoy_rbac
from ext_authz.policy.export.model import ExportError, calls_of
from ext_authz.policy.export.rego import to_rego
from ext_authz.policy.verdict import Grant

HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
TAIL = (
    "---\nkind: ActionRegistry\nactions: {read: {http: ['GET /x']}}\n"
    "---\nkind: TimeWindows\nwindows: {night: {from: '22:00', to: '06:00'}}\n"
)
# Asks something that a Rego module cannot see: (matrix document, rest of the TimeWindows document, what the error names)
BEYOND = {
    "times of a cell": ("matrix: {a: {b: {actions: [read], during: [night]}}}\n", "", "policy.yaml:3: a -> b: read"),
    "closed windows": ("matrix: {a: {b: [read]}}\n", "closed: [night]\n", "closed night"),
    "fresh timestamps": ("require_timestamp: true\nmatrix: {a: {b: [read]}}\n", "", "require_timestamp"),
}


def documents(tmp_path: Path, matrix: str, times: str) -> Path:
    (tmp_path / "policy.yaml").write_text(f"{HEAD}{matrix}{TAIL}{times}")
    return tmp_path


@pytest.mark.parametrize(("matrix", "times", "named"), BEYOND.values(), ids=BEYOND)
def test_what_rego_cannot_check(tmp_path: Path, matrix: str, times: str, named: str) -> None:
    """A policy with a condition that Rego cannot see is no module; other formats name the condition in a comment."""
    loaded = load_policy(documents(tmp_path, matrix, times))
    policy = compile_policy(loaded)
    with pytest.raises(ExportError, match=named):
        to_rego(policy)
    [note] = to_envoy_rbac(calls_of(loaded, policy), policy.names.resolve("b")).notes
    assert named.rpartition(": ")[2] in note


def test_exports_know_every_part_of_a_policy() -> None:
    """A field that is new in a policy or a grant needs a place in the exports before this list may have it."""
    said = {"rule", "delegation", "scopes", "max_hops", "times", "access_token", "rate", "when"}
    assert said == set(Grant._fields)
    matrix, beyond, nothing = (
        {"names", "registry", "matrix"},
        {"windows", "requires_timestamp", "limits", "egress"},
        {"delegation", "providers", "digest", "federation"},
    )
    assert matrix | beyond | nothing == {each.name for each in fields(Policy)}


ASKED = {
    "ns/a/sa/x": "allowed",
    "ns/../sa/x": "not_in_matrix",
    "ns//sa/x": "not_in_matrix",
    "ns/*/sa/x": "not_in_matrix",
    "ns/a/b/sa/x": "not_in_matrix",
    "NS/a/sa/x": "not_in_matrix",
    "ns/a/sa/x\n": "not_in_matrix",
}


def test_rego_fits_workloads_alone(tmp_path: Path) -> None:
    """A text that is no SPIFFE ID fits no wildcard in the module either, also not one that is written like it."""
    loaded = load_policy(documents(tmp_path, "matrix: {ns/*/sa/x: {b: [read]}}\n", ""))
    interpreter = Interpreter()
    interpreter.add_module("policy", to_rego(compile_policy(loaded)).text)
    answers = {}
    for path in ASKED:
        interpreter.set_input(
            {
                "subject": f"spiffe://agents.example.com/{path}",
                "resource": "spiffe://agents.example.com/b",
                "action": "read",
            }
        )
        answers[path] = json.loads(str(interpreter.query("data.ext_authz.decision.reason")))["expressions"][0]
    assert ASKED == answers
