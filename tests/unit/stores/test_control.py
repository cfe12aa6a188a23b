"""The control store in one process: what it says, what it refuses, and how it fails."""

import math
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.stores import control
from ext_authz.stores.control import ControlStore, OneTimeUse
from ext_authz.stores.database import StoreError
from ext_authz.stores.entry import Entry, EntryError, Kind
from ext_authz.stores.schema import VERSION
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations

NOW = 1_795_299_009.5
AGENT = "spiffe://agents.example.com/planner-agent"
ID = "3kTMd5vPqXzWnL2aYcR8ug"
OTHER_ID = "b1Qe7ZxTnVkLw0sUjH4yCg"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control" / "control.db"


@pytest.fixture
def store(path: Path) -> Iterator[ControlStore]:
    with ControlStore.open(path, create=True, busy_seconds=0.05) as opened:
        yield opened


def connect(path: Path) -> sqlite3.Connection:
    """Open the file behind the store's back."""
    return sqlite3.connect(path, isolation_level=None)


def token(value: str = ID, **properties: float) -> Entry:
    return Entry.new(Kind.TOKEN_ID, value, NOW, **properties)  # type: ignore[arg-type]


# --- what it says


def test_an_empty_store_says_nothing(store: ControlStore) -> None:
    """Verification knows by the one object that there is nothing to look up."""
    snapshot = store.snapshot(NOW)
    assert ({}, {}, NOW) == (snapshot.quarantined, snapshot.quarantined_sessions, snapshot.read_at)
    assert NO_REVOCATIONS is snapshot.revocations


def test_every_kind_reaches_the_snapshot(store: ControlStore) -> None:
    """Each kind of entry stands where verification looks for it."""
    store.add(
        token(),
        Entry.new(Kind.SESSION_ID, OTHER_ID, NOW),
        Entry.new(Kind.KEY_ID, "sts-2026-11", NOW),
        Entry.new(Kind.CERTIFICATE, "ab" * 32, NOW),
        Entry.new(Kind.SUBJECT, "user:4711", NOW, mark_at=int(NOW) - 60),
        Entry.new(Kind.WORKLOAD, AGENT, NOW, mark_at=int(NOW) - 90),
        Entry.new(Kind.QUARANTINE, AGENT, NOW),
        Entry.new(Kind.QUARANTINE, ID, NOW, keep_seconds=60),
    )

    snapshot = store.snapshot(NOW)

    planner = SpiffeId.parse_workload(AGENT)
    assert snapshot.revocations == Revocations(
        token_ids=frozenset({ID}),
        session_ids=frozenset({OTHER_ID}),
        key_ids=frozenset({"sts-2026-11"}),
        certificates=frozenset({bytes.fromhex("ab" * 32)}),
        subjects={"user:4711": int(NOW) - 60},
        workloads={planner: int(NOW) - 90},
    )
    assert {planner: math.inf} == snapshot.quarantined
    assert {ID: NOW + 60} == snapshot.quarantined_sessions


def test_what_has_ended_is_not_in_a_snapshot(store: ControlStore) -> None:
    """At its end an entry is out of force, purged or not."""
    store.add(token(keep_seconds=10))
    assert [{ID}, frozenset()] == [store.snapshot(NOW + passed).revocations.token_ids for passed in (9, 10)]


def test_adding_again_never_weakens(store: ControlStore) -> None:
    """Of two quarantines the longer one counts, in whichever order they come."""
    store.add(Entry.new(Kind.QUARANTINE, AGENT, NOW, keep_seconds=3600, because="first"))

    (in_force,) = store.add(Entry.new(Kind.QUARANTINE, AGENT, NOW + 5, keep_seconds=60))

    assert Entry(Kind.QUARANTINE, AGENT, None, NOW + 3600, "first", NOW + 5) == in_force
    assert [in_force] == store.entries()


