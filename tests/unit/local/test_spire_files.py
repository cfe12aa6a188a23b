"""The SPIRE files agree with each other and with the demo."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_authz.identity.spiffe_id import SpiffeId

SPIRE = Path(__file__).parents[3] / "spire"
TRUST_DOMAIN = "agents.example.com"
DEMO_AGENTS = ["planner-agent", "retrieval-agent", "database-agent", "code-executor-agent", "sandbox-agent"]
DEMO_WORKLOADS = [*DEMO_AGENTS, "token-exchange"]


def load(name: str) -> Any:
    return yaml.safe_load(SPIRE.joinpath(name).read_text())


def test_entries_name_the_demo_agents() -> None:
    """Each agent of the demo, and the exchange, has one entry, under one node, told apart by the uid of its sidecar."""
    entries = json.loads(SPIRE.joinpath("entries.json").read_text())["entries"]
    ids = [SpiffeId.parse_workload(entry["spiffe_id"]) for entry in entries]
    uids = {selector["value"] for entry in entries for selector in entry["selectors"]}
    assert [f"/{agent}" for agent in DEMO_WORKLOADS] == [spiffe_id.path for spiffe_id in ids]
    assert {TRUST_DOMAIN} == {spiffe_id.trust_domain for spiffe_id in ids}
    assert {"spiffe://agents.example.com/laptop"} == {entry["parent_id"] for entry in entries}
    assert len(uids) == len(DEMO_WORKLOADS)


@pytest.mark.parametrize("name", ["server.conf", "agent.conf"])
def test_laptop_files_are_for_the_demo_trust_domain(name: str) -> None:
    """Server and agent belong to the trust domain that the entries name."""
    assert f'trust_domain = "{TRUST_DOMAIN}"' in SPIRE.joinpath(name).read_text()


@pytest.mark.parametrize("name", ["clusterspiffeids.yaml", "federation.yaml"])
def test_cluster_objects_belong_to_our_release(name: str) -> None:
    """An object of another class would be ignored without a word."""
    assert load(name)["apiVersion"] == "spire.spiffe.io/v1alpha1"
    assert load(name)["spec"]["className"] == "spire-mgmt-spire"


def test_only_the_sidecar_gets_an_svid() -> None:
    """The agent's own container cannot obtain its identity, and no catch-all identity is left on."""
    identities = load("helm-values.yaml")["spire-server"]["controllerManager"]["identities"]
    assert load("clusterspiffeids.yaml")["spec"]["workloadSelectorTemplates"] == ["k8s:container-name:envoy"]
    assert identities == {"clusterSPIFFEIDs": {"default": {"enabled": False}}}
