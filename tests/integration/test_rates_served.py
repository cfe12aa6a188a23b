"""Rates in a real server: what goes beyond is 429 with a time, in every form, and a reload forgets nothing."""

import json
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.authorizers import reason_of
from support.check_requests import QUESTION, TRUST_DOMAIN, agent
from support.server_process import ServerProcess, check

POLICY = f"""\
kind: PermissionMatrix
trust_domain: {TRUST_DOMAIN}
matrix:
  planner-agent:
    retrieval-agent: {{actions: [search], rate: 5/h}}
---
kind: ActionRegistry
actions: {{search: {{http: ["POST /v1/search"]}}}}
---
kind: Limits
unknown_callers: 3/h
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Make a policy directory."""
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "policy.yaml").write_text(POLICY)
    return directory


def test_rates(policies: Path) -> None:
    """Exactly as many calls pass as the rate says, however many come at once; the others hear when to come again."""
    grpc = QUESTION.but(without=["content-type"], headers=[("content-type", "application/grpc")]).message()
    stranger = QUESTION.but(caller=agent("stranger")).message()
    with ServerProcess.running(policies, watch=False) as server:
        with server.channel() as channel, ThreadPoolExecutor(8) as pool:
            flood = Counter(pool.map(lambda _: reason_of(check(channel, stranger)), range(40)))
            calls = Counter(pool.map(lambda _: reason_of(check(channel, QUESTION.message())), range(40)))
            assert {"not_in_matrix": 3, "rate_exceeded": 37} == flood
            assert {"allowed": 5, "rate_exceeded": 35} == calls
            for message, is_json in ((QUESTION.message(), True), (grpc, False)):
                answer = check(channel, message)
                headers = {option.header.key: option.header.value for option in answer.denied_response.headers}
                assert (429, 8) == (answer.denied_response.status.code, answer.status.code)
                assert 0 < int(headers["retry-after"]) <= 720
                body = answer.denied_response.body
                assert "rate_exceeded" == (json.loads(body)["reason"] if is_json else body.partition(":")[0])
            (policies / "policy.yaml").write_text(f"# A line more.\n{POLICY}")
            server.send(signal.SIGHUP)
            server.wait_for_log("policy reloaded: 1 grants")
            assert "rate_exceeded" == reason_of(check(channel, QUESTION.message()))
        records = server.wait_for_records(83)
        assert 75 == sum(record["attributes"]["ext_authz.reason"] == "rate_exceeded" for record in records)
        assert "policy.yaml:6" == records[-1]["attributes"]["ext_authz.grant"]
