"""One-time tokens on the event loop."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from ext_authz.stores.control import ControlStore, OneTimeUse
from ext_authz.stores.database import StoreError
from ext_authz.stores.entry import EntryError
from ext_authz.stores.once import OnceRegister

NOW = 1_795_299_009.5
ID = "3kTMd5vPqXzWnL2aYcR8ug"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "control.db"
    ControlStore.open(path, create=True).close()
    return path


@pytest.fixture
async def register(path: Path) -> AsyncIterator[OnceRegister]:
    register = OnceRegister.open(path)
    yield register
    await register.close()


async def test_the_first_use_counts(register: OnceRegister) -> None:
    """One use after the other: the first wins."""
    assert [True, False] == [await register.consume_once(ID, ID, NOW) for _ in range(2)]


async def test_uses_at_one_time(register: OnceRegister) -> None:
    """Of a hundred uses of ten chains at one time, each chain's first wins."""
    uses = [register.consume_once(ID, f"{ID}{n % 10}", NOW) for n in range(100)]
    assert [n < 10 for n in range(100)] == await asyncio.gather(*uses)


async def test_uses_that_wait_share_a_transaction(register: OnceRegister, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is written once for all that wait."""
    batches: list[int] = []
    consume = register._store.consume

    def counted(uses: Sequence[OneTimeUse]) -> list[bool]:
        batches.append(len(uses))
        return consume(uses)

    monkeypatch.setattr(register._store, "consume", counted)
    await asyncio.gather(*(register.consume_once(ID, f"{ID}{n}", NOW) for n in range(50)))
    assert [50] == batches


async def test_everyone_hears_of_a_failure(register: OnceRegister, path: Path) -> None:
    """When it cannot be known whether a token was used, whoever asked gets an error; later it works again."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(
        *(register.consume_once(ID, f"{ID}{n}", NOW) for n in range(3)), return_exceptions=True
    )
    other.close()
    assert [StoreError] * 3 == [type(outcome) for outcome in outcomes]
    assert await register.consume_once(ID, ID, NOW)


async def test_a_bad_id_fails_alone(register: OnceRegister) -> None:
    """An id that no token has does not fail those that wait beside it."""
    good, bad = await asyncio.gather(
        register.consume_once(ID, ID, NOW), register.consume_once(ID, "short", NOW), return_exceptions=True
    )
    assert (True, EntryError) == (good, type(bad))


async def test_a_caller_that_gave_up_in_time_uses_nothing(register: OnceRegister) -> None:
    """Who is cancelled before the transaction begins has not used the token."""
    gave_up = asyncio.create_task(register.consume_once(ID, ID, NOW))
    await asyncio.sleep(0)
    gave_up.cancel()
    await asyncio.wait([gave_up])
    assert await register.consume_once(ID, ID, NOW)


@pytest.mark.parametrize("locked", [False, True])
async def test_a_caller_that_gives_up_later_does_not_hinder_others(
    register: OnceRegister, path: Path, *, locked: bool
) -> None:
    """A caller's deadline passes while the disk is written: the others get their answer or error."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE" if locked else "BEGIN")
    gives_up = asyncio.create_task(register.consume_once(ID, ID, NOW))
    stays = asyncio.create_task(register.consume_once(ID, f"{ID}2", NOW))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the transaction has begun in its thread
    gives_up.cancel()
    outcome, _ = await asyncio.gather(stays, gives_up, return_exceptions=True)
    other.close()
    assert (StoreError if locked else bool) is type(outcome)


async def test_closing_finishes_what_was_begun(path: Path) -> None:
    """A use that waits is answered before the file is closed."""
    register = OnceRegister.open(path)
    use = asyncio.create_task(register.consume_once(ID, ID, NOW))
    await asyncio.sleep(0)
    await register.close()
    assert use.done()
    assert await use


def test_a_register_does_not_create(tmp_path: Path) -> None:
    """Without a store nothing can be consumed."""
    with pytest.raises(StoreError, match="no such file"):
        OnceRegister.open(tmp_path / "control.db")
