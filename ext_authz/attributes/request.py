"""CheckRequest bytes to attributes.

1. Every field is bounded; what is over its bound is refused, never cut.
2. A header that means something to us stands at most once. Envoy shows duplicates as two entries (header_map) or as one
   value with a comma (headers), so a value that cannot hold a comma is refused when it does.
3. What a caller asserts is kept apart from what Envoy verified; nothing here believes either.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from ext_authz.attributes.authority import MAX_AUTHORITY_BYTES
from ext_authz.attributes.body import NO_BODY, Body, BodyState
from ext_authz.attributes.path import parse_target
from ext_authz.errors import Reason, Refusal
from ext_authz.pb.external_auth_pb2 import CheckRequest

# Header lines of one request. Envoy's default is 100, ours in the rendered configuration 64.
MAX_HEADERS = 128
# Bytes of one header value: an XFCC header with certificate and chain is the longest, 64 KiB (contract B.1).
MAX_HEADER_BYTES = 65536
# Bytes of a URL-encoded PEM certificate: a P-256 SVID takes about 900, an RSA-4096 one about 2,800.
MAX_CERTIFICATE_BYTES = 16384
# Context extensions of one route, and bytes of each: a handful of short strings from our own configuration.
MAX_EXTENSIONS = 32
MAX_EXTENSION_BYTES = 4096
# Bytes of a method: the longest registered one has 17 (RFC 9110 section 16.1.1).
MAX_METHOD_BYTES = 20
# Bytes of body unless the settings say otherwise: what the rendered Envoy configuration buffers at most.
MAX_BODY_BYTES = 65536

# Seconds since 1970: the end of the year 9999, where google.protobuf.Timestamp and Python's datetime end.
_MAX_SECONDS = 253_402_300_799

# The context extension that says which way a request goes: inbound when it is absent.
DIRECTION_EXTENSION = "direction"
INBOUND = "inbound"
EGRESS = "egress"

XFCC = "x-forwarded-client-cert"
PARTIAL_BODY = "x-envoy-auth-partial-body"
AGENT_ACTION = "x-agent-action"
TARGET_RESOURCE = "x-target-resource"
REQUEST_TIMESTAMP = "x-request-timestamp"
DELEGATION_TOKEN = "x-delegation-token"  # noqa: S105
AUTHORIZATION = "authorization"
AI_PROMPT = "x-ai-prompt"
MCP_METHOD = "mcp-method"
MCP_NAME = "mcp-name"
TRACEPARENT = "traceparent"
REQUEST_ID = "x-request-id"
CONTENT_TYPE = "content-type"
CONTENT_LENGTH = "content-length"
CONTENT_ENCODING = "content-encoding"
TRANSFER_ENCODING = "transfer-encoding"

# Kept, at most once each, printable ASCII.
_STRICT_HEADERS = frozenset(
    {
        *(XFCC, PARTIAL_BODY, AGENT_ACTION, TARGET_RESOURCE, REQUEST_TIMESTAMP, DELEGATION_TOKEN, AUTHORIZATION),
        *(CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING, MCP_METHOD, MCP_NAME),
    }
)
# Kept, at most once each, any text: screened, never interpreted.
_TEXT_HEADERS = frozenset({AI_PROMPT})
# Kept when they stand once in printable ASCII, else dropped: they only correlate, and must not refuse a request.
_CORRELATION_HEADERS = frozenset({TRACEPARENT, REQUEST_ID})
_KEPT_HEADERS = _STRICT_HEADERS | _TEXT_HEADERS | _CORRELATION_HEADERS
# Where a request says whom it calls, beside Envoy's own `host`.
_AUTHORITY = frozenset({":authority", "host"})
# Kept headers whose grammar has no comma: one that has it was two header lines.
_COMMALESS = (AGENT_ACTION, TARGET_RESOURCE, REQUEST_TIMESTAMP, DELEGATION_TOKEN, PARTIAL_BODY, CONTENT_LENGTH)
# Methods whose body Envoy may leave out without a word when nothing announced one (RFC 9110 section 9.3).
BODYLESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})


class Attributes(NamedTuple):
    """One request as Envoy described it."""

    principal: str  # source.principal: identity of the verified peer certificate
    certificate: str  # URL-encoded PEM of that certificate; may be empty
    destination: str  # destination.principal: identity of the workload's own certificate
    extensions: Mapping[str, str]  # from the route's configuration
    method: str
    path: str  # without the query
    query: str
    headers: Mapping[str, str]  # the kept ones, lower-case names
    body: Body
    received_ns: int  # when Envoy saw the first byte, nanoseconds since 1970; 0 when Envoy did not say
    authority: str = ""  # of an outbound request, as it came: whom it calls; empty for any other
    scheme: str = ""  # of an outbound request

    @property
    def is_outbound(self) -> bool:
        """Whether an outbound sidecar asks."""
        return self.extensions.get(DIRECTION_EXTENSION) == EGRESS


def parse_attributes(data: bytes, max_body_bytes: int = MAX_BODY_BYTES) -> Attributes:
    """Read a serialized CheckRequest. Raises Refusal for what breaks the request contract."""
    try:
        attributes = CheckRequest.FromString(data).attributes
    except DecodeError:
        raise Refusal(Reason.REQUEST_MALFORMED, "not a CheckRequest") from None
    source, request = attributes.source, attributes.request
    http = request.http
    if len(source.certificate) > MAX_CERTIFICATE_BYTES:
        raise Refusal(Reason.REQUEST_MALFORMED, f"the certificate has more than {MAX_CERTIFICATE_BYTES} bytes")
    headers = _headers(http)
    path, query = parse_target(http.path)
    found = Attributes(
        principal=source.principal,
        certificate=source.certificate,
        destination=attributes.destination.principal,
        extensions=_extensions(attributes.context_extensions),
        method=_method(http.method),
        path=path,
        query=query,
        headers=headers,
        body=_body(http, headers, max_body_bytes),
        received_ns=to_nanoseconds(request.time),
    )
    return found._replace(authority=_authority(http), scheme=http.scheme) if found.is_outbound else found


def to_nanoseconds(time: Any) -> int:
    """Return a protobuf Timestamp in nanoseconds since 1970; 0 when it is absent or no time that a record can show."""
    if not (0 < time.seconds < _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000):
        return 0
    return int(time.seconds * 1_000_000_000 + time.nanos)


def _authority(http: Any) -> str:
    """Return whom an outbound request calls; every form in which the request says it must be the same."""
    if http.HasField("header_map"):
        lines = [line.raw_value or line.value for line in http.header_map.headers if line.key.lower() in _AUTHORITY]
    else:
        lines = [value for key, value in http.headers.items() if key.lower() in _AUTHORITY]
    if len(http.host) > MAX_AUTHORITY_BYTES:
        raise Refusal(Reason.REQUEST_MALFORMED, f"the host has more than {MAX_AUTHORITY_BYTES} bytes")
    if any(line not in (http.host, http.host.encode()) for line in lines):
        raise Refusal(Reason.HEADER_AMBIGUOUS, "the host stands in two forms that disagree")
    return str(http.host)


def _method(method: str) -> str:
    if not (method.isascii() and method.isalpha() and len(method) <= MAX_METHOD_BYTES):
        raise Refusal(Reason.REQUEST_MALFORMED, "the method is not a short word of letters")
    return method


def _extensions(extensions: Mapping[str, str]) -> Mapping[str, str]:
    if not extensions:
        return {}
    if len(extensions) > MAX_EXTENSIONS:
        raise Refusal(Reason.REQUEST_MALFORMED, f"more than {MAX_EXTENSIONS} context extensions")
    copied = dict(extensions)
    if max(map(len, copied.values())) > MAX_EXTENSION_BYTES:
        raise Refusal(Reason.REQUEST_MALFORMED, f"a context extension has more than {MAX_EXTENSION_BYTES} bytes")
    return copied


def _headers(http: Any) -> Mapping[str, str]:
    if http.HasField("header_map"):
        if http.headers:
            raise Refusal(Reason.HEADER_AMBIGUOUS, "the headers came in both forms")
        lines = http.header_map.headers
        _check_count(len(lines))
        # Half of a request's headers mean nothing to us: their values are never touched.
        kept = [(name, line.raw_value or line.value) for line in lines if (name := line.key.lower()) in _KEPT_HEADERS]
    else:
        _check_count(len(http.headers))
        kept = [(name, value) for key, value in http.headers.items() if (name := key.lower()) in _KEPT_HEADERS]
    return _once(kept)


def _check_count(count: int) -> None:
    if count > MAX_HEADERS:
        raise Refusal(Reason.REQUEST_MALFORMED, f"more than {MAX_HEADERS} headers")


def _once(lines: list[tuple[str, str | bytes]]) -> Mapping[str, str]:
    """Check each line, and that what must stand once does."""
    headers = {name: _header_text(name, value) for name, value in lines}
    if len(headers) != len(lines):
        _refuse_duplicates([name for name, _ in lines])
        headers |= dict.fromkeys(_CORRELATION_HEADERS & headers.keys(), "")
    for name in _COMMALESS:
        if name in headers and "," in headers[name]:
            raise Refusal(Reason.HEADER_AMBIGUOUS, f"{name} stands more than once")
    return headers


def _refuse_duplicates(names: list[str]) -> None:
    for name in names:
        if name not in _CORRELATION_HEADERS and names.count(name) > 1:
            raise Refusal(Reason.HEADER_AMBIGUOUS, f"{name} stands more than once")


def _header_text(name: str, value: str | bytes) -> str:
    if len(value) > MAX_HEADER_BYTES:
        raise Refusal(Reason.REQUEST_MALFORMED, f"{name} has more than {MAX_HEADER_BYTES} bytes")
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    if name in _TEXT_HEADERS or (text.isascii() and text.isprintable()):
        return text
    if name in _CORRELATION_HEADERS:
        return ""
    reason = Reason.IDENTITY_INVALID if name == XFCC else Reason.REQUEST_MALFORMED
    raise Refusal(reason, f"{name} is not printable ASCII")


def _body(http: Any, headers: Mapping[str, str], max_body_bytes: int) -> Body:
    data = http.raw_body
    if http.body:
        if data:
            raise Refusal(Reason.REQUEST_MALFORMED, "the body came in both forms")
        data = http.body.encode()
    if len(data) > max_body_bytes or http.size > max_body_bytes:
        raise Refusal(Reason.BODY_TOO_LARGE, f"the body has more than {max_body_bytes} bytes")
    if not data:
        # Here the marker says nothing: where Envoy buffers no body, a client's own marker comes through.
        return Body(BodyState.MISSING, b"") if _announced(http, headers) else NO_BODY
    # Envoy counts every body that it shows; where the count is absent, its marker alone speaks.
    whole = headers.get(PARTIAL_BODY) == "false" and http.size in {len(data), 0}
    return Body(BodyState.WHOLE if whole else BodyState.PARTIAL, data)


def _announced(http: Any, headers: Mapping[str, str]) -> bool:
    """Whether a request whose body did not come has one, or may have one for all that we see."""
    length = headers.get(CONTENT_LENGTH)
    if length is not None:
        return length.strip("0") != "" or TRANSFER_ENCODING in headers
    return http.size > 0 or TRANSFER_ENCODING in headers or http.method not in BODYLESS_METHODS
