"""Which texts of a request are screened for prompt injection: the prompt header, the query, and the body.

The places of texts matter only when something is found. What was screened lately and found clean, as the history that
a chat sends with every call, is recognised without them.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from ext_authz.action.registry import Action
from ext_authz.attributes.body import parse_json
from ext_authz.attributes.request import AI_PROMPT, CONTENT_ENCODING, CONTENT_TYPE, Attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.injection.leaves import Leaf, body_leaves, body_texts, form_leaves, query_leaves
from ext_authz.injection.screen import Finding, Screen

_JSON = "application/json"
_JSON_SUFFIX = "+json"  # RFC 6839 section 3.1
_FORM = "application/x-www-form-urlencoded"


def scan_request(screen: Screen, attributes: Attributes, action: Action) -> tuple[Finding, ...]:
    """Return what the screen finds in a request.

    Raises Refusal for a body that the action screens and that is not whole, or cannot be read.
    """
    parts = list(_parts(attributes, action))
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


def _parts(attributes: Attributes, action: Action) -> Iterator[_Part]:
    prompt = attributes.headers.get(AI_PROMPT)
    if prompt:
        yield _Text(f"header:{AI_PROMPT}", prompt)
    if attributes.query:
        yield _Fields(tuple(query_leaves(attributes.query)))
    if action.screens_body:
        data = attributes.body.whole()
        if data:
            yield from _body_parts(attributes, data)


def _body_parts(attributes: Attributes, data: bytes) -> Iterator[_Part]:
    if attributes.headers.get(CONTENT_ENCODING, "identity") != "identity":
        raise Refusal(Reason.BODY_ENCODING, "the body is compressed")
    media_type, _, parameters = attributes.headers.get(CONTENT_TYPE, "").lower().partition(";")
    media_type = media_type.strip()
    if media_type == _JSON or media_type.endswith(_JSON_SUFFIX):
        if "charset" in parameters and "utf-8" not in parameters:
            raise Refusal(Reason.BODY_ENCODING, "the body is JSON in another encoding than UTF-8")
        yield _Json(parse_json(data))
        return
    # The type is the caller's word and applications often ignore it: read the text as it is, and as what it may be.
    text = data.decode("utf-8", "replace")
    yield _Text("body", text)
    if media_type == _FORM:
        yield _Fields(tuple(form_leaves(text)))
    yield from _undeclared_json(data)


def _undeclared_json(data: bytes) -> Iterator[_Part]:
    """Yield a body that is JSON without saying so; what is no JSON has no strings of its own."""
    if data.lstrip()[:1] not in {b"{", b"[", b'"'}:
        return
    try:
        value = parse_json(data)
    except Refusal:
        return
    yield _Json(value)
