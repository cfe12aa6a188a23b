"""The request body: whether we have it, whether it is whole, and the strict JSON decoder.

1. A stage that needs the body refuses one that is not whole.
2. Whole means: Envoy says that it was not cut, and as many bytes came as Envoy counted, where it counted. Envoy's own
   limit is soft over HTTP/2: a cut body would reach us while the application gets the full one.
3. What two JSON readers could read differently is refused: duplicate keys, NaN, trailing data, other encodings.
"""

import json
from enum import Enum, auto
from typing import Any, NamedTuple, NoReturn

from ext_authz.errors import Reason, Refusal

_WHITESPACE = " \t\n\r"  # RFC 8259 section 2
_BYTE_ORDER_MARK = "\ufeff"


class BodyState(Enum):
    """What is known of a body."""

    NONE = auto()  # the request has none
    WHOLE = auto()
    PARTIAL = auto()  # some of it came, or nothing proves that all of it did
    MISSING = auto()  # the request has one, or may have, and it did not come


class Body(NamedTuple):
    """A request body as it came."""

    state: BodyState
    data: bytes

    def whole(self) -> bytes:
        """Return all bytes of the body, empty if the request has none. Raises Refusal when they are not all here."""
        if self.state is BodyState.PARTIAL:
            raise Refusal(Reason.BODY_PARTIAL)
        if self.state is BodyState.MISSING:
            raise Refusal(Reason.BODY_MISSING)
        return self.data


NO_BODY = Body(BodyState.NONE, b"")


class _DuplicateKeyError(ValueError):
    pass


def parse_json(data: bytes) -> Any:
    """Decode RFC 8259 JSON text in UTF-8.

    Raises Refusal for what is not, and for what readers disagree on. Nesting too deep for the decoder is malformed.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(Reason.BODY_ENCODING, "the body is not UTF-8") from None
    if text.startswith(_BYTE_ORDER_MARK):  # RFC 8259 section 8.1: must not be added, may be ignored
        raise Refusal(Reason.BODY_ENCODING, "the body begins with a byte order mark")
    text = text.strip(_WHITESPACE)
    try:
        value, end = _DECODER.raw_decode(text)
    except _DuplicateKeyError:
        raise Refusal(Reason.BODY_DUPLICATE_KEY) from None
    except (ValueError, RecursionError):
        raise Refusal(Reason.BODY_MALFORMED) from None
    if end != len(text):
        raise Refusal(Reason.BODY_TRAILING)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateKeyError
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN, Infinity: JavaScript, not JSON


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
