"""Which texts of a request are screened for prompt injection."""

from collections.abc import Iterator

from ext_authz.action.registry import Action
from ext_authz.attributes.body import parse_json
from ext_authz.attributes.request import AI_PROMPT, CONTENT_ENCODING, CONTENT_TYPE, Attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.injection.leaves import Leaf, body_leaves, form_leaves, query_leaves

_FORM = "application/x-www-form-urlencoded"


def request_leaves(attributes: Attributes, action: Action) -> Iterator[Leaf]:
    """Yield every text to screen: the prompt header, the query, and the body where the action screens bodies.

    Raises Refusal for a body that is needed and not whole, or cannot be read.
    """
    prompt = attributes.headers.get(AI_PROMPT)
    if prompt:
        yield Leaf(f"header:{AI_PROMPT}", prompt)
    if attributes.query:
        yield from query_leaves(attributes.query)
    if action.screens_body:
        yield from _body(attributes, attributes.body.whole())


def _body(attributes: Attributes, data: bytes) -> Iterator[Leaf]:
    if not data:
        return
    if attributes.headers.get(CONTENT_ENCODING, "identity") != "identity":
        raise Refusal(Reason.BODY_ENCODING, "the body is compressed")
    media_type, _, parameters = attributes.headers.get(CONTENT_TYPE, "").lower().partition(";")
    media_type = media_type.strip()
    if media_type == "application/json" or media_type.endswith("+json"):
        if "charset" in parameters and "utf-8" not in parameters:
            raise Refusal(Reason.BODY_ENCODING, "the body is JSON in another encoding than UTF-8")
        yield from body_leaves(parse_json(data))
        return
    # The type is the caller's word and applications often ignore it: read the text as it is, and as what it may be.
    text = data.decode("utf-8", "replace")
    yield Leaf("body", text)
    if media_type == _FORM:
        yield from form_leaves(text)
    yield from _undeclared_json(data)


def _undeclared_json(data: bytes) -> Iterator[Leaf]:
    """Yield the strings of a body that is JSON without saying so; what is no JSON has none."""
    if data.lstrip()[:1] not in {b"{", b"[", b'"'}:
        return
    try:
        value = parse_json(data)
    except Refusal:
        return
    yield from body_leaves(value)