def test_adding_after_lifting_starts_anew(store: ControlStore) -> None:
    """What was lifted does not come back with the next entry."""
    store.add(Entry.new(Kind.QUARANTINE, AGENT, NOW))
    store.lift(Kind.QUARANTINE, AGENT, NOW + 1)
    (in_force,) = store.add(Entry.new(Kind.QUARANTINE, AGENT, NOW + 2, keep_seconds=60))
    assert NOW + 62 == in_force.keep_until


def test_adding_is_all_or_nothing(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one entry cannot be added, none is."""
    monkeypatch.setattr(control, "MAX_ENTRIES", 1)
    with pytest.raises(StoreError, match="as many as it may"):
        store.add(token(ID), token(OTHER_ID))
    assert [] == store.entries()


def test_lift(store: ControlStore) -> None:
    """A lifted entry is out of force and can still be listed; it can be lifted once."""
    store.add(token())
    assert [True, False] == [store.lift(Kind.TOKEN_ID, ID, NOW + passed) for passed in (1, 2)]
    assert NO_REVOCATIONS is store.snapshot(NOW + 1).revocations
    assert [NOW + 1] == [entry.lifted_at for entry in store.entries()]


def test_lifting_what_has_ended(store: ControlStore) -> None:
    """There is nothing to lift in an entry that ended by itself, or was never there."""
    store.add(token(keep_seconds=10))
    assert [False, False] == [store.lift(Kind.TOKEN_ID, value, NOW + 10) for value in (ID, OTHER_ID)]


def test_entries_of_some_kinds(store: ControlStore) -> None:
    """A list holds the kinds that are asked for, the oldest entry first."""
    later = Entry.new(Kind.TOKEN_ID, OTHER_ID, NOW + 1)
    store.add(later, Entry.new(Kind.QUARANTINE, AGENT, NOW), token())
    assert [token(), later] == store.entries({Kind.TOKEN_ID})


def test_purge_keeps_what_can_still_match(store: ControlStore) -> None:
    """Rows go when their time is over by more than the leeway; a clock may be set back by so much."""
    store.add(token(keep_seconds=10))
    store.consume_once(ID, OTHER_ID, NOW + 10)
    assert [0, 2, 0] == [store.purge(NOW + passed) for passed in (39.9, 40, 41)]


def test_purge_forgets_lifted_entries_after_a_day(store: ControlStore) -> None:
    """A lifted entry that would never end does not stay for ever."""
    store.add(Entry.new(Kind.KEY_ID, "sts", NOW))
    store.lift(Kind.KEY_ID, "sts", NOW)
    assert [0, 1] == [store.purge(NOW + passed) for passed in (86_399, 86_400)]


def test_purge_goes_on_until_all_is_gone(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are removed a few at a time, and in the end all."""
    monkeypatch.setattr(control, "PURGED_AT_ONCE", 2)
    store.consume([OneTimeUse(ID, f"{OTHER_ID}{n}", NOW) for n in range(5)])
    assert 5 == store.purge(NOW + 60)


def test_lifted_entries_make_room(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store takes a new entry once one is lifted."""
    monkeypatch.setattr(control, "MAX_ENTRIES", 1)
    store.add(token(ID))
    store.lift(Kind.TOKEN_ID, ID, NOW)
    assert [token(OTHER_ID)] == store.add(token(OTHER_ID)) == store.entries()


def test_a_full_store_still_changes_what_it_has(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is there can be made longer."""
    monkeypatch.setattr(control, "MAX_ENTRIES", 1)
    store.add(token(keep_seconds=10))
    assert [NOW + 20] == [entry.keep_until for entry in store.add(token(keep_seconds=20))]


# --- the version


def test_the_version_moves_with_entries_only(store: ControlStore) -> None:
    """Servers that consume tokens do not make each other load all entries again."""
    versions = [store.version()]
    store.consume_once(ID, OTHER_ID, NOW + 60)
    versions.append(store.version())
    store.add(token())
    versions.append(store.version())
    store.lift(Kind.TOKEN_ID, ID, NOW)
    versions.append(store.version())
    store.purge(NOW + 90_000)
    versions.append(store.version())
    assert versions[0] == versions[1]
    assert 4 == len(set(versions))
    assert versions[-1] == store.snapshot(NOW).version


def test_the_version_moves_whoever_changes_the_file(store: ControlStore, path: Path) -> None:
    """A row that another tool removes is seen as well."""
    store.add(token())
    before = store.version()
    other = connect(path)
    other.execute("DELETE FROM entries")
    other.close()
    assert before != store.version()


def test_a_file_put_in_its_place_is_opened(store: ControlStore, path: Path) -> None:
    """Entries are never read from a file that has no name any more."""
    before = store.version()
    with ControlStore.open(path.with_name("other.db"), create=True) as other:
        other.add(token())
    path.with_name("other.db").rename(path)

    assert before != store.version()
    assert {ID} == store.snapshot(NOW).revocations.token_ids


def test_a_removed_file_is_an_error(store: ControlStore, path: Path) -> None:
    """Without its file a store says nothing, least of all that nothing is revoked."""
    path.unlink()
    with pytest.raises(StoreError, match="no such file"):
        store.snapshot(NOW)


# --- one-time tokens


def test_consume_once(store: ControlStore) -> None:
    """The first use of a chain counts, whatever its time; another leaf is another chain."""
    uses = [(ID, OTHER_ID), (ID, OTHER_ID), (OTHER_ID, ID), (ID, ID)]
    assert [True, False, True, True] == [store.consume_once(root, leaf, NOW) for root, leaf in uses]


def test_consume_in_one_transaction(store: ControlStore) -> None:
    """Of two equal uses in one batch the first wins."""
    assert [True, False] == store.consume([OneTimeUse(ID, OTHER_ID, NOW)] * 2)


def test_consuming_is_bounded(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no more can be remembered, nothing is consumed, and old uses make room."""
    monkeypatch.setattr(control, "MAX_CONSUMED", 1)
    assert store.consume_once(ID, OTHER_ID, NOW)
    with pytest.raises(StoreError, match="as many as it may"):
        store.consume_once(OTHER_ID, ID, NOW)
    store.purge(NOW + 60)
    assert store.consume_once(OTHER_ID, ID, NOW)


def test_a_use_names_tokens() -> None:
    """What cannot be a token's id is not written down."""
    with pytest.raises(EntryError):
        OneTimeUse(ID, "short", NOW).check()


# --- the file


def test_the_file_is_for_one_user(store: ControlStore, path: Path) -> None:
    """Nobody else reads who is revoked, or changes it; that goes for the files beside it, too."""
    store.add(token())
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert {"control.db": 0o600, "control.db-wal": 0o600, "control.db-shm": 0o600} == modes
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o601])
def test_a_file_that_others_may_touch(path: Path, mode: int) -> None:
    """Who may write the file decides what is revoked."""
    ControlStore.open(path, create=True).close()
    path.chmod(mode)
    with pytest.raises(StoreError, match="chmod 600"):
        ControlStore.open(path)


def test_a_directory_that_others_may_write_to(path: Path) -> None:
    """Who may write to the directory can put another file in the store's place."""
    ControlStore.open(path, create=True).close()
    path.parent.chmod(0o777)
    with pytest.raises(StoreError, match="chmod 700"):
        ControlStore.open(path)


def test_opening_does_not_create(path: Path) -> None:
    """Only a server makes the file; the command line finds out that a path is mistyped."""
    with pytest.raises(StoreError, match=r"control\.db: no such file: servers make it"):
        ControlStore.open(path)
    assert not path.parent.exists()


def test_creating_twice_keeps_the_first(path: Path) -> None:
    """A server that starts again finds what was revoked."""
    with ControlStore.open(path, create=True) as first:
        first.add(token())
    with ControlStore.open(path, create=True) as second:
        assert [token()] == second.entries()


def test_creating_at_the_same_time_keeps_the_first(path: Path) -> None:
    """Who comes second in the race for the name uses the file that is there, and leaves nothing behind."""
    with ControlStore.open(path, create=True) as first:
        first.add(token())
        first._database._create()
        assert [token()] == first.entries()
        assert {"control.db", "control.db-wal", "control.db-shm"} == {each.name for each in path.parent.iterdir()}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a control store"),
        (b"garbage" * 1000, "not a control store"),
        (b"SQLite format 3\0" * 8, "damaged|not"),
    ],
)
def test_another_file_in_its_place(path: Path, content: bytes, sentence: str) -> None:
    """What is no control store is refused at start, with the path."""
    path.parent.mkdir(mode=0o700)
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"control\.db: .*({sentence})"):
        ControlStore.open(path, create=True)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA application_id = 1", "not a control store"),
        (f"PRAGMA user_version = {VERSION + 1}", f"version {VERSION + 1}"),
        ("PRAGMA journal_mode = DELETE", "journal mode is `delete`"),
    ],
)
def test_a_file_of_another_form(path: Path, statement: str, sentence: str) -> None:
    """A store of another release, or one that somebody changed, is refused with the difference."""
    ControlStore.open(path, create=True).close()
    other = connect(path)
    other.execute(statement)
    other.close()
    with pytest.raises(StoreError, match=sentence):
        ControlStore.open(path)


