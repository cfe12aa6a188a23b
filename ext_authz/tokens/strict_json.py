"""JSON objects as tokens carry them, in the one form that every reader understands alike.

1. A member stands once, at every level; names are compared after unescaping.
2. Numbers are integers within 2^53; nothing else survives all readers.
3. Strings hold no control characters and no lone surrogates.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

# RFC 7493 section 2.2: integers beyond this lose digits in readers that keep numbers as doubles.
MAX_INTEGER = 2**53
_MAX_DIGITS = len(str(MAX_INTEGER)) + 1
# Levels of objects and arrays in a token: claims, `orig`, its lists.
MAX_DEPTH = 4


class StrictJsonError(ValueError):
    """The bytes are no JSON object in the strict form; the text never repeats them."""


def parse_object(data: bytes, max_depth: int = MAX_DEPTH) -> Mapping[str, Any]:
    """Decode a JSON object of at most `max_depth` levels. Raises StrictJsonError."""
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise StrictJsonError("not UTF-8") from None
    except StrictJsonError:
        raise
    except (ValueError, RecursionError):
        raise StrictJsonError("not JSON") from None
    if not isinstance(value, dict):
        raise StrictJsonError("not an object")
    _check(value, max_depth)
    return value


def _check(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if not all(" " <= character != "\x7f" and not "\ud800" <= character <= "\udfff" for character in value):
            raise StrictJsonError("a string holds control characters")
    elif isinstance(value, dict | list):
        if levels == 0:
            raise StrictJsonError("nested too deeply")
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(part, levels - 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictJsonError("a member stands twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or abs(int(digits)) > MAX_INTEGER:
        raise StrictJsonError("an integer is too large")
    return int(digits)


def _refuse_number(_: str) -> NoReturn:
    raise StrictJsonError("a number is not an integer")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_refuse_number, parse_constant=_refuse_number
)
