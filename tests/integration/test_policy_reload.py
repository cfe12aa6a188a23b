"""A policy that changes while the server runs: good changes count, bad ones are refused and told."""

import shutil
import signal
from pathlib import Path

import pytest
from support.authorizers import reason_of
from support.check_requests import QUESTION
from support.server_process import ServerProcess, refused_start

ACTIONS = """\
kind: ActionRegistry
actions:
  search: {http: [POST /v1/search]}
  fetch: {http: [GET /v1/documents]}
"""
GRANTED = """\
kind: PermissionMatrix
trust_domain: agents.example.com
matrix:
  planner-agent:
    retrieval-agent: [search]
"""
WITHDRAWN = GRANTED.replace("[search]", "[fetch]")
BROKEN = """\
kind: PermissionMatrix
trust_domain: agents.example.com
matrix:
  planner-agent:
    retrieval-agent: [serch]
  "@readers":
    retrieval-agent: [search]
"""


def problems(directory: Path) -> list[str]:
    """Return what is wrong with BROKEN as matrix.yaml of a directory."""
    matrix = directory / "matrix.yaml"
    return [
        f"{matrix}:5:23: unknown action `serch`: did you mean `search`?",
        f"{matrix}:6:3: unknown group `readers`",
    ]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Make a policy directory that grants the default question."""
    directory = tmp_path / "policy"
    directory.mkdir()
    (directory / "actions.yaml").write_text(ACTIONS)
    (directory / "matrix.yaml").write_text(GRANTED)
    return directory


def wait_for_reason(server: ServerProcess, reason: str) -> None:
    """Ask until the default question is answered with `reason`."""
    server.wait_for(lambda: reason_of(server.check(QUESTION.message())) == reason, reason)


def test_hangup_reloads(policy: Path) -> None:
    """Without a watch SIGHUP alone takes up a change; the records name the policy that decided."""
    with ServerProcess.running(policy, watch=False) as server:
        wait_for_reason(server, "allowed")
        (policy / "matrix.yaml").write_text(WITHDRAWN)
        wait_for_reason(server, "allowed")
        server.send(signal.SIGHUP)
        server.wait_for_log("policy reloaded: 1 grants")
        wait_for_reason(server, "not_in_matrix")
        server.send(signal.SIGHUP)
        server.wait_for_log("policy unchanged")
        (policy / "matrix.yaml").write_text(BROKEN)
        server.send(signal.SIGHUP)
        for problem in problems(policy):
            server.wait_for_log(f"error   ext_authz.server.reload: policy not reloaded: {problem}")
        wait_for_reason(server, "not_in_matrix")
        records = server.wait_for_records(4)
        digests = [record["attributes"]["ext_authz.policy_digest"] for record in records]
        assert (digests[0], digests[-1]) == (digests[1], digests[-2])
        assert digests[0] != digests[-1]
        assert server.stop() == 0


def test_file_changes_reload(policy: Path) -> None:
    """Good changes count at once; through broken ones, and without any files, the last good policy decides on."""
    with ServerProcess.running(policy) as server:
        wait_for_reason(server, "allowed")
        (policy / "matrix.yaml").write_text(WITHDRAWN)
        wait_for_reason(server, "not_in_matrix")
        (policy / "matrix.yaml").write_text(BROKEN)
        for problem in problems(policy):
            server.wait_for_log(f"policy not reloaded: {problem}")
        wait_for_reason(server, "not_in_matrix")
        (policy / "matrix.yaml").write_text(GRANTED)
        wait_for_reason(server, "allowed")
        (policy / "matrix.yaml").unlink()
        server.wait_for_log(f"policy not reloaded: {policy}:1:1: no PermissionMatrix document names the `trust_domain`")
        wait_for_reason(server, "allowed")
        (policy / "denials.yaml").write_text(
            f"{GRANTED}deny:\n- {{subject: planner-agent, resource: retrieval-agent, action: search}}\n"
        )
        wait_for_reason(server, "denied_by_rule")
        shutil.rmtree(policy)
        server.wait_for_log("cannot read the policy directory")
        wait_for_reason(server, "denied_by_rule")
        assert server.stop() == 0


def test_config_map_update_reloads(tmp_path: Path, policy: Path) -> None:
    """Kubernetes swaps a symbolic link to a directory under all files at once; that counts as a change.

    So it does below a directory whose changes watchers of source code ignore, such as node_modules.
    """
    mounted = tmp_path / "node_modules" / "policy"
    versions = {name: mounted / name for name in ("..2026_11_22_00", "..2026_11_22_01")}
    for directory, matrix in zip(versions.values(), (GRANTED, WITHDRAWN), strict=True):
        shutil.copytree(policy, directory)
        (directory / "matrix.yaml").write_text(matrix)
    old, new = versions
    (mounted / "..data").symlink_to(old)
    for name in ("actions.yaml", "matrix.yaml"):
        (mounted / name).symlink_to(Path("..data") / name)
    with ServerProcess.running(mounted) as server:
        wait_for_reason(server, "allowed")
        (mounted / "..data_tmp").symlink_to(new)
        (mounted / "..data_tmp").replace(mounted / "..data")
        shutil.rmtree(versions[old])
        wait_for_reason(server, "not_in_matrix")


def test_broken_policy_at_the_start(policy: Path) -> None:
    """A server never starts with a broken policy; every problem is told, one line each, and the exit code is 2."""
    (policy / "matrix.yaml").write_text(BROKEN)
    (policy / "more.yaml").write_text("kind: InjectionGuard\n")
    code, log = refused_start(policy)
    assert (2, [f"{policy / 'more.yaml'}:1:7: kind `InjectionGuard` is not supported by this release"]) == (
        code,
        log.splitlines(),
    )
    (policy / "more.yaml").unlink()
    code, log = refused_start(policy)
    assert (2, problems(policy)) == (code, log.splitlines())
