"""The SQLite file below a store: made whole, opened strictly, and every failure is said in words.

1. The file appears complete or not at all, and only `create` makes it: a mistyped path is an error, not an empty list.
2. Whoever can write the file decides what is revoked, so it belongs to one user alone, or it is not opened.
3. A failure ends the connection, and the next use opens the file again; so does a file that was put in its place.
"""

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from ext_authz.errors import ConfigurationError
from ext_authz.stores.schema import create_tables, difference

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITING_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# Primary result code of SQLite -> what to tell people.
_FAULTS = {
    sqlite3.SQLITE_BUSY: "locked by another process for too long",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: SQLite needs to write to the file and its directory",
    sqlite3.SQLITE_CORRUPT: "damaged: put a good copy in its place",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_NOTADB: "not a control store",
    sqlite3.SQLITE_READONLY: "cannot be written: the file or its disk is read-only",
}


class StoreError(ConfigurationError):
    """A store cannot be used: at start nothing is served with it, later what needs it denies."""


class Database:
    """One connection to the file, for one thread at a time; others wait."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path = path.absolute()
        self.generation = 0  # how often the file was opened
        self._busy_seconds = busy_seconds
        self._one_at_a_time = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode

    def create(self) -> None:
        """Make the file, and its directory, unless it is there. Raises StoreError."""
        with self._in_words():
            self.path.parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            if not self.path.exists():
                self._create()

    def _create(self) -> None:
        """Make the file beside its place and link it there: who comes second finds the other's."""
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}-", dir=self.path.parent) as name:
            draft = Path(name, self.path.name)
            draft.touch(FILE_MODE)
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                create_tables(connection)
            finally:
                connection.close()
            with suppress(FileExistsError):
                os.link(draft, self.path)

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Look at one state of the file in a block. Raises StoreError."""
        return self._transaction("BEGIN")

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """Change the file as a whole or, when the block raises, not at all. Raises StoreError."""
        return self._transaction("BEGIN IMMEDIATE")

    def close(self) -> None:
        """End the connection."""
        with self._one_at_a_time:
            self._disconnect()

    def failure(self, sentence: str) -> StoreError:
        """Return the error that says what is wrong with this file."""
        return StoreError([f"{self.path}: {sentence}"])

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._one_at_a_time, self._in_words():
            connection = self._connected()
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._disconnect()  # which rolls back
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
            raise self.failure(_FAULTS.get(code, f"cannot be used: {type(error).__name__}")) from error
        except FileNotFoundError as error:
            raise self.failure("no such file: servers make it when they start") from error
        except OSError as error:
            raise self.failure(error.strerror or type(error).__name__) from error

    def _connected(self) -> sqlite3.Connection:
        status = self.path.stat()
        file = (status.st_dev, status.st_ino)
        if self._connection is None or file != self._file:
            self._disconnect()
            self._check_modes(status)
            self._connection, self._file = self._connect(), file
            self.generation += 1
        return self._connection

    def _check_modes(self, status: os.stat_result) -> None:
        if status.st_mode & _OF_OTHERS:
            raise self.failure("others may read or write it: chmod 600")
        if self.path.parent.stat().st_mode & _WRITING_OF_OTHERS:
            raise self.failure("others may write to its directory: give it a directory of its own, chmod 700")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,  # transactions begin where this file says so
            check_same_thread=False,  # one at a time, whichever it is
        )
        try:
            if (wrong := difference(connection)) is not None:
                raise self.failure(wrong)
            # What was answered to be revoked or used up stays so after a power cut; WAL's usual setting may forget it.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
