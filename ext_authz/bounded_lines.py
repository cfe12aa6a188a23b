"""Lines of files that anybody may have written: memory is that of one line, however long lines and files are."""

from collections.abc import Iterator
from typing import IO


def bounded_lines(file: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file; of one with more than `max_bytes`, its beginning with one byte more than that."""
    while line := file.readline(max_bytes + 1):
        yield line
        rest = line
        while len(rest) > max_bytes and not rest.endswith(b"\n"):
            rest = file.readline(max_bytes + 1)
