"""Exports to Istio, Envoy RBAC, Kubernetes, Cilium and SPIRE: what they allow, and that nothing is dropped in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import re2
import yaml
from typer.testing import CliRunner, Result

from ext_authz.cli.main import app
from ext_authz.documents.loader import load_policy
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.compile import compile_policy
from ext_authz.policy.export.envoy_rbac import to_envoy_rbac
from ext_authz.policy.export.istio import to_istio
from ext_authz.policy.export.kubernetes import to_cilium, to_cluster_spiffe_ids, to_network_policies
from ext_authz.policy.export.model import Calls, Exported, ExportError, calls_of
from ext_authz.policy.export.placement import Placement

GOLDEN = Path(__file__).parent / "golden"
POLICY = """
kind: PermissionMatrix
trust_domain: agents.example.com
id_path: ns/agents/sa/{name}
matrix:
  customer-support-agent:
    llm-gateway: [llm.chat]
---
kind: ActionRegistry
actions:
  llm.chat: {http: ["POST /v1/chat/completions"], scope: "llm:read"}
"""
MORE = """
kind: PermissionMatrix
trust_domain: agents.example.com
id_path: ns/agents/sa/{name}
groups: {readers: [planner, auditor]}
matrix:
  "@readers":
    crm: {actions: [read, purge], delegation: required, scopes: ["hr:read"], max_hops: 2}
  planner:
    mailer: [send]
  spiffe://agents.example.com/ns/tools/sa/runner:
    crm: [read]
deny:
- {subject: auditor, resource: crm, action: purge, because: four eyes}
- {subject: mailer, resource: crm, action: "*"}
- {subject: auditor, resource: crm, action: send}
---
kind: ActionRegistry
actions:
  read: {http: ["GET /records/{id}", "GET /records", "HEAD /records"]}
  purge: {http: ["DELETE /records/{id}"]}
  send: {asserted: true}
---
kind: Delegation
root_issuers: [sts]
required: false
keys: {sts: "https://sts.example.com/jwks"}
"""


def calls(tmp_path: Path, text: str) -> Calls:
    """Compile a policy of one file."""
    (tmp_path / "policy.yaml").write_text(text)
    documents = load_policy(tmp_path)
    return calls_of(documents, compile_policy(documents))


def documents_of(exported: Exported) -> list[dict[str, Any]]:
    """Read an export back."""
    return [each for each in yaml.safe_load_all(exported.text) if each is not None]


def called(*arguments: str) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, ["policy", "export", *arguments])


def test_istio_grants_one_call_under_strict_mtls(tmp_path: Path) -> None:
    """One permission becomes one rule under STRICT mTLS, and nothing else is granted."""
    exported = to_istio(calls(tmp_path, POLICY), Placement())
    assert (GOLDEN / "istio.yaml").read_text() == exported.text


def istio_rules(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    """Return the rules of one exported AuthorizationPolicy."""
    [found] = [
        each for each in documents_of(to_istio(calls(tmp_path, MORE), Placement())) if each["metadata"]["name"] == name
    ]
    rules: list[dict[str, Any]] = found["spec"].get("rules", [])
    return rules


def test_istio_leaves_out_what_is_denied(tmp_path: Path) -> None:
    """A denial takes its operations out of what is allowed, and stands as DENY policy, which beats those of others."""

    def granted() -> Iterator[tuple[str, str, str]]:
        for rule in istio_rules(tmp_path, "crm-allow"):
            [source], to = rule["from"], rule["to"]
            for each in to:
                for path in each["operation"]["paths"]:
                    yield source["source"]["principals"][0].rpartition("/")[2], each["operation"]["methods"][0], path

    read = {("GET", "/records/{*}"), ("GET", "/records"), ("HEAD", "/records")}
    expected = {(agent, *each) for agent in ("planner", "auditor", "runner") for each in read}
    assert expected | {("planner", "DELETE", "/records/{*}")} == set(granted())
    purge, everything = istio_rules(tmp_path, "crm-deny")
    assert {"methods": ["DELETE"], "paths": ["/records/{*}"]} == purge["to"][0]["operation"]
    assert {"from": [{"source": {"principals": ["agents.example.com/ns/agents/sa/mailer"]}}]} == everything


def test_istio_denies_what_no_route_tells(tmp_path: Path) -> None:
    """A resource whose only action is asserted gets a policy without rules: it denies everything, and a note says so."""
    exported = to_istio(calls(tmp_path, MORE), Placement())
    assert [] == istio_rules(tmp_path, "mailer-allow")
    assert any("planner -> mailer: send" in note and "no route" in note for note in exported.notes)
    assert any("deny auditor -> crm: send" in note for note in exported.notes)


def test_conditions_are_told(tmp_path: Path) -> None:
    """What a cell asks beside the action stands in a comment of the export."""
    exported = to_istio(calls(tmp_path, MORE), Placement())
    [note] = [each for each in exported.notes if each.startswith("@readers -> crm: purge")]
    assert "policy.yaml:8" in note
    assert "a delegation chain and in a chain the scopes hr:read and in a chain at most 2 hops" in note
    assert f"# NOT EXPRESSED: {note}\n" in exported.text


def test_istio_wildcard_in_a_literal(tmp_path: Path) -> None:
    """A star that is a letter to us is a wildcard to Istio: such a route cannot be exported."""
    wider = POLICY.replace("/v1/chat/completions", "/v1/files*")
    with pytest.raises(ExportError, match="wildcard"):
        to_istio(calls(tmp_path, wider), Placement())


def test_network_policies(tmp_path: Path) -> None:
    """Each workload is reached by those that have a permission left, on one port; the others by nobody. Kubernetes accepts them."""
    documents = documents_of(to_network_policies(calls(tmp_path, MORE), Placement(label="app"), 8443))
    reached = {}
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        peers = [peer for rule in document["spec"]["ingress"] for peer in rule["from"]]
        names = [
            (
                peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
                peer["podSelector"]["matchLabels"]["app"],
            )
            for peer in peers
        ]
        reached[document["spec"]["podSelector"]["matchLabels"]["app"]] = names
        assert ["Ingress"] == document["spec"]["policyTypes"]
    assert {
        "crm": [("agents", "auditor"), ("agents", "planner"), ("tools", "runner")],
        "mailer": [("agents", "planner")],
        "planner": [],
        "auditor": [],
        "runner": [],
    } == reached


def test_cilium(tmp_path: Path) -> None:
    """The same edges for Cilium; a workload that nobody may call has an empty rule, which selects nobody."""
    documents = {
        each["metadata"]["name"]: each["spec"]["ingress"]
        for each in documents_of(to_cilium(calls(tmp_path, MORE), Placement(label="app"), 9443))
    }
    assert [{}] == documents["ext-authz-planner"]
    [rule] = documents["ext-authz-mailer"]
    assert [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "agents", "app": "planner"}}] == rule["fromEndpoints"]
    assert [{"ports": [{"port": "9443", "protocol": "TCP"}]}] == rule["toPorts"]


def test_cluster_spiffe_ids(tmp_path: Path) -> None:
    """Every workload gets its own ID, and only the sidecar's container."""
    documents = documents_of(to_cluster_spiffe_ids(calls(tmp_path, POLICY), Placement(), "spire-mgmt-spire", "envoy"))
    prefix = "spiffe://agents.example.com/ns/agents/sa/"
    assert [f"{prefix}customer-support-agent", f"{prefix}llm-gateway"] == [
        each["spec"]["spiffeIDTemplate"] for each in documents
    ]
    for document, name in zip(documents, ("customer-support-agent", "llm-gateway"), strict=True):
        selectors = ["k8s:ns:agents", f"k8s:sa:{name}", "k8s:container-name:envoy"]
        assert selectors == document["spec"]["workloadSelectorTemplates"]


