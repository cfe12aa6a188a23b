"""The life of a server: limits while it runs, and an end that loses nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION
from support.server_process import PATIENCE_SECONDS, ServerProcess, check, health, start_check

from ext_authz.pb.external_auth_pb2 import CheckResponse

# What Kubernetes, with its default of 30 s, and a person who pressed Ctrl-C wait without complaint.
MAX_STOP_SECONDS = 10
BURST = 300


def watch_health(channel: Any) -> Any:
    """Watch the health of the server: a call that goes on for as long as the server does."""
    return HealthStub(channel).Watch(HealthCheckRequest(), timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(("number", "sink"), [(signal.SIGTERM, "file"), (signal.SIGINT, "stdout")])
def test_end_answers_what_was_asked_and_writes_every_record(tmp_path: Path, number: signal.Signals, sink: str) -> None:
    """Of a burst that a signal interrupts each check is either answered and recorded, or neither; the exit code is 0."""
    settings: dict[str, Any] = {"audit_file": str(tmp_path / "records.jsonl")} if sink == "file" else {}
    with ServerProcess.running(DEFAULT_POLICY, **settings) as server:
        with server.channel() as channel:
            assert check(channel, QUESTION.message()).status.code == 0
            calls = [start_check(channel, QUESTION.message()) for _ in range(BURST)]
            calls[0].result(PATIENCE_SECONDS)
            began = time.monotonic()
            server.send(number)
            answered = [answer for call in calls if (answer := answer_of(call))]
        assert server.wait() == 0
        assert time.monotonic() - began < MAX_STOP_SECONDS
        ids = [record["attributes"]["ext_authz.decision_id"] for record in server.records[1:]]
        assert sorted(ids) == sorted(str(answer.dynamic_metadata["decision_id"]) for answer in answered)
        assert list((server.directory / "run").iterdir()) == []
        assert server.log.splitlines()[-1].endswith("info    ext_authz.server.run: stopped")


def answer_of(call: Any) -> CheckResponse | None:
    """Return the answer to a call, or None when the server had stopped taking calls."""
    try:
        return CheckResponse.FromString(call.result(PATIENCE_SECONDS))
    except grpc.RpcError as error:
        assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}  # noqa: PT017  or the answer
        return None


def test_end_waits_for_records_that_are_not_written_yet(tmp_path: Path) -> None:
    """Records that a slow reader holds up are written before the process ends."""
    pipe = tmp_path / "records"
    os.mkfifo(pipe)
    with (
        os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader,
        ServerProcess.running(DEFAULT_POLICY, audit_file=str(pipe)) as server,
    ):
        with server.channel() as channel:
            calls = [start_check(channel, QUESTION.message()) for _ in range(BURST)]
            answers = [CheckResponse.FromString(call.result(PATIENCE_SECONDS)) for call in calls]
        server.send(signal.SIGTERM)
        server.wait_for_log("draining")
        with pytest.raises(subprocess.TimeoutExpired):  # a pipe holds 64 KiB, far less than the burst
            server.process.wait(0.5)
        os.set_blocking(reader.fileno(), True)
        ids = [json.loads(line)["attributes"]["ext_authz.decision_id"] for line in reader]
        assert server.wait() == 0
    assert sorted(ids) == sorted(str(answer.dynamic_metadata["decision_id"]) for answer in answers)


def test_health_while_draining() -> None:
    """Who watches sees NOT_SERVING before the end, and cannot hold it up for longer than `drain_seconds`."""
    with ServerProcess.running(DEFAULT_POLICY, drain_seconds=1) as server, server.channel() as channel:
        states = watch_health(channel)
        assert HealthCheckResponse.SERVING == next(states).status
        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert HealthCheckResponse.NOT_SERVING == next(states).status
        server.send(signal.SIGTERM)  # impatience changes nothing
        assert server.wait() == 0
        assert time.monotonic() - began < MAX_STOP_SECONDS


def test_checks_beyond_the_limit_are_refused() -> None:
    """One call more than `max_concurrent_checks` is refused at once, and taken again when there is room."""
    with ServerProcess.running(DEFAULT_POLICY, max_concurrent_checks=2) as server, server.channel() as channel:
        watches = [watch_health(channel) for _ in range(2)]
        assert [HealthCheckResponse.SERVING] * 2 == [next(watch).status for watch in watches]
        for ask in (lambda: check(channel, QUESTION.message()), lambda: health(channel)):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert grpc.StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
        watches[0].cancel()
        server.wait_for(lambda: is_allowed(channel), "room for a check")


def is_allowed(channel: Any) -> bool:
    """Whether a check is taken and allowed."""
    try:
        return reason_of(check(channel, QUESTION.message())) == "allowed"
    except grpc.RpcError:
        return False
