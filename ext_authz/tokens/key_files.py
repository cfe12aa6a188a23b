"""Files with keys that policy documents name: read whole, bounded, and counted in the policy's digest."""

import hashlib
from pathlib import Path

from ext_authz.documents.reader import quoted

# Bytes of a JWK set or bundle file.
MAX_KEY_FILE_BYTES = 1024 * 1024


class KeyFiles:
    """The key files of one document. What cannot be read is added to `problems`."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        self._directory = directory
        self._problems = problems
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of all files that were read, hexadecimal."""
        return self._digest.hexdigest()

    def read(self, here: str, file: str) -> bytes | None:
        """Read a file that is named at the place `here`. An unreadable one is a problem and None."""
        path = self._directory / file
        try:
            if path.exists() and not path.is_file():
                self._problems.append(f"{here}: {quoted(file)} is not a regular file")
                return None
            with path.open("rb") as opened:
                data = opened.read(MAX_KEY_FILE_BYTES + 1)
        except OSError as error:
            self._problems.append(f"{here}: cannot read {quoted(file)}: {error.strerror}")
            return None
        if len(data) > MAX_KEY_FILE_BYTES:
            self._problems.append(f"{here}: {quoted(file)} is larger than {MAX_KEY_FILE_BYTES} bytes")
            return None
        self._digest.update(f"{file}\0{len(data)}\0".encode() + data)
        return data