def test_damaged_pages(path: Path) -> None:
    """Entries that cannot be read are an error, not fewer entries."""
    with ControlStore.open(path, create=True) as store:
        store.add(*(token(f"{ID}{n:04}") for n in range(1000)))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with ControlStore.open(path) as store, pytest.raises(StoreError, match="damaged"):
        store.snapshot(NOW)


@pytest.mark.parametrize(
    "change",
    [
        "kind = 'blocklist'",
        "value = 'short'",
        "value = x'80'",
        "because = x'0a'",
        "keep_until = 'never'",
        "mark_at = 5",
        "because = char(10)",
    ],
)
def test_an_entry_that_is_not_understood(store: ControlStore, path: Path, change: str) -> None:
    """An entry that is not understood makes the whole reading fail: it might be the one that matters."""
    store.add(token(), token(OTHER_ID))
    other = connect(path)
    other.execute(f"UPDATE entries SET {change} WHERE value = '{ID}'")  # noqa: S608
    other.close()
    with pytest.raises(StoreError, match="does not understand"):
        store.entries()


def test_a_name_that_is_a_directory(path: Path) -> None:
    """A path that cannot be a file is an error of the configuration."""
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(StoreError, match=r"control\.db: "):
        ControlStore.open(path, create=True)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The system's own words stand in the error."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        ControlStore.open(tmp_path / "file" / "control.db", create=True)


