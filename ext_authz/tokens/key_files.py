"""Files with keys that policy documents name: read whole, bounded, counted in the policy's digest, and known when they change."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ext_authz.documents.reader import quoted

# Bytes of a JWK set or bundle file.
MAX_KEY_FILE_BYTES = 1024 * 1024


class Stamp(NamedTuple):
    """What changes when a file is written, or another is put in its place."""

    modified_ns: int
    inode: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Return the stamp of a file or directory."""
        return cls(status.st_mtime_ns, status.st_ino, status.st_size)


# Files and directories with their stamps; None: nothing is there.
Stamps = Mapping[Path, Stamp | None]


class KeyFiles:
    """The key files of one document. What cannot be read is added to `problems`."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        self.elsewhere: dict[Path, Stamp | None] = {}  # what was read outside of the policy directory
        self._directory = directory
        self._problems = problems
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of all files that were read, hexadecimal."""
        return self._digest.hexdigest()

    def path(self, file: str) -> Path:
        """Return where a file is looked for: its path begins in the policy directory, or is absolute."""
        return self._directory / file

    def read(self, here: str, file: str, max_bytes: int = MAX_KEY_FILE_BYTES) -> bytes | None:
        """Read a file that is named at the place `here`. An unreadable one is a problem and None."""
        path = self.path(file)
        try:
            if path.exists() and not path.is_file():
                self._problems.append(f"{here}: {quoted(file)} is not a regular file")
                return None
            with path.open("rb") as opened:
                stamp = Stamp.of(os.fstat(opened.fileno()))
                data = opened.read(max_bytes + 1)
        except OSError as error:
            self._problems.append(f"{here}: cannot read {quoted(file)}: {error.strerror}")
            return None
        if path.parent != self._directory:
            self.elsewhere[path] = stamp
        if len(data) > max_bytes:
            self._problems.append(f"{here}: {quoted(file)} is larger than {max_bytes} bytes")
            return None
        self._digest.update(f"{file}\0{len(data)}\0".encode() + data)
        return data

    def names_in(self, here: str, directory: str, suffix: str) -> list[str]:
        """Return the files of a directory that end in `suffix`, hidden ones left out. An unreadable one is a problem."""
        path = self.path(directory)
        try:
            self.elsewhere[path] = Stamp.of(path.stat())  # before it is read: what comes later is a change
            names = sorted(each.name for each in path.iterdir())
        except OSError as error:
            self._problems.append(f"{here}: cannot read the directory {quoted(directory)}: {error.strerror}")
            return []
        return [f"{directory}/{name}" for name in names if name.endswith(suffix) and not name.startswith(".")]


def stamps_now(paths: Stamps) -> Stamps:
    """Return the stamps that files and directories have at this moment."""
    return {path: _stamp_now(path) for path in paths}


def _stamp_now(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path.stat())
    except OSError:
        return None
