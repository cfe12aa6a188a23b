"""The x-forwarded-client-cert header: the strict grammar, and the element that Envoy itself wrote.

1. The whole header is parsed, left to right; any error refuses the request, wherever it stands.
2. Which element is the immediate peer depends on the sidecar's mode, never on the content.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

# Bytes and elements of one header: four times what Envoy sends for a peer with certificate and chain, and more hops
# than any mesh has.
MAX_XFCC_BYTES = 65536
MAX_ELEMENTS = 16


class XfccMode(StrEnum):
    """`forward_client_cert_details` of the sidecar's HTTP connection manager."""

    SANITIZE = "sanitize"
    SANITIZE_SET = "sanitize_set"
    APPEND_FORWARD = "append_forward"
    FORWARD_ONLY = "forward_only"
    ALWAYS_FORWARD_ONLY = "always_forward_only"


# The modes in which the header is the client's own.
UNTOUCHED = frozenset({XfccMode.FORWARD_ONLY, XfccMode.ALWAYS_FORWARD_ONLY})


@dataclass(frozen=True, slots=True)
class XfccElement:
    """One proxy hop's entry: who that proxy was (`by`), and whose certificate it saw."""

    uri: SpiffeId
    by: SpiffeId | None
    certificate_sha256: str  # lower-case hexadecimal
    subject: str | None


# Envoy documents (headers.rst):
#   value    = element *( "," element )
#   element  = pair *( ";" pair )
#   pair     = key "=" ( quoted / unquoted )      ; no white space around the separators
#   key      = "By" / "Hash" / "Cert" / "Chain" / "Subject" / "URI" / "DNS"       ; in any letter case
#   quoted   = DQUOTE *( char / "\" DQUOTE / "\\" ) DQUOTE        ; then "," or ";" or the end
#   unquoted = *( any but "," ";" DQUOTE SP )
# No part can match in two ways, so the scan is linear.
_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^,;" ]*))([,;]|\Z)')
_ESCAPED = re.compile(r'\\(["\\])')
_HASH = re.compile(r"[0-9a-f]{64}")
_KEYS = frozenset({"by", "hash", "cert", "chain", "subject", "uri", "dns"})
_AT_MOST_ONCE = ("by", "hash", "cert", "chain", "subject")

_Pairs = dict[str, list[str]]


def parse_xfcc(header: str) -> list[_Pairs]:
    """Split the header into elements of key (lower case) to values, in order. Raises Refusal."""
    if len(header) > MAX_XFCC_BYTES:
        raise Refusal(Reason.IDENTITY_INVALID, f"the XFCC header has more than {MAX_XFCC_BYTES} bytes")
    if not (header.isascii() and header.isprintable()):
        raise Refusal(Reason.IDENTITY_INVALID, "the XFCC header is not printable ASCII")
    elements: list[_Pairs] = [{}]
    for key, value, separator in _pairs(header):
        elements[-1].setdefault(key, []).append(value)
        if separator == ",":
            elements.append({})
    if len(elements) > MAX_ELEMENTS:
        raise Refusal(Reason.IDENTITY_INVALID, f"the XFCC header has more than {MAX_ELEMENTS} elements")
    return elements


def immediate_peer(header: str, mode: XfccMode) -> XfccElement:
    """Return the element that the sidecar itself wrote about its peer. Raises Refusal.

    SANITIZE_SET replaces the header, so there is one element. APPEND_FORWARD adds one behind those of the client. In the
    other modes the sidecar writes none.
    """
    elements = parse_xfcc(header)
    if mode is XfccMode.SANITIZE_SET and len(elements) > 1:
        raise Refusal(Reason.IDENTITY_INVALID, "the XFCC header has more than one element")
    if mode not in {XfccMode.SANITIZE_SET, XfccMode.APPEND_FORWARD}:
        raise Refusal(Reason.IDENTITY_INVALID, f"an XFCC header under {mode} was not written by the sidecar")
    return _element(elements[-1])


def _pairs(header: str) -> Iterator[tuple[str, str, str]]:
    position, separator = 0, ","
    while separator:
        match = _PAIR.match(header, position)
        if match is None:
            raise Refusal(Reason.IDENTITY_INVALID, "the XFCC header does not follow its grammar")
        key, quoted, unquoted, separator = match.groups()
        if key.lower() not in _KEYS:
            raise Refusal(Reason.IDENTITY_INVALID, "the XFCC header has an unknown key")
        yield key.lower(), unquoted if quoted is None else _ESCAPED.sub(r"\1", quoted), separator
        position = match.end()


def _element(pairs: _Pairs) -> XfccElement:
    for key in _AT_MOST_ONCE:
        if len(pairs.get(key, ())) > 1:
            raise Refusal(Reason.IDENTITY_INVALID, f"the XFCC element has {key} more than once")
    uris = pairs.get("uri", [])
    if len(uris) != 1 or not uris[0]:  # Envoy writes `URI=` with nothing behind it for a certificate without URI SAN
        raise Refusal(Reason.IDENTITY_INVALID, "the XFCC element does not name exactly one URI")
    digest = pairs.get("hash", [""])[0]
    if _HASH.fullmatch(digest) is None:
        raise Refusal(Reason.IDENTITY_INVALID, "the XFCC element has no SHA-256 hash in lower-case hexadecimal")
    try:
        uri = SpiffeId.parse_workload(uris[0])
        by = SpiffeId.parse_workload(pairs["by"][0]) if "by" in pairs else None
    except SpiffeIdError as error:
        raise Refusal(Reason.IDENTITY_INVALID, f"the XFCC element: {error}") from None
    return XfccElement(uri, by, digest, pairs.get("subject", [None])[0])