def test_locked_for_too_long(store: ControlStore, path: Path) -> None:
    """A writer that does not end is an error for other writers; readers do not notice."""
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.add(token())
    assert [] == store.entries()
    other.close()
    assert [token()] == store.add(token())


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [("PRAGMA query_only = ON", "read-only"), ("PRAGMA max_page_count = 1", "disk is full")],
)
def test_a_disk_that_takes_nothing(store: ControlStore, condition: str, sentence: str) -> None:
    """A failed write leaves what was there, and says what the disk said."""
    store.add(token())
    with store._database.reading() as connection:
        connection.execute(condition)
    with pytest.raises(StoreError, match=sentence):
        store.consume([OneTimeUse(ID, f"{OTHER_ID}{n:042}", NOW) for n in range(100)])
    assert [token()] == store.entries()


def test_an_error_without_a_code(store: ControlStore) -> None:
    """Any other error of the database is named by its type."""
    with pytest.raises(StoreError, match="cannot be used: ProgrammingError"), store._database.reading() as connection:
        connection.execute("SELECT ?")


def fail_half_way(store: ControlStore) -> None:
    with store._database.writing() as connection:
        connection.execute("DELETE FROM entries")
        raise KeyError


def test_a_change_that_fails_half_way(store: ControlStore) -> None:
    """A change that raises changes nothing, and the next one works."""
    store.add(token())
    with pytest.raises(KeyError):
        fail_half_way(store)
    assert [token()] == store.entries()
    assert [token(OTHER_ID)] == store.add(token(OTHER_ID))
