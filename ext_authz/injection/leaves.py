"""Requests to texts: where text can hide in a request, and what that place is called in records.

1. Every string and every key becomes a leaf; more of them than the limits allow is a refusal, never a silent cut.
2. A place never holds text that a caller could use to write into records: keys that are no plain names are `*`.
3. Nothing recurses: a body cannot choose how deep our stack gets.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple
from urllib.parse import parse_qsl

from ext_authz.errors import Reason, Refusal

# Strings, keys, arrays and objects of one body. A long chat history has hundreds; 10,000 new short strings take about
# 40 ms to screen, and a sidecar waits 50.
MAX_NODES = 10_000
# Levels of arrays and objects, those inside opened strings included. protobuf's own limit is 100, JSON of agents has ten.
MAX_DEPTH = 64
# How often JSON inside a JSON string is opened: arguments of a tool call (1) that carry a message (2) with a payload (3).
MAX_OPENED = 3
# Fields of a query string or form. Django's limit (DATA_UPLOAD_MAX_NUMBER_FIELDS).
MAX_FIELDS = 1_000
# Characters of a place. Findings repeat it in audit records; Envoy's access log cuts long values anyway.
MAX_PLACE_CHARACTERS = 128

_BODY = "body:"
_CONTAINERS = (dict, list)
_WITH_TEXT = (str, *_CONTAINERS)
_JSON_STARTS = ("{", "[", '"')
_SHOWN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


class Leaf(NamedTuple):
    """One text of a request."""

    place: str  # `header:x-ai-prompt`, `query:q`, `body:/messages/0/content`, `body` where the body is no JSON
    text: str


# A value that is still to be looked at: its place, the value, the arrays and objects around it, the JSON strings around it.
_Node = tuple[str, object, int, int]


def body_leaves(value: object) -> Iterator[Leaf]:
    """Yield the strings and keys of a decoded JSON value, in the order of the document.

    The place is a JSON pointer (RFC 6901); a key has the place of its value. A string that is JSON itself comes whole
    and then in parts. Raises Refusal for a body with more than MAX_NODES parts or MAX_DEPTH levels.
    """
    pending: list[_Node] = [(_BODY, value, 0, 0)]
    budget = MAX_NODES
    while pending:
        place, part, depth, opened = pending.pop()
        if isinstance(part, str):
            yield Leaf(place, part)
            if opened == MAX_OPENED or part.lstrip()[:1] not in _JSON_STARTS:
                continue
            part, opened = _open(part), opened + 1
        inside = list(islice(_inside(place, part, depth, opened), budget + 1))
        budget -= len(inside)
        if budget < 0:
            raise Refusal(
                Reason.BODY_TOO_LARGE, f"the body has more than {MAX_NODES} strings, keys, arrays and objects"
            )
        pending.extend(reversed(inside))


def body_texts(value: object) -> list[str] | None:
    """Return what `body_leaves` yields without the places, several times as fast; None where that is not simple.

    Not simple are strings that may hold JSON, and bodies at the limits: `body_leaves` opens the ones and judges the
    others.
    """
    texts: list[str] = []
    level, parts = [value], 1
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for part in level:
            if type(part) is str:
                if part.lstrip()[:1] in _JSON_STARTS:
                    return None
                texts.append(part)
            elif type(part) is dict:
                texts += part
                below += part.values()
            elif type(part) is list:
                below += part
        if not below:
            return texts
        parts += 2 * len(below)  # a member is a key and a value
        if parts > MAX_NODES:
            return None
        level = below
    return None


def query_leaves(query: str) -> Iterator[Leaf]:
    """Yield names and values of a query string (application/x-www-form-urlencoded), without its `?`.

    Raises Refusal for more than MAX_FIELDS fields.
    """
    return _field_leaves("query:", query, Reason.REQUEST_MALFORMED)


def form_leaves(form: str) -> Iterator[Leaf]:
    """Yield names and values of a body of type application/x-www-form-urlencoded. Raises Refusal as query_leaves."""
    return _field_leaves(f"{_BODY}/", form, Reason.BODY_TOO_LARGE)


def _inside(place: str, part: object, depth: int, opened: int) -> Iterator[_Node]:
    """Yield what a value holds: strings, keys, arrays and objects. Numbers and constants are no text."""
    if isinstance(part, str):  # what an opened string held
        yield place, part, depth, opened
    elif isinstance(part, _CONTAINERS) and depth == MAX_DEPTH:
        raise _too_deep()
    elif isinstance(part, dict):
        for key, child in part.items():
            member = f"{place}/{_shown(key)}"[:MAX_PLACE_CHARACTERS]
            yield member, key, depth, MAX_OPENED
            if isinstance(child, _WITH_TEXT):
                yield member, child, depth + 1, opened
    elif isinstance(part, list):
        for index, child in enumerate(part):
            if isinstance(child, _WITH_TEXT):
                yield f"{place}/{index}"[:MAX_PLACE_CHARACTERS], child, depth + 1, opened


def _open(text: str) -> object:
    """Return the value of a string that holds JSON, else None."""
    try:
        return json.loads(text, parse_int=float)  # int() refuses long numbers: one would keep its string closed
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        return None


def _too_deep() -> Refusal:
    return Refusal(Reason.BODY_TOO_LARGE, f"the body nests deeper than {MAX_DEPTH} levels")


@lru_cache(maxsize=1024)
def _shown(key: str) -> str:
    return key if _SHOWN_KEY.fullmatch(key) else "*"


def _field_leaves(prefix: str, text: str, too_many: Reason) -> Iterator[Leaf]:
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refusal(too_many, f"more than {MAX_FIELDS} fields") from None
    for name, value in fields:
        place = prefix + _shown(name)
        yield Leaf(place, name)
        yield Leaf(place, value)
