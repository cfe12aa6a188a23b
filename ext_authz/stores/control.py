"""The control store: what operators revoke and put in quarantine, and which one-time tokens were used.

1. Several processes have it open: the command line writes entries, servers read them and consume one-time tokens.
2. What cannot be read is never taken for nothing: an entry that this release does not understand fails the whole reading.
3. Time comes in as an argument, in seconds since 1970.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple, Self

from ext_authz.stores.database import Database
from ext_authz.stores.entry import Entry, Kind, check_token_id
from ext_authz.stores.snapshot import ControlSnapshot, Version, to_snapshot
from ext_authz.tokens.chain import LEEWAY_SECONDS

# Entries of all kinds: 15 MB of file and a second of loading; who needs more should replace a key instead.
MAX_ENTRIES = 100_000
# One-time tokens that are remembered: an hour of 277 a second, 150 MB of file.
MAX_CONSUMED = 1_000_000
# Seconds for which a lifted entry can still be listed.
LIFTED_SECONDS = 86_400
# Rows that one transaction removes: others wait for it.
PURGED_AT_ONCE = 1000
# Seconds to wait for another writer; the longest of them takes a hundredth of that.
BUSY_SECONDS = 5.0

# The columns stand in the order of Entry's fields.
_ENTRIES = "SELECT * FROM entries"
_PUT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"
_LIFT = "UPDATE entries SET lifted_at = ? WHERE kind = ? AND value = ? AND lifted_at IS NULL AND keep_until > ?"
_FORGET_ENTRIES = "DELETE FROM entries WHERE keep_until <= ? OR lifted_at <= ?"
_FORGET_CONSUMED = """
DELETE FROM consumed WHERE id IN (SELECT id FROM consumed WHERE keep_until <= ? ORDER BY keep_until LIMIT ?)
"""
_CONSUME = "INSERT INTO consumed (root, leaf, keep_until) VALUES (?, ?, ?) ON CONFLICT (root, leaf) DO NOTHING"
# At least as many as there are, found without counting them.
_CONSUMED_AT_MOST = "SELECT (SELECT max(id) FROM consumed) - (SELECT min(id) FROM consumed) + 1"


class OneTimeUse(NamedTuple):
    """A one-time chain that is presented: its first and last link, and when it stops counting by itself."""

    root_token_id: str
    leaf_token_id: str
    keep_until: float

    def check(self) -> None:
        """Raise EntryError unless both ids can be a token's."""
        check_token_id(self.root_token_id)
        check_token_id(self.leaf_token_id)


class ControlStore:
    """The store's file, opened by this process. Every method raises StoreError when the file cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path, *, create: bool = False, busy_seconds: float = BUSY_SECONDS) -> Self:
        """Open the file; `create` makes it where there is none."""
        database = Database(path, busy_seconds)
        if create:
            database.create()
        with database.reading():
            return cls(database)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, *entries: Entry) -> list[Entry]:
        """Put all entries into force or none, and return what is in force now: never less than before."""
        with self._database.writing() as connection:
            in_force = [self._put(connection, entry) for entry in entries]
            self._check_room(connection)
        return in_force

    def lift(self, kind: Kind, value: str, now: float) -> bool:
        """Take an entry out of force; False when it was not in force."""
        with self._database.writing() as connection:
            return connection.execute(_LIFT, (now, kind, value, now)).rowcount == 1

    def entries(self, kinds: Iterable[Kind] = Kind) -> list[Entry]:
        """Return the entries of some kinds, oldest first, lifted and ended ones included while they are there."""
        wanted = frozenset(kinds)
        with self._database.reading() as connection:
            found = [self._entry(row) for row in connection.execute(f"{_ENTRIES} ORDER BY created_at, value")]
        return [entry for entry in found if entry.kind in wanted]

    def snapshot(self, now: float) -> ControlSnapshot:
        """Return what is in force."""
        with self._database.reading() as connection:
            rows = connection.execute(f"{_ENTRIES} WHERE lifted_at IS NULL AND keep_until > ?", (now,))
            return to_snapshot(map(self._entry, rows), now, self._version(connection))

    def version(self) -> Version:
        """Return the version that a snapshot would have now."""
        with self._database.reading() as connection:
            return self._version(connection)

    def purge(self, now: float) -> int:
        """Remove what nothing can match any more, and return how many rows that were."""
        horizon = now - LEEWAY_SECONDS  # a clock may be set back
        with self._database.writing() as connection:
            purged = connection.execute(_FORGET_ENTRIES, (horizon, now - LIFTED_SECONDS)).rowcount
        batch = PURGED_AT_ONCE
        while batch == PURGED_AT_ONCE:
            with self._database.writing() as connection:
                batch = connection.execute(_FORGET_CONSUMED, (horizon, PURGED_AT_ONCE)).rowcount
            purged += batch
        return purged

    def consume(self, uses: Sequence[OneTimeUse]) -> list[bool]:
        """Mark one-time chains as used, in one transaction; False for each that was used before, by any process."""
        with self._database.writing() as connection:
            (most,) = connection.execute(_CONSUMED_AT_MOST).fetchone()
            if (most or 0) + len(uses) > MAX_CONSUMED:
                raise self._database.failure(f"remembers {MAX_CONSUMED} one-time tokens, as many as it may")
            return [connection.execute(_CONSUME, use).rowcount == 1 for use in uses]

    def consume_once(self, root_token_id: str, leaf_token_id: str, keep_until: float) -> bool:
        """Mark one chain as used until it expires; False when it was used before, by any process."""
        (first_time,) = self.consume([OneTimeUse(root_token_id, leaf_token_id, keep_until)])
        return first_time

    def _put(self, connection: sqlite3.Connection, entry: Entry) -> Entry:
        row = connection.execute(f"{_ENTRIES} WHERE kind = ? AND value = ?", (entry.kind, entry.value)).fetchone()
        if row is not None and (older := self._entry(row)).is_in_force(entry.created_at):
            entry = entry.merged_with(older)
        connection.execute(_PUT, astuple(entry))
        return entry

    def _check_room(self, connection: sqlite3.Connection) -> None:
        """Raise when there are more entries than may be; those that are lifted give way first."""
        if _count(connection) <= MAX_ENTRIES:
            return
        connection.execute("DELETE FROM entries WHERE lifted_at IS NOT NULL")
        if _count(connection) > MAX_ENTRIES:
            raise self._database.failure(f"holds {MAX_ENTRIES} entries, as many as it may: lift some")

    def _entry(self, row: Sequence[Any]) -> Entry:
        try:
            return Entry(Kind(row[0]), *row[1:])
        except (AttributeError, TypeError, ValueError) as error:
            raise self._database.failure("has an entry that this release does not understand") from error

    def _version(self, connection: sqlite3.Connection) -> Version:
        (number,) = connection.execute("SELECT number FROM revision").fetchone()
        return self._database.generation, number


def _count(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return int(count)
