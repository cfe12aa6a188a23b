"""What the size of a policy costs: loading it, and deciding with it. A policy is loaded by a process of its own."""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.large_policies import LONG_CELL, SHORT_CELL, write_large

from bench import requests
from bench.snapshot import Discarded, snapshot
from ext_authz.authorizer import Authorizer
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.request import AuthorizationRequest, Context

CELLS = (10, 100, 1_000, 10_000, 100_000)
ROUTES = 10_000
WARM_UP = 500
CALLS = 5_000

_PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")
_RETRIEVER = SpiffeId.parse_workload("spiffe://agents.example.com/retrieval-agent")
_QUESTION = AuthorizationRequest(_PLANNER, "search", _RETRIEVER, Context(0))


@dataclass(frozen=True, slots=True)
class Scale:
    """One row: loading in seconds and megabytes, then microseconds a call at the median."""

    name: str
    load_seconds: float  # processor time
    load_megabytes: float  # the most that was held, beyond what the process had before
    route: float  # from method and path to the action
    evaluate: float  # the matrix alone
    check: float  # check(bytes) as a whole


def measure() -> Iterator[Scale]:
    """Measure policies of growing size, then one of long cells and one of many routes."""
    for cells in CELLS:
        yield _scale(f"{cells:,} cells", cells, SHORT_CELL)
    yield _scale(f"{CELLS[-1]:,} long cells", CELLS[-1], LONG_CELL)
    yield _scale(f"{ROUTES:,} routes", CELLS[0], SHORT_CELL, routes=ROUTES)


def _scale(name: str, cells: int, cell: str, *, routes: int = 0) -> Scale:
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder), cells, cell=cell, routes=routes)
        loading = subprocess.run(
            [sys.executable, "-m", "bench.scale", folder], capture_output=True, text=True, check=True
        )
        row = _decide(name, load(Path(folder)), "/v1/x1/1/parts/2" if routes else "/v1/search")
    return dataclasses.replace(row, **json.loads(loading.stdout))


def _decide(name: str, policy: Policy, path: str) -> Scale:
    check = Authorizer(dataclasses.replace(snapshot(), policy=policy), Discarded()).check
    method = "POST" if path == "/v1/search" else "GET"
    return Scale(
        name,
        load_seconds=0,
        load_megabytes=0,
        route=_median(lambda: policy.registry.routes.find(method, path, _RETRIEVER)),
        evaluate=_median(lambda: policy.matrix.evaluate(_QUESTION)),
        check=_median(lambda: check(requests.ALLOW)),
    )


def _median(call: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        call()
    times_ns = []
    for _ in range(CALLS):
        started = time.perf_counter_ns()
        call()
        times_ns.append(time.perf_counter_ns() - started)
    return statistics.median(times_ns) / 1000


def _load_alone(directory: Path) -> None:
    """Load a policy in this process, and print what that took."""
    unit = 1024 if sys.platform == "linux" else 1  # getrusage counts kilobytes on Linux, bytes elsewhere
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    load(directory)
    seconds, after = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"load_seconds": seconds, "load_megabytes": (after - before) * unit / 1e6}))


if __name__ == "__main__":
    _load_alone(Path(sys.argv[1]))
