"""The tables of the control store, and how a file says that it holds them.

1. A file with another version is refused, not migrated in place: servers of two releases may have it open.
2. Every change of `entries` moves the revision on, whatever tool made it.
"""

import sqlite3

# "EAZC" in ASCII: lets `file` and this code tell a control store from any other SQLite file.
APPLICATION_ID = 0x45415A43
VERSION = 1

# WITHOUT ROWID: entries are found by kind and value and nothing else. Their columns are the fields of Entry, in order.
# consumed.id only grows while rows are there, so that first and last say how many there can be at most.
_TABLES = """
CREATE TABLE entries (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    mark_at INTEGER,
    keep_until REAL NOT NULL,
    because TEXT NOT NULL,
    created_at REAL NOT NULL,
    lifted_at REAL,
    PRIMARY KEY (kind, value)
) WITHOUT ROWID;

CREATE TABLE consumed (
    id INTEGER PRIMARY KEY,
    root TEXT NOT NULL,
    leaf TEXT NOT NULL,
    keep_until REAL NOT NULL,
    UNIQUE (root, leaf)
);
CREATE INDEX consumed_by_end ON consumed (keep_until);

CREATE TABLE revision (number INTEGER NOT NULL);
INSERT INTO revision VALUES (0);
"""

_MOVE_ON = """
CREATE TRIGGER entries_{event} AFTER {event} ON entries BEGIN UPDATE revision SET number = number + 1; END;
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    triggers = "".join(_MOVE_ON.format(event=event) for event in ("INSERT", "UPDATE", "DELETE"))
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    connection.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {_TABLES} {triggers} {marks} COMMIT;")


def difference(connection: sqlite3.Connection) -> str | None:
    """Say in which way a file is no control store of this release."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if application_id != APPLICATION_ID:
        return "not a control store"
    if version != VERSION:
        return f"a control store of version {version}, and this release reads version {VERSION}"
    # Any other mode lets a reader stop a writer, and the other way round.
    return None if journal_mode == "wal" else f"its journal mode is `{journal_mode}`, expected `wal`"
