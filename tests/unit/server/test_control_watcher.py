"""The control store as a running server follows it, look by look."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_authz.server.control import PURGE_SECONDS, ControlWatcher
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind
from ext_authz.stores.snapshot import ControlSnapshot

NOW = 1_795_299_009.5
ID = "3kTMd5vPqXzWnL2aYcR8ug"
AGENT = "spiffe://agents.example.com/planner-agent"


class Watched:
    """A watcher with clocks that a test moves, and what it published."""

    def __init__(self, path: Path) -> None:
        self.passed = 0.0
        self.published: list[ControlSnapshot] = []
        self.store = ControlStore.open(path)
        self.watcher = ControlWatcher(
            self.store,
            self.store.snapshot(NOW),
            self.published.append,
            clock=lambda: NOW + self.passed,
            timer=lambda: 1000 + self.passed,
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
def operator(path: Path) -> Iterator[ControlStore]:
    """Return the store as the command line has it."""
    with ControlStore.open(path, create=True) as opened:
        yield opened


@pytest.fixture
def watched(path: Path, operator: ControlStore) -> Iterator[Watched]:
    watched = Watched(path)
    yield watched
    watched.store.close()


async def test_nothing_is_published_without_a_change(watched: Watched) -> None:
    """A look that finds what was there moves the time at which it was known to hold."""
    before = watched.watcher.current
    watched.passed = 5
    assert await watched.watcher.look()
    assert [] == watched.published
    assert (before.version, NOW + 5) == (watched.watcher.current.version, watched.watcher.current.read_at)
    assert 0 == watched.watcher.age_seconds


async def test_a_change_is_published_once(watched: Watched, operator: ControlStore) -> None:
    """Each change reaches the decisions with the next look, as a whole."""
    operator.add(Entry.new(Kind.TOKEN_ID, ID, NOW), Entry.new(Kind.QUARANTINE, AGENT, NOW))
    assert await watched.watcher.look()
    assert await watched.watcher.look()
    assert [{ID}] == [snapshot.revocations.token_ids for snapshot in watched.published]
    assert [1] == [len(snapshot.quarantined) for snapshot in watched.published]


async def test_a_use_of_a_token_is_no_change(watched: Watched, operator: ControlStore) -> None:
    """Consumed tokens stand in the same file and make no server load the entries."""
    operator.consume_once(ID, ID, NOW + 60)
    assert await watched.watcher.look()
    assert [] == watched.published


async def test_a_failure_keeps_what_was_in_force(
    watched: Watched, operator: ControlStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the file the last state stays, grows old, and one line in the log says so; then it is followed again."""
    caplog.set_level(logging.INFO)
    operator.add(Entry.new(Kind.TOKEN_ID, ID, NOW))
    await watched.watcher.look()
    hidden = path.rename(path.with_name("hidden.db"))  # noqa: ASYNC240  one file on this machine
    watched.passed = 5
    assert [False, False] == [await watched.watcher.look() for _ in range(2)]
    assert {ID} == watched.watcher.current.revocations.token_ids
    assert (5, NOW) == (watched.watcher.age_seconds, watched.watcher.current.read_at)
    hidden.rename(path)
    assert await watched.watcher.look()
    assert 0 == watched.watcher.age_seconds
    failures = [record.getMessage() for record in caplog.records if "changed" not in record.getMessage()]
    assert [
        f"control store failed, what was in force stays: {path}: no such file: servers make it when they start",
        "control store works again",
    ] == failures


async def test_what_cannot_be_published_is_tried_again(
    watched: Watched, operator: ControlStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A change counts as seen when decisions use it, not before; the text of a foreign error is not repeated."""

    def fail(_: ControlSnapshot) -> None:
        raise RuntimeError("secret")

    operator.add(Entry.new(Kind.TOKEN_ID, ID, NOW))
    watched.watcher._publish = fail
    assert not await watched.watcher.look()
    watched.watcher._publish = watched.published.append
    assert await watched.watcher.look()
    assert 1 == len(watched.published)
    assert ["control store failed, what was in force stays: RuntimeError"] == caplog.messages


async def test_what_has_ended_is_purged(watched: Watched, operator: ControlStore) -> None:
    """Once a minute ended rows are removed, and the entry leaves the snapshot."""
    operator.add(Entry.new(Kind.TOKEN_ID, ID, NOW, keep_seconds=1))
    await watched.watcher.look()
    watched.passed = PURGE_SECONDS - 1
    await watched.watcher.look()
    assert 1 == len(operator.entries())
    watched.passed = PURGE_SECONDS
    await watched.watcher.look()
    assert [] == operator.entries()
    assert [{ID}, frozenset()] == [snapshot.revocations.token_ids for snapshot in watched.published]


async def test_a_clock_that_is_set_does_not_make_it_younger(watched: Watched) -> None:
    """The age counts on a clock that nobody sets."""
    watched.watcher._clock = lambda: NOW - 3600
    watched.passed = 7
    assert 7 == watched.watcher.age_seconds