@pytest.mark.parametrize(
    ("id_path", "namespace", "problem"),
    [
        ("{name}", None, "--namespace"),
        ("Agents/{name}_x", "agents", "lower-case"),
        ("ns/UPPER/sa/{name}", None, "lower-case"),
    ],
)
def test_workload_that_is_nowhere(tmp_path: Path, id_path: str, namespace: str | None, problem: str) -> None:
    """A SPIFFE ID that names no pod is an error with that ID, for every workload at once."""
    text = POLICY.replace("ns/agents/sa/{name}", f"'{id_path}'")
    with pytest.raises(ExportError, match=problem) as caught:
        to_cilium(calls(tmp_path, text), Placement(namespace), 8443)
    assert 2 == len(caught.value.problems)


def test_two_workloads_in_one_place(tmp_path: Path) -> None:
    """Two SPIFFE IDs that would select the same pods cannot be told apart there."""
    text = POLICY.replace("customer-support-agent:", "spiffe://agents.example.com/llm-gateway:")
    with pytest.raises(ExportError, match="the same place"):
        to_cilium(calls(tmp_path, text), Placement("agents"), 8443)


def test_command_line(tmp_path: Path) -> None:
    """The command prints the export, counts what it does not say on standard error, and exits with 1 and 2 as documented."""
    (tmp_path / "policy.yaml").write_text(MORE)
    exported = called("istio", str(tmp_path))
    assert (0, True) == (exported.exit_code, exported.stdout.startswith("# Istio"))
    assert "not expressed: see the comments" in exported.stderr
    assert 1 == called("network-policy", "policies/default").exit_code
    assert 2 == called("envoy-rbac", str(tmp_path)).exit_code
    assert 2 == called("envoy-rbac", str(tmp_path), "--resource", "a b").exit_code
    assert 2 == called("rego", str(tmp_path / "nothing")).exit_code
    assert 2 == called("opa", str(tmp_path)).exit_code
    for name in ("rego", "cilium", "spire"):
        assert 0 == called(name, str(tmp_path)).exit_code
    assert 0 == called("envoy-rbac", str(tmp_path), "--resource", "crm").exit_code


