"""The request path: one reading only.

Envoy normalises before it asks (normalize_path, merge_slashes, REJECT_REQUEST for escaped slashes). Where it did not, or
where what is left could still mean two things to Envoy, to us and to the application, the request is refused.
"""

import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ext_authz.errors import Reason, Refusal

# Bytes of path and query together. Envoy's own cap on all headers is 60 KiB; servers commonly stop at 8 KiB a line.
MAX_PATH_BYTES = 8192

# RFC 3986 section 3.3, narrowed:
#   path    = 1*( "/" segment ) [ "/" ]       ; no empty segment inside: "//" merges in some readers
#   segment = 1*( unreserved / sub-delims less ";" / ":" / "@" / pct-encoded )     ; neither "." nor ".."
#   ";" cuts matrix parameters in some servers (CVE-2026-73511, CVE-2026-73553); "#" must not reach a server at all
#   (CVE-2021-32779); "\" is "/" to some. A percent sign may encode neither what needs no encoding (section 2.3: equal
#   paths would differ) nor "/", "\", ";", "#", "?", "%" or a control character (decoding twice, or early, moves
#   segment borders).
_UNRESERVED = r"[A-Za-z0-9\-._~]"
_ENCODED = (
    r"%(?!2[dDeEfF35]|3[0-9bBfF]|4[1-9a-fA-F]|5[0-9aAcCfF]|6[1-9a-fA-F]|7[0-9aAeEfF]|[01][0-9a-fA-F])[0-9a-fA-F]{2}"
)
_SEGMENT = rf"(?!\.{{1,2}}(?:/|\Z))(?:{_UNRESERVED}|[!$&'()*+,=:@]|{_ENCODED})+"
_PATH = re.compile(rf"(?:/{_SEGMENT})*/?")
# RFC 3986 section 3.4; more is common in practice, but never "#", a control character or a byte above 126.
_QUERY = re.compile(r"[!-\"$-~]*")


class Target(NamedTuple):
    """A request path without its query, and the query without its question mark."""

    path: str
    query: str


def parse_target(text: str) -> Target:
    """Split `:path` into path and query. Raises Refusal when it can be read in more than one way."""
    if not text.startswith("/"):
        raise Refusal(Reason.REQUEST_MALFORMED, "the path does not begin with a slash")
    if len(text) > MAX_PATH_BYTES:
        raise Refusal(Reason.REQUEST_MALFORMED, f"the path has more than {MAX_PATH_BYTES} bytes")
    path, _, query = text.partition("?")
    if _PATH.fullmatch(path) is None or _QUERY.fullmatch(query) is None or not _decodes_one_way(path):
        raise Refusal(Reason.PATH_AMBIGUOUS)
    return Target(path, query)


def _decodes_one_way(path: str) -> bool:
    """Whether the encoded bytes are printable UTF-8 that no normalisation changes.

    Overlong forms (`%c0%af`) and full-width characters (`%ef%bc%8f`) become a slash or a dot in lenient readers.
    """
    if "%" not in path:
        return True
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return decoded.isprintable() and unicodedata.is_normalized("NFKC", decoded)
