"""Large policies: what loading may take, and what a decision may not."""

import gc
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.large_policies import LONG_CELL, SHORT_CELL, write_large
from support.server_process import server_environment

from ext_authz.garbage import collection_paused
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import load
from ext_authz.policy.request import AuthorizationRequest, Context

CELLS = 100_000
MAX_LOAD_BYTES = 400 * 1000 * 1000
# A stop for the whole process, far above what loading takes, so that a loader that became quadratic fails.
MAX_SECONDS = 60

LOAD_WITHIN_LIMITS = f"""
import resource, sys
from pathlib import Path
from ext_authz.policy.compile import load
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {MAX_LOAD_BYTES},) * 2)
print(load(Path(sys.argv[1])).grant_count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited and measured as Linux does it")
@pytest.mark.parametrize("cell", [SHORT_CELL, LONG_CELL], ids=["short", "long"])
def test_a_hundred_thousand_cells_within_limits(tmp_path: Path, cell: str) -> None:
    """A process that may take 400 MB for it loads 100,000 cells of 1,000 agents."""
    outcome = subprocess.run(
        [sys.executable, "-c", LOAD_WITHIN_LIMITS, str(write_large(tmp_path, CELLS, cell=cell))],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS * 2,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS)),
    )
    assert (0, f"{2 * CELLS}\n", "") == (outcome.returncode, outcome.stdout, outcome.stderr)


@pytest.mark.parametrize("cells", [1, 10, 1_001, 2_500])
def test_large_policy_has_the_size_that_is_asked_for(tmp_path: Path, cells: int) -> None:
    """The policies that measurements rest on hold as many cells as they say, each with two actions."""
    policy = load(write_large(tmp_path, cells))
    planner, retriever = (
        SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}") for name in ("planner-agent", "retrieval-agent")
    )
    assert cells * 2 == policy.grant_count
    assert policy.matrix.evaluate(AuthorizationRequest(planner, "search", retriever, Context(0))).grants


def test_collection_is_paused_only_meanwhile() -> None:
    """The collector is back afterwards, also when loading fails, and stays off where it was off."""
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="broken"), collection_paused():
        raise ValueError("broken")
    assert gc.isenabled()
