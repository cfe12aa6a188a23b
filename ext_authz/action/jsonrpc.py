"""The body of a call to a JSON-RPC endpoint to what decides its action: the method, and the tool of `tools/call`.

1. A body is one message, in one reading: where another reader could see another method or tool, it is refused.
2. The members that decide stand once and in one spelling. Readers that ignore letter case, or signs that are no letters,
   take others for them.
3. What headers say of the body must be true. They decide nothing.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from ext_authz.attributes.body import parse_json
from ext_authz.attributes.media_type import JSON, readable_media_type
from ext_authz.attributes.request import MCP_METHOD, MCP_NAME, Attributes
from ext_authz.errors import Reason, Refusal

# A request id that is repeated in a denial: UUIDs have 36 characters. Longer ones are answered with null.
MAX_ID_CHARACTERS = 64
# RFC 7493 section 2.2: what every reader keeps.
MAX_ID_INTEGER = 2**53

TOOLS_CALL = "tools/call"

# JSON-RPC 2.0 sections 4 and 5.
_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
# The member of `params` that says what a method is about, where MCP has one; the header Mcp-Name repeats it.
_SUBJECT_MEMBERS = {TOOLS_CALL: "name", "prompts/get": "name", "resources/read": "uri"}
_NO_LETTERS = re.compile(r"[\W_]+")
_SHOWN_ID = re.compile(r"[ -~]*")
# MCP 2026-07-28, Streamable HTTP, section "Value Encoding".
_ENCODED = re.compile(r"=\?base64\?([A-Za-z0-9+/]*={0,2})\?=")


class Protocol(StrEnum):
    """What is spoken at a JSON-RPC endpoint."""

    MCP = "mcp"
    A2A = "a2a"


class RpcCall(NamedTuple):
    """A call to a JSON-RPC endpoint. Before its body is read, only the protocol is known."""

    protocol: Protocol
    id: str | int | None = None  # of the request, where a denial may repeat it
    method: str = ""  # empty: a response to a request of the server
    tool: str = ""  # of MCP's tools/call
    body: Mapping[str, Any] | None = None  # the whole body, decoded


def read_call(protocol: Protocol, attributes: Attributes) -> RpcCall:
    """Read the body of a call to an endpoint. Raises Refusal for all that is not one message with one reading."""
    body = _message(attributes)
    _check_spelling(body, _MEMBERS)
    if body.get("jsonrpc") != "2.0":
        raise Refusal(Reason.BODY_MALFORMED, "the body is no JSON-RPC 2.0 message")
    request_id = _id(body)
    if "method" not in body:
        _check_response(body)
        call = RpcCall(protocol, body=body)
    else:
        call = _request(protocol, body)._replace(id=request_id)
    if protocol is Protocol.MCP:
        _check_headers(attributes.headers, call)
    return call


def _message(attributes: Attributes) -> Mapping[str, Any]:
    data = attributes.body.whole()
    if not data:
        raise Refusal(Reason.BODY_MISSING, "a JSON-RPC call has a body")
    if readable_media_type(attributes.headers) != JSON:
        raise Refusal(Reason.BODY_CONTENT_TYPE)
    body = parse_json(data)
    if isinstance(body, list):
        raise Refusal(Reason.BODY_BATCH)
    if not isinstance(body, dict):
        raise Refusal(Reason.BODY_MALFORMED, "a JSON-RPC message is an object")
    return body


def _check_spelling(members: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse keys that some reader takes for one of `names` although they are not."""
    for key in members:
        if key not in names and _letters(key) in names:
            raise Refusal(Reason.BODY_DUPLICATE_KEY, "a member of the JSON-RPC message stands in another spelling")


def _letters(key: str) -> str:
    """Return a key as the most lenient reader compares it: up to a NUL, letters only, in one case.

    Upper case first: a dotless i is an `I` to readers that fold upwards, as a long s is an `S`.
    """
    return _NO_LETTERS.sub("", key.partition("\0")[0]).upper().casefold()


def _id(body: Mapping[str, Any]) -> str | int | None:
    """Return the id for a denial. Raises Refusal for one that JSON-RPC 2.0 section 4 does not have."""
    value = body.get("id")
    if isinstance(value, str):
        return value if len(value) <= MAX_ID_CHARACTERS and _SHOWN_ID.fullmatch(value) else None
    if type(value) is int:
        return value if abs(value) <= MAX_ID_INTEGER else None
    if value is not None:
        raise Refusal(Reason.BODY_MALFORMED, "the id of a JSON-RPC message is a string or an integer")
    return None


def _request(protocol: Protocol, body: Mapping[str, Any]) -> RpcCall:
    method, params = body["method"], body.get("params", {})
    if not isinstance(method, str) or not method or "result" in body or "error" in body:
        raise Refusal(Reason.BODY_MALFORMED, "a JSON-RPC request has a method, and neither result nor error")
    if not isinstance(params, dict):
        raise Refusal(Reason.BODY_MALFORMED, "the params of a JSON-RPC request are an object")
    if protocol is not Protocol.MCP or method != TOOLS_CALL:
        return RpcCall(protocol, method=method, body=body)
    _check_spelling(params, ("name",))
    tool = params.get("name")
    if not isinstance(tool, str) or not tool:
        raise Refusal(Reason.BODY_MALFORMED, "tools/call names no tool")
    return RpcCall(protocol, method=method, tool=tool, body=body)


def _check_response(body: Mapping[str, Any]) -> None:
    if ("result" in body) == ("error" in body) or body.get("id") is None or "params" in body:
        raise Refusal(Reason.BODY_MALFORMED, "the body is neither a JSON-RPC request nor a response")


def _check_headers(headers: Mapping[str, str], call: RpcCall) -> None:
    """Refuse headers that name another method, tool, prompt or resource than the body."""
    if headers.get(MCP_METHOD, call.method) != call.method:
        raise Refusal(Reason.ACTION_MISMATCH, "the header mcp-method differs from the body")
    member = _SUBJECT_MEMBERS.get(call.method)
    if member is None or MCP_NAME not in headers or call.body is None:
        return
    if _decoded(headers[MCP_NAME]) != call.body.get("params", {}).get(member):
        raise Refusal(Reason.ACTION_MISMATCH, "the header mcp-name differs from the body")


def _decoded(value: str) -> str | None:
    encoded = _ENCODED.fullmatch(value)
    if encoded is None:
        return value
    try:
        return base64.b64decode(encoded[1], validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
