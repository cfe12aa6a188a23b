"""Reading lines of any length in bounded memory."""

import io

import pytest

from ext_authz.bounded_lines import bounded_lines

LINES: dict[str, tuple[list[bytes], bytes]] = {
    "nothing": ([], b""),
    "without an end": ([b"ab"], b"ab"),
    "empty lines": ([b"\n", b"\n"], b"\n\n"),
    "as long as may be": ([b"abc\n", b"d"], b"abc\nd"),
    "one too long": ([b"abcde", b"f\n"], b"abcdefgh\nf\n"),
    "one byte too long": ([b"abcd\n", b"e"], b"abcd\ne"),
    "too long and without an end": ([b"abcde"], b"abcdefghijklmnop"),
}


@pytest.mark.parametrize(("expected", "text"), LINES.values(), ids=LINES)
def test_lines(expected: list[bytes], text: bytes) -> None:
    """Short lines come whole; of a long one comes the beginning, and the next line is the next line."""
    assert expected == list(bounded_lines(io.BytesIO(text), 4))
