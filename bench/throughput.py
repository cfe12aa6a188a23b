"""How many checks a second the server answers, beside a servicer that does nothing on the same transport.

Rounds alternate between the servers, so that a machine that slows down slows all of them; the ratio of medians counts.
"""

import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import requests
from bench.client import run_client
from bench.server import EMPTY, KINDS
from ext_authz.server.service import CHECK_METHOD, SERVICE_NAME

ROUNDS = 5
CALLS_PER_ROUND = 12_000
CONNECTIONS = 4
STREAMS = 16
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Throughput:
    """One row: checks a second by the median of all rounds, and its share of the empty servicer's."""

    name: str
    checks_per_second: float
    ratio: float


def load_generator() -> str:
    """Name what makes the load."""
    return "h2load" if shutil.which("h2load") else "gRPC client"


def measure() -> Iterator[Throughput]:
    """Measure every kind of server."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        frame = directory / "frame"
        # gRPC over HTTP/2: one byte "not compressed", four bytes of length, the message.
        frame.write_bytes(struct.pack(">BI", 0, len(requests.ALLOW)) + requests.ALLOW)
        sockets = {
            kind: stack.enter_context(_server(kind, directory / f"{index}.sock")) for index, kind in enumerate(KINDS)
        }
        for _ in range(ROUNDS):
            for kind in KINDS:
                rates[kind].append(_round(sockets[kind], frame))
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    for kind in KINDS:
        yield Throughput(kind, medians[kind], medians[kind] / medians[EMPTY])


@contextmanager
def _server(kind: str, socket: Path) -> Iterator[Path]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.server", kind, f"unix:{socket}"], stdout=subprocess.PIPE, text=True
    )
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{kind} did not start")
        yield socket
    finally:
        process.kill()
        process.wait(START_SECONDS)


def _round(socket: Path, frame: Path) -> float:
    """Make one round of load and return checks a second."""
    if shutil.which("h2load") is None:
        started = time.perf_counter()
        run_client(f"unix:{socket}", requests.ALLOW, CALLS_PER_ROUND, CONNECTIONS * STREAMS)
        return CALLS_PER_ROUND / (time.perf_counter() - started)
    command = [
        *("h2load", "-n", str(CALLS_PER_ROUND), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(frame)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers", "-B", f"unix:{socket}"),
        f"http://localhost/{SERVICE_NAME}/{CHECK_METHOD}",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    succeeded = re.search(r"(\d+) succeeded, (\d+) failed", output)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    if succeeded is None or rate is None or int(succeeded[1]) != CALLS_PER_ROUND:
        raise RuntimeError(f"not every call succeeded:\n{output}")
    return float(rate[1])
