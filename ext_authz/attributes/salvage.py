"""What a record can still say about a request that broke the request contract.

Nothing here decides anything: these attributes go into the audit record of a refusal and nowhere else.
"""

from typing import Any

from ext_authz.attributes.body import NO_BODY
from ext_authz.attributes.request import (
    DIRECTION_EXTENSION,
    EGRESS,
    MAX_METHOD_BYTES,
    REQUEST_ID,
    TRACEPARENT,
    Attributes,
    to_nanoseconds,
)
from ext_authz.pb.external_auth_pb2 import CheckRequest

# Characters of a path or principal that was not read as one: enough to recognise it.
MAX_SHOWN_CHARACTERS = 256
_CORRELATION = (TRACEPARENT, REQUEST_ID)
# Header lines looked at for correlation.
_MAX_LINES = 256

NOTHING = Attributes("", "", "", {}, "", "", "", {}, NO_BODY, 0)


def salvage_attributes(data: bytes) -> Attributes:
    """Read what can be read of a serialized CheckRequest. Never raises; unreadable parts are empty."""
    try:
        attributes = CheckRequest.FromString(data).attributes
        request = attributes.request
        return NOTHING._replace(
            principal=_shown(attributes.source.principal),
            destination=_shown(attributes.destination.principal),
            extensions=_direction(attributes.context_extensions),
            method=_shown(request.http.method[:MAX_METHOD_BYTES]),
            path=_shown(request.http.path.partition("?")[0].partition("#")[0]),
            headers=_correlation(request.http),
            received_ns=to_nanoseconds(request.time),
        )
    except Exception:  # noqa: BLE001  a record of a refusal must not fail
        return NOTHING


def _shown(text: str) -> str:
    """Return the text, shortened, with everything but printable ASCII replaced: it goes into logs."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:MAX_SHOWN_CHARACTERS])


def _direction(extensions: Any) -> dict[str, str]:
    """Keep that an outbound sidecar asked."""
    return {DIRECTION_EXTENSION: EGRESS} if extensions.get(DIRECTION_EXTENSION) == EGRESS else {}


def _correlation(http: Any) -> dict[str, str]:
    lines = [
        (line.key, line.raw_value.decode("ascii", "replace") or line.value)
        for line in http.header_map.headers[:_MAX_LINES]
    ]
    lines += [(name, http.headers[name]) for name in _CORRELATION if name in http.headers]
    return {key: _shown(value) for key, value in lines if key in _CORRELATION}
