"""Shadow mode in a real server: differences in the records, a candidate that comes and goes, and the report of it."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION
from support.server_process import ServerProcess, server_environment

DENY = "\ndeny: [{subject: planner-agent, resource: retrieval-agent, action: search}]\n"


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """Make a copy of the default policy that denies the default question."""
    directory = tmp_path / "candidate"
    shutil.copytree(DEFAULT_POLICY, directory)
    (directory / "deny.yaml").write_text(f"kind: PermissionMatrix{DENY}")
    return directory


def report(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the report as a command."""
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", "policy", "shadow-report", path, *arguments],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_shadow(candidate: Path, tmp_path: Path) -> None:
    """Answers are those of the active policy; records say what the candidate would have said; the report sums it up."""
    audit = tmp_path / "audit.jsonl"
    with ServerProcess.running(DEFAULT_POLICY, shadow=str(candidate), audit_file=str(audit)) as server:
        assert ["allowed"] * 3 == [reason_of(server.check(QUESTION.message())) for _ in range(3)]
        records = server.wait_for_records(3)
        assert 0 == server.stop()
    shown = {record["attributes"]["ext_authz.shadow_reason"] for record in records}
    assert {"denied_by_rule"} == shown
    with audit.open("ab") as file:
        file.write(b'{"cut')
    summary = json.loads(report(audit, "--json").stdout)
    assert (3, 1, 3, 3, 0) == tuple(
        summary[key] for key in ("records", "damaged_lines", "differences", "newly_denied", "newly_allowed")
    )
    [group] = summary["groups"]
    assert ("search", "allowed", "denied_by_rule", "deny.yaml:2", 3) == tuple(
        group[key] for key in ("action", "reason", "shadow_reason", "shadow_rule", "count")
    )
    assert group["decision_ids"] == [record["attributes"]["ext_authz.decision_id"] for record in records]
    text = report(audit)
    assert 0 == text.returncode
    assert text.stdout.startswith(
        "records: 3, differences: 3 (newly allowed: 0, newly denied: 3, other reason: 0)\nlines that are no records: 1\n"
    )
    assert group["decision_ids"][0] in text.stdout


def test_candidate_comes_and_goes(candidate: Path, tmp_path: Path) -> None:
    """A candidate that is not there, or broken, stops nothing; it is taken up when it is good, and the last good one stays."""
    directory = tmp_path / "shadow"
    with ServerProcess.running(DEFAULT_POLICY, shadow=str(directory)) as server:
        assert "allowed" == reason_of(server.check(QUESTION.message()))
        event, record = server.wait_for_records(2)
        assert ("shadow_policy_failed", "warning") == (event["name"], event["attributes"]["ext_authz.severity"])
        assert "ext_authz.shadow_reason" not in record["attributes"]

        candidate.rename(directory)
        server.wait_for_log("shadow policy loaded: ")
        assert "denied_by_rule" == _shadow_reason(server)

        good = (directory / "deny.yaml").read_text()
        (directory / "deny.yaml").write_text("kind: [")
        server.wait_for_log("event shadow_policy_failed", 2)
        assert "denied_by_rule" == _shadow_reason(server)

        (directory / "deny.yaml").write_text(good.replace("action: search", "action: fetch"))
        server.wait_for_log("shadow policy loaded", 2)
        assert None is _shadow_reason(server)
        assert 0 == server.stop()


def test_hangup_reloads_the_candidate(candidate: Path) -> None:
    """Without a watch SIGHUP takes up a change of the candidate as well."""
    with ServerProcess.running(DEFAULT_POLICY, shadow=str(candidate), watch=False) as server:
        assert "denied_by_rule" == _shadow_reason(server)
        (candidate / "deny.yaml").unlink()
        server.send(signal.SIGHUP)
        server.wait_for_log("shadow policy loaded", 2)
        assert None is _shadow_reason(server)


def _shadow_reason(server: ServerProcess) -> str | None:
    """Ask once, and return what the record says of the candidate."""
    decision_id = server.check(QUESTION.message()).dynamic_metadata["decision_id"]

    def found() -> dict[str, str] | None:
        lines = (record["attributes"] for record in server.records)
        return next((line for line in lines if line.get("ext_authz.decision_id") == decision_id), None)

    return server.wait_for(found, f"record {decision_id}").get("ext_authz.shadow_reason")


def test_report_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is exit code 2 and one line."""
    done = report(tmp_path / "none.jsonl")
    assert (2, f"{tmp_path / 'none.jsonl'}: cannot read: No such file or directory\n") == (done.returncode, done.stderr)
