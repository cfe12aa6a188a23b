"""Addresses that keys are fetched from: https, or this machine itself; nothing of the address is a secret.

1. Policy authors pin addresses; a token never names one.
2. What a provider's metadata names is an address by the same rules, and leads to this machine only from it.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

MAX_ADDRESS_CHARACTERS = 2048

# The characters of RFC 3986 section 2, and no other: what a reader would repair or cut differently is refused.
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


class KeyAddressError(ValueError):
    """Keys cannot be fetched from there; the text never repeats the address."""


def check_key_address(url: str) -> str:
    """Return the host of an address that keys may be fetched from. Raises KeyAddressError."""
    parts = _parts(url)
    host = parts.hostname or ""
    if "@" in parts.netloc:
        raise KeyAddressError("an address holds no user name and no password")
    if "#" in url:
        raise KeyAddressError("an address has no fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise KeyAddressError("an address begins with https://, or on this machine with http://127.0.0.1")
    if not host or "%" in parts.netloc:
        raise KeyAddressError("not an address: expected https://host/path")
    return host


def check_issuer_address(url: str) -> str:
    """Return the host of an OpenID issuer: an address without query (OpenID Connect Discovery 1.0 section 3)."""
    if "?" in url:
        raise KeyAddressError("the URL of an issuer has no query")
    return check_key_address(url)


def check_named_address(url: object, issuer: str) -> None:
    """Check an address that the metadata of `issuer` names. Raises KeyAddressError."""
    if not isinstance(url, str):
        raise KeyAddressError("the metadata names no address of keys")
    if is_loopback(check_key_address(url)) and not is_loopback(check_key_address(issuer)):
        raise KeyAddressError("the metadata of another machine names an address on this one")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or number, whatever a resolver would say."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_whole = len(url) <= MAX_ADDRESS_CHARACTERS and _CHARACTERS.fullmatch(url) is not None
        if is_whole and parts.port != 0:  # reading a wrong port raises
            return parts
    except ValueError:
        pass
    raise KeyAddressError("not an address: expected https://host/path")
