"""Names in the `host` header, and the beginnings of paths."""

import re
from ipaddress import IPv4Address

# RFC 1035 section 2.3.4, in the text form without the trailing dot.
MAX_HOST_BYTES = 253

# RFC 1123 section 2.1, lower case:
#   name  = *( label "." ) label                   ; the last label is no number, so that no name looks like an address
#   label = 1*63( ALPHA / DIGIT / "-" )            ; no hyphen at either end
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")

# RFC 3986 section 3.3, less percent-encoding and parameters (`;`); no slash at the end: whole segments are compared.
_PATH_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+)+")


def parse_name(text: str) -> str:
    """Read a DNS name in lower case, without port and trailing dot. Raises ValueError."""
    if len(text) > MAX_HOST_BYTES or _NAME.fullmatch(text) is None:
        raise ValueError("expected a DNS name in lower case, without port and trailing dot")
    return text


def parse_host(text: str) -> str:
    """Read a DNS name as `parse_name` does, or an IPv4 address. Raises ValueError."""
    return text if _is_ipv4(text) else parse_name(text)


def parse_path_prefix(text: str) -> str:
    """Read the first segments of a path. Raises ValueError."""
    if _PATH_PREFIX.fullmatch(text) is None:
        raise ValueError("expected the first segments of a path, such as /v1/stream")
    return text


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
