"""A thousand policy reloads under load: no error, no leak."""

import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION
from support.server_process import ServerProcess, check

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

RELOADS = 1000
# Megabytes that the process may grow by between the hundredth reload and the last: less than a kilobyte a reload would
# still show.
MAX_GROWTH_MIB = 12


def _resident_mib(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * 4096 / 1024 / 1024


def test_thousand_reloads(tmp_path: Path) -> None:
    """Every check is allowed while the policy is replaced a thousand times, and memory stays where it was."""
    policies = tmp_path / "policies"
    shutil.copytree(DEFAULT_POLICY, policies)
    text = (policies / "matrix.yaml").read_text()
    answers: Counter[str] = Counter()
    done = threading.Event()
    with ServerProcess.running(policies, watch=False, audit_file="/dev/null") as server:

        def load() -> None:
            with server.channel() as channel:
                while not done.is_set():
                    answers[reason_of(check(channel, QUESTION.message()))] += 1

        caller = threading.Thread(target=load)
        caller.start()
        try:
            early = 0.0
            for number in range(1, RELOADS + 1):
                (policies / "matrix.yaml").write_text(f"{text}\n# {number}\n")
                server.send(signal.SIGHUP)
                server.wait_for_log("policy reloaded", number)
                if number == RELOADS // 10:
                    early = _resident_mib(server.process.pid)
            late = _resident_mib(server.process.pid)
        finally:
            done.set()
            caller.join()

    assert {"allowed"} == answers.keys()
    assert answers["allowed"] > RELOADS
    assert late - early < MAX_GROWTH_MIB
