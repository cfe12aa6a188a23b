"""Metrics of a real server, scraped over HTTP and read with Prometheus' own parser."""

import re
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.authorizers import DEFAULT_POLICY, default_policy
from support.check_requests import QUESTION, agent
from support.server_process import ServerProcess, health, refused_start

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

POLICY_HEALTH = "ext_authz.policy"


def url_of(server: ServerProcess) -> str:
    """Return where a server shows its metrics."""
    found = server.wait_for(lambda: re.search(r"metrics on (http://\S+)", server.log), "metrics")
    return found[1]


def scrape(server: ServerProcess) -> Samples:
    """Read every sample; one that stands twice or breaks the format is an error."""
    response = httpx.get(url_of(server), trust_env=False)
    assert 200 == response.status_code
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample of ours."""
    return samples[f"ext_authz_{name}", frozenset(labels.items())]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Copy the default policy."""
    directory = tmp_path / "policies"
    shutil.copytree(DEFAULT_POLICY, directory)
    return directory


def test_metrics(policies: Path, tmp_path: Path) -> None:
    """Decisions, durations, policy, audit and limits are there; numbers rise as calls are made."""
    store = str(tmp_path / "store" / "control.db")
    with ServerProcess.running(policies, watch=False, metrics_listen="127.0.0.1:0", control_store=store) as server:
        before = scrape(server)
        for question in (QUESTION, QUESTION, QUESTION.but(caller=agent("nobody"))):
            server.check(question.message())
        after = scrape(server)
    assert 0 == value(before, "decisions_total", outcome="allow", reason="allowed")
    assert 2 == value(after, "decisions_total", outcome="allow", reason="allowed")
    assert 1 == value(after, "decisions_total", outcome="deny", reason="not_in_matrix")
    assert 0 == value(after, "decisions_total", outcome="error", reason="internal_error")
    assert 3 == value(after, "decision_duration_seconds_count")
    assert 3 == value(after, "decision_duration_seconds_bucket", le="+Inf")
    assert 0 < value(after, "decision_duration_seconds_sum") < 10
    assert 0 == value(after, "unanswered_checks_total")
    assert 0 == value(after, "policy_reload_failed")
    assert default_policy().grant_count == value(after, "policy_grants")
    assert 1_700_000_000 < value(after, "policy_loaded_timestamp_seconds")
    assert 0 <= value(after, "control_store_age_seconds") < 60
    assert 8192 == value(after, "audit_max_waiting_records")
    assert 0 == value(after, "audit_refused_records_total")
    assert 0 == value(after, "limit_keys", limit="cell")
    assert ("process_resident_memory_bytes", frozenset()) in after


def test_reload_that_fails(policies: Path) -> None:
    """While the active policy is not what the directory says, gauge and health say so; the event stands in the records."""
    with ServerProcess.running(policies, watch=False, metrics_listen="127.0.0.1:0") as server:
        digest = _digest(scrape(server))
        good = (policies / "matrix.yaml").read_text()
        (policies / "matrix.yaml").write_text("kind: [")
        server.send(signal.SIGHUP)
        server.wait_for_log("event policy_reload_failed")
        with server.channel() as channel:
            assert ("SERVING", "NOT_SERVING") == (health(channel), health(channel, POLICY_HEALTH))
        samples = scrape(server)
        assert (1, 1) == (value(samples, "policy_reload_failed"), value(samples, "policy_reload_failures_total"))
        assert digest == _digest(samples)
        [event] = server.wait_for_records(1)
        assert ("policy_reload_failed", 1) == (event["name"], event["attributes"]["ext_authz.problem_count"])
        assert event["attributes"]["ext_authz.problems"][0].startswith(f"{policies / 'matrix.yaml'}:2:1: not YAML")
        assert digest == event["attributes"]["ext_authz.policy_digest"]

        (policies / "matrix.yaml").write_text(f"{good}# changed\n")
        server.send(signal.SIGHUP)
        server.wait_for_log("policy reloaded")
        with server.channel() as channel:
            assert "SERVING" == health(channel, POLICY_HEALTH)
        samples = scrape(server)
        assert (0, 1) == (value(samples, "policy_reload_failed"), value(samples, "policy_reload_failures_total"))
        assert digest != _digest(samples)


def _digest(samples: Samples) -> str:
    [labels] = [labels for name, labels in samples if name == "ext_authz_policy_info"]
    return dict(labels)["digest"]


def test_silent_client_holds_up_nobody(policies: Path) -> None:
    """Connections that say nothing do not keep others from metrics, nor the server from stopping."""
    with ServerProcess.running(policies, metrics_listen="127.0.0.1:0") as server:
        port = httpx.URL(url_of(server)).port
        silent = [socket.create_connection(("127.0.0.1", port or 0)) for _ in range(20)]
        assert scrape(server)
        assert 0 == server.stop()
        for each in silent:
            each.close()


def test_address_in_use(policies: Path) -> None:
    """A server whose metrics find no place does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert (2, f"metrics_listen: cannot bind `{address}`: Address already in use\n") == refused_start(
            policies, metrics_listen=address
        )
