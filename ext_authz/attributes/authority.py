"""The host and port that an outbound request calls: one reading only.

1. A host is a name in lower case without its trailing dot, or an address in the one form that has no other spelling.
2. What a resolver, Envoy and we could read in different ways is refused, never repaired.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

# Bytes of a host and its port: a name has at most 253 (RFC 1035 section 2.3.4), beside a trailing dot and ":65535".
MAX_AUTHORITY_BYTES = 260
MAX_NAME_CHARACTERS = 253
MAX_PORT = 65535

# RFC 3986 section 3.2.2, narrowed:
#   authority = host [ ":" port ]              ; no userinfo: what stands before "@" looks like the host
#   host      = name / IPv4address / "[" IPv6address "]"       ; no pct-encoded, no sub-delims, no zone, no IPvFuture
#   name      = label *( "." label ) [ "." ]   ; RFC 1123 section 2.1: letters, digits and dashes inside, at most 63
#   port      = 1*5DIGIT                       ; 1 to 65535 without leading zeros; ":" alone is none
# IDNA names stand as they are on the wire (RFC 5890 section 2.3.2.1: xn-- labels); other characters than ASCII have no
# single mapping. An underscore is in no host's name (RFC 952), and some resolvers take it, some do not.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:]*\]|[A-Za-z0-9.-]*)(?::([1-9][0-9]{0,4}))?")
# A last label like these makes resolvers read the whole as an IPv4 address: 2130706433, 127.1, 0x7f.1 (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class AuthorityError(ValueError):
    """The text names no host that can be read in one way only; the message never repeats it."""


class Authority(NamedTuple):
    """A host, and the port where one was written."""

    host: str
    port: int | None


def parse_authority(text: str) -> Authority:
    """Read what stands in `:authority` or `host`. Raises AuthorityError."""
    match = _AUTHORITY.fullmatch(text) if len(text) <= MAX_AUTHORITY_BYTES else None
    if match is None:
        raise AuthorityError("expected a host in ASCII, and a port from 1 to 65535 where one is written")
    host, port = match.groups()
    if port is not None and int(port) > MAX_PORT:
        raise AuthorityError("a port is at most 65535")
    return Authority(parse_host(host), None if port is None else int(port))


def parse_host(text: str) -> str:
    """Return a host in the form in which hosts are compared. Raises AuthorityError."""
    if text.startswith("["):
        return _ipv6(text)
    name = text.lower().removesuffix(".") if text.isascii() else ""
    if _NAME.fullmatch(name) is None or len(name) > MAX_NAME_CHARACTERS:
        raise AuthorityError("the host is no name of letters, digits, dashes and dots")
    if _NUMBER.fullmatch(name.rpartition(".")[2]) is not None:
        return _ipv4(text)
    return name


def is_address(host: str) -> bool:
    """Whether a host that `parse_host` returned is an IP address."""
    return host.startswith("[") or host.rpartition(".")[2].isdecimal()


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))  # takes four decimal numbers without leading zeros, nothing else
    except ValueError:
        raise AuthorityError("a host that ends in a number is an IPv4 address: four numbers with dots") from None


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text[1:-1] if text.endswith("]") else "")
    except ValueError:
        raise AuthorityError("what stands in brackets is an IPv6 address") from None
    if address.ipv4_mapped is not None or f"[{address.compressed}]" != text.lower():
        raise AuthorityError("an IPv6 address has its shortest form, and no IPv4 address inside (RFC 5952)")
    return text.lower()
