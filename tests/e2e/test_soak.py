"""A minute in the life of the demo's world: load, rotating SVIDs and policy reloads at once, and nothing is lost."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from support.authorizers import DEFAULT_POLICY

from ext_authz.local.demo.calls import PLANNER, RETRIEVAL
from ext_authz.local.demo.world import World, running_world, spiffe_id

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.timeout(300)]

SOAK_SECONDS = 60.0
CALLERS = 4
ROTATION_SECONDS = 1.0
RELOAD_SECONDS = 0.7


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def reloading_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Run the demo's world on a policy that the test may edit."""
    policies = tmp_path_factory.mktemp("soak") / "policies"
    shutil.copytree(DEFAULT_POLICY, policies)
    async with running_world(policies) as world:
        yield world


async def _call(world: World, until: float) -> Counter[int]:
    """Search again and again on one connection to the planner's sidecar."""
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=world.outbound_url(PLANNER), timeout=10) as client:
        while time.monotonic() < until:
            answer = await client.post("/v1/search", headers={"host": RETRIEVAL}, json={"query": "revenue"})
            statuses[answer.status_code] += 1
    return statuses


async def _rotate(world: World, until: float) -> set[int]:
    serials = set()
    while time.monotonic() < until:
        world.provider.rotate()
        serials.add(world.provider.svid(spiffe_id(RETRIEVAL)).serial_number)
        await asyncio.sleep(ROTATION_SECONDS)
    return serials


async def _reload(world: World, until: float) -> int:
    """Change the policy's text, and so its digest, again and again."""
    matrix = world.policies / "matrix.yaml"
    text, count = matrix.read_text(), 0
    while time.monotonic() < until:
        count += 1
        matrix.write_text(f"{text}\n# {count}\n")
        await asyncio.sleep(RELOAD_SECONDS)
    return count


def _digests(audit_file: Path) -> Counter[str]:
    records = [json.loads(line)["attributes"] for line in audit_file.read_text().splitlines()]
    return Counter(record["ext_authz.policy_digest"] for record in records)


async def test_nothing_is_lost_in_a_minute(reloading_world: World) -> None:
    """While SVIDs rotate every second and the policy changes all the time, every call is allowed and recorded."""
    until = time.monotonic() + SOAK_SECONDS
    calls = [asyncio.create_task(_call(reloading_world, until)) for _ in range(CALLERS)]
    serials, reloads = await asyncio.gather(_rotate(reloading_world, until), _reload(reloading_world, until))
    statuses: Counter[int] = sum([await call for call in calls], Counter())
    await asyncio.sleep(0.5)
    digests = _digests(reloading_world.audit_file)

    assert {200} == statuses.keys()
    assert len(serials) >= SOAK_SECONDS / ROTATION_SECONDS / 2
    assert len(digests) >= reloads / 2
    assert 2 * statuses[200] == digests.total(), "each search is two decisions: the search, and the read behind it"
