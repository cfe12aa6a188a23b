"""Where something listens: a TCP address or a unix socket."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from ext_authz.render.host import parse_host

# sockaddr_un.sun_path on Linux, less the closing zero (unix(7)).
MAX_SOCKET_PATH_BYTES = 107
MAX_PORT = 65535

# RFC 3986 section 3.2.2: an IPv6 address stands in brackets, so that its colons are not taken for the port's.
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An IP address or DNS name, and a port. Build it with `parse_address` or `parse_tcp_address`."""

    host: str
    port: int

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The host as an IP address; None where it is a name that must be looked up."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_local(self) -> bool:
        """Whether nothing beyond this machine (in Kubernetes: this pod) reaches it."""
        return self.ip is not None and self.ip.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix socket. Build it with `parse` or `parse_address`."""

    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:/absolute/path`. Raises ValueError."""
        scheme, _, path = text.partition(":")
        if scheme != "unix" or not path.startswith("/") or not path.isprintable():
            raise ValueError("expected unix:/absolute/path")
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes")
        return cls(path)

    @property
    def is_local(self) -> bool:
        """Whether nothing beyond this machine reaches it: always."""
        return True

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_tcp_address(text: str) -> TcpAddress:
    """Read `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError("expected HOST:PORT or [IPV6]:PORT")
    ipv6, name, port = match.groups()
    if not 0 < int(port) <= MAX_PORT:
        raise ValueError(f"a port is a number from 1 to {MAX_PORT}")
    return TcpAddress(str(IPv6Address(ipv6)) if ipv6 else parse_host(name), int(port))


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:/absolute/path`. Raises ValueError."""
    return UnixAddress.parse(text) if text.startswith("unix:") else parse_tcp_address(text)


def parse_listen_address(text: str) -> Address:
    """Read an address to listen on: Envoy binds to an IP address, not to a name. Raises ValueError."""
    address = parse_address(text)
    if isinstance(address, TcpAddress) and address.ip is None:
        raise ValueError("expected an IP address: Envoy does not look up the name of a listener")
    return address


def parse_local_address(text: str) -> Address:
    """Read an address that nobody beyond this machine reaches: what passes there is not encrypted. Raises ValueError."""
    address = parse_address(text)
    if not address.is_local:
        raise ValueError("expected a loopback IP address or a unix socket: nothing encrypts what passes here")
    return address
