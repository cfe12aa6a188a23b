"""Which texts of a request are screened for prompt injection: the prompt header, the query, and the body.

The places of texts matter only when something is found. What was screened lately and found clean, as the history that
a chat sends with every call, is recognised without them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from ext_authz.action.jsonrpc import RpcCall
from ext_authz.action.registry import Action
from ext_authz.attributes.body import parse_json
from ext_authz.attributes.media_type import JSON, readable_media_type
from ext_authz.attributes.request import AI_PROMPT, Attributes
from ext_authz.injection.leaves import Leaf, body_leaves, body_texts, form_leaves, query_leaves
from ext_authz.injection.screen import Finding, Screen

_JSON_SUFFIX = "+json"  # RFC 6839 section 3.1
_FORM = "application/x-www-form-urlencoded"


def scan_request(
    screen: Screen, attributes: Attributes, action: Action, rpc: RpcCall | None = None
) -> tuple[Finding, ...]:
    """Return what the screen finds in a request. `rpc` holds the body of a JSON-RPC call, which is decoded once.

    Raises Refusal for a body that the action screens and that is not whole, or cannot be read.
    """
    return _scan(screen, list(_parts(attributes, action, rpc)))


def scan_head(screen: Screen, attributes: Attributes) -> tuple[Finding, ...]:
    """Return what the screen finds in the prompt header, the path and the query."""
    return _scan(screen, list(_head_parts(attributes)))


def _scan(screen: Screen, parts: list["_Part"]) -> tuple[Finding, ...]:
    texts = _texts(parts)
    if texts is not None and screen.knows_clean(texts):
        return ()
    return screen.scan(leaf for part in parts for leaf in part.leaves())


class _Part(Protocol):
    """A part of a request that holds text."""

    def leaves(self) -> Iterable[Leaf]:
        """Return every text and its place."""

    def texts(self) -> list[str] | None:
        """Return the same texts without places; None where only `leaves` can tell."""


class _Text(NamedTuple):
    place: str
    text: str

    def leaves(self) -> Iterable[Leaf]:
        return (Leaf(self.place, self.text),)

    def texts(self) -> list[str] | None:
        return [self.text]


class _Json(NamedTuple):
    value: object

    def leaves(self) -> Iterable[Leaf]:
        return body_leaves(self.value)

    def texts(self) -> list[str] | None:
        return body_texts(self.value)


class _Fields(NamedTuple):
    fields: tuple[Leaf, ...]

    def leaves(self) -> Iterable[Leaf]:
        return self.fields

    def texts(self) -> list[str] | None:
        return [leaf.text for leaf in self.fields]


def _texts(parts: Iterable[_Part]) -> list[str] | None:
    """Return the texts of all parts, or None when one of them cannot tell."""
    texts: list[str] = []
    for part in parts:
        found = part.texts()
        if found is None:
            return None
        texts += found
    return texts


def _head_parts(attributes: Attributes) -> Iterator[_Part]:
    prompt = attributes.headers.get(AI_PROMPT)
    if prompt:
        yield _Text(f"header:{AI_PROMPT}", prompt)
    if "%" in attributes.path:  # without encoded characters a path has no words
        yield _Text("path", unquote(attributes.path))
    if attributes.query:
        yield _Fields(tuple(query_leaves(attributes.query)))


def _parts(attributes: Attributes, action: Action, rpc: RpcCall | None) -> Iterator[_Part]:
    yield from _head_parts(attributes)
    if not action.screens_body:
        return
    if rpc is not None and rpc.body is not None:
        yield _Json(rpc.body)
    else:
        data = attributes.body.whole()
        if data:
            yield from _body_parts(attributes, data)


def _body_parts(attributes: Attributes, data: bytes) -> Iterator[_Part]:
    media_type = readable_media_type(attributes.headers)
    if media_type == JSON or media_type.endswith(_JSON_SUFFIX):
        yield _Json(parse_json(data))
    else:
        yield from _undeclared_parts(data, is_form=media_type == _FORM)


def _undeclared_parts(data: bytes, *, is_form: bool) -> Iterator[_Part]:
    """Read a body that does not say JSON as it is, and as what an application may take it for.

    The type is the caller's word, and applications often ignore it.
    """
    text = data.decode("utf-8", "replace")
    yield _Text("body", text)
    if is_form:
        yield _Fields(tuple(form_leaves(text)))
    if b"\0" in data:  # JSON readers recognise UTF-16 by its zero bytes
        yield _Text("body", data.decode("utf-16-le", "replace"))
        yield _Text("body", data.decode("utf-16-be", "replace"))
    if "\\" in text:  # JSON, JSON lines, or JSON that only a lenient reader takes
        yield _Text("body", _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text))


# RFC 8259 section 7.
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
