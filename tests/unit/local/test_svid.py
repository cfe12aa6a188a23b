"""Snapshots of a workload's identity, and the feed that publishes them."""

import asyncio
from dataclasses import replace

import pytest

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.svid import IdentityFeed, IdentityState

PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")


@pytest.fixture
def state() -> IdentityState:
    own, partner, acme = (DevelopmentCa.create(name) for name in ("agents.example.com", "partner.test", "acme.test"))
    federated = {"acme.test": acme.bundle, "partner.test": partner.bundle}
    return IdentityState(version=1, svid=own.issue(PLANNER), bundle=own.bundle, federated_bundles=federated)


def test_bundles_are_all_known_ones_by_name(state: IdentityState) -> None:
    """The own bundle stands among the federated ones, in the order of the names."""
    assert ["acme.test", "agents.example.com", "partner.test"] == list(state.bundles)
    assert state.bundle == state.bundles["agents.example.com"]


async def test_reader_gets_the_current_state_at_once(state: IdentityState) -> None:
    """A new reader does not wait for a change."""
    assert state is await IdentityFeed(state).newer_than(0)


async def test_every_reader_is_woken_by_a_newer_state(state: IdentityState) -> None:
    """One publication reaches all that wait."""
    feed, newer = IdentityFeed(state), replace(state, version=2)
    readers = [asyncio.create_task(feed.newer_than(1)) for _ in range(3)]
    await asyncio.sleep(0)
    feed.publish(newer)
    assert [newer] * 3 == await asyncio.gather(*readers)


async def test_slow_reader_skips_to_the_newest(state: IdentityState) -> None:
    """Who reads late gets the last state only, then the end when the feed closes."""
    feed = IdentityFeed(state)
    states = feed.states()
    seen = [(await anext(states)).version]
    for version in (2, 3, 4):
        feed.publish(replace(state, version=version))
    seen.append((await anext(states)).version)
    feed.close()
    assert [1, 4] == seen + [state.version async for state in states]


async def test_closing_wakes_a_waiting_reader(state: IdentityState) -> None:
    """A reader that waits learns that nothing more will come."""
    feed = IdentityFeed(state)
    reader = asyncio.create_task(feed.newer_than(1))
    await asyncio.sleep(0)
    feed.close()
    assert await reader is None