WILDCARDS = """
kind: PermissionMatrix
trust_domain: agents.example.com
matrix:
  ns/*/sa/reader:
    ns/agents/sa/crm: [read]
  ns/agents/sa/planner:
    ns/agents/sa/crm: [read, purge]
deny:
- {subject: "ns/*/sa/*", resource: ns/agents/sa/crm, action: purge}
---
kind: ActionRegistry
actions:
  read: {http: ["GET /records"]}
  purge: {http: ["DELETE /records"]}
"""


def test_istio_leaves_wildcards_out(tmp_path: Path) -> None:
    """Istio's own `*` would mean more than one segment: such a grant is not written, and what is denied is not granted either."""
    exported = to_istio(calls(tmp_path, WILDCARDS), Placement())
    [_, allow] = documents_of(exported)
    [rule] = allow["spec"]["rules"]
    assert [{"source": {"principals": ["agents.example.com/ns/agents/sa/planner"]}}] == rule["from"]
    assert [{"operation": {"methods": ["GET"], "paths": ["/records"]}}] == rule["to"]
    assert (
        (
            "ns/*/sa/reader -> ns/agents/sa/crm: read (policy.yaml:6): Istio has no wildcard for one segment of a principal, so it "
            "denies this"
        ),
        (
            "deny ns/*/sa/* -> ns/agents/sa/crm: purge (policy.yaml:10): Istio has no wildcard for one segment of a principal; no "
            "permission here allows it either"
        ),
    ) == exported.notes


@pytest.mark.parametrize("export", ["network-policy", "cilium", "spire"])
def test_pods_of_wildcards_are_not_known(tmp_path: Path, export: str) -> None:
    """A grant to whoever fits cannot be said in pods: an error names the cell."""
    (tmp_path / "policy.yaml").write_text(WILDCARDS)
    outcome = called(export, str(tmp_path))
    assert (1, "") == (outcome.exit_code, outcome.stdout)
    assert (
        "ns/*/sa/reader -> ns/agents/sa/crm: read (policy.yaml:6): `spiffe://agents.example.com/ns/*/sa/reader` stands for "
        "workloads that are written nowhere, and which pods these are is not known here\n"
    ) == outcome.stderr


def test_wildcards_of_deny_rules_alone_are_no_error(tmp_path: Path) -> None:
    """Where wildcards only deny, what is left is written for the pods that are named."""
    text = WILDCARDS.replace("ns/*/sa/reader:", "ns/agents/sa/reader:")
    [crm, planner, reader] = documents_of(to_network_policies(calls(tmp_path, text), Placement(), 8443))
    assert [2, 0, 0] == [sum(len(rule["from"]) for rule in each["spec"]["ingress"]) for each in (crm, planner, reader)]


PRINCIPALS = {
    "ns/team/sa/reader": True,
    "ns/.../sa/reader": True,
    "ns/..a/sa/reader": True,
    "ns/.a/sa/reader": True,
    "ns/a.b_c-D/sa/reader": True,
    "ns/./sa/reader": False,
    "ns/../sa/reader": False,
    "ns//sa/reader": False,
    "ns/a/b/sa/reader": False,
    "ns/a/sa/reader/x": False,
    "x/ns/a/sa/reader": False,
    "ns/*/sa/reader": False,
    "ns/a/sa/reader\n": False,
    "NS/a/sa/reader": False,
}


def test_rbac_matches_one_segment(tmp_path: Path) -> None:
    """Envoy compares the whole principal with a pattern that takes exactly the segments which our reading of IDs takes."""
    exported = to_envoy_rbac(
        calls(tmp_path, WILDCARDS), SpiffeId.parse_workload("spiffe://agents.example.com/ns/agents/sa/crm")
    )
    deny, allow = (each["typed_config"]["rules"]["policies"] for each in yaml.safe_load(exported.text))
    principals = [policy["principals"][0]["authenticated"]["principal_name"] for policy in allow.values()]
    [pattern] = [re2.compile(each["safe_regex"]["regex"]) for each in principals if "safe_regex" in each]
    assert PRINCIPALS == {path: bool(pattern.fullmatch(f"spiffe://agents.example.com/{path}")) for path in PRINCIPALS}
    assert not pattern.fullmatch("spiffe://agentsXexample.com/ns/a/sa/reader")
    assert PRINCIPALS == {
        path: is_spiffe_id(path) and "reader/" not in path and path[0] == "n" and path.count("/") == 3
        for path in PRINCIPALS
    }
    assert ["safe_regex"] == list(deny["0"]["principals"][0]["authenticated"]["principal_name"])


def is_spiffe_id(path: str) -> bool:
    """Whether the path is that of a workload."""
    try:
        SpiffeId.parse_workload(f"spiffe://agents.example.com/{path}")
    except SpiffeIdError:
        return False
    return True
