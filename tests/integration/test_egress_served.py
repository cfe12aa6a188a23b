"""Outbound calls before a running server: whose listener it is decides who may ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.authorizers import reason_of
from support.check_requests import QUESTION
from support.egress_policies import OTHER, PLANNER, POLICY, outbound
from support.server_process import ServerProcess, refused_start


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a policy directory with an EgressAllowlist."""
    directory = tmp_path_factory.mktemp("policies")
    (directory / "policy.yaml").write_text(POLICY)
    return directory


@pytest.fixture(scope="module")
def bound(policies: Path) -> Iterator[ServerProcess]:
    """Run a server on the planner's own socket."""
    with ServerProcess.running(policies, socket_workload=PLANNER.uri) as server:
        yield server


def ask(server: ServerProcess, question: bytes) -> str:
    """Return the reason of the answer."""
    return reason_of(server.check(question))


def test_socket_of_one_workload(bound: ServerProcess) -> None:
    """On its own socket a workload's outbound sidecar is answered by the list."""
    assert "allowed" == ask(bound, outbound())
    assert "egress_denied" == ask(bound, outbound("evil.example.com"))
    allowed = bound.wait_for_records(1)[0]["attributes"]
    assert ("egress", PLANNER.uri, "api.example.com:443") == (
        allowed["ext_authz.direction"],
        allowed["agent.caller"],
        allowed["agent.target"],
    )


def test_socket_of_another_workload(bound: ServerProcess) -> None:
    """Nobody else's calls are answered on it, outbound or inbound."""
    assert "egress_denied" == ask(bound, outbound(extensions={"workload": OTHER.uri}))
    assert "identity_mismatch" == ask(bound, QUESTION.serialized())


def test_socket_of_nobody(policies: Path) -> None:
    """A server without the setting denies every outbound call: it cannot know who asks."""
    with ServerProcess.running(policies) as server:
        assert "egress_denied" == ask(server, outbound())


def test_workload_that_is_none(policies: Path) -> None:
    """A server does not start for a workload that cannot be."""
    code, log = refused_start(policies, socket_workload="planner-agent")
    assert 2 == code
    assert "socket_workload: " in log
