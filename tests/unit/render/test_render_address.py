"""Addresses, names, path prefixes and durations are read strictly."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from ext_authz.render.address import (
    Address,
    TcpAddress,
    UnixAddress,
    parse_address,
    parse_listen_address,
    parse_local_address,
)
from ext_authz.render.duration import format_duration, parse_duration
from ext_authz.render.host import parse_host, parse_name, parse_path_prefix

ADDRESSES = {
    "127.0.0.1:8080": TcpAddress("127.0.0.1", 8080),
    "[::1]:8080": TcpAddress("::1", 8080),
    "database-agent.agents.svc:65535": TcpAddress("database-agent.agents.svc", 65535),
    "unix:/run/ext-authz/check.sock": UnixAddress("/run/ext-authz/check.sock"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_address(text: str) -> None:
    """An address is read, and written as it was."""
    address = parse_address(text)

    assert ADDRESSES[text] == address
    assert text == str(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        "host",
        "host:",
        ":8080",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:80\n",
        "::1:8080",
        "[127.0.0.1]:80",
        "300.1.1.1:80",
        "UPPER:80",
        "a_b:80",
        "unix:relative",
        "unix:",
        "unix:/a\nb",
        "unix:/" + "a" * 107,
    ],
)
def test_no_address(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"expected|has at most|is a number|Expected"):
        parse_address(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_local_address, "0.0.0.0:80"),
        (parse_local_address, "10.0.0.1:80"),
        (parse_local_address, "localhost:80"),
        (parse_listen_address, "database-agent:80"),
    ],
)
def test_address_that_does_not_fit(parse: Callable[[str], Address], text: str) -> None:
    """What is not encrypted stays on loopback, and a listener needs an IP address."""
    with pytest.raises(ValueError, match="expected"):
        parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "unix:/a"])
def test_local_address(text: str) -> None:
    """Loopback and unix sockets are local."""
    assert parse_local_address(text).is_local


@pytest.mark.parametrize("name", ["a", "database-agent", "a.b.c", "1a", "9.a", "a" * 63])
def test_name(name: str) -> None:
    """A DNS name in lower case is a name."""
    assert name == parse_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "a.", ".a", "a..b", "-a", "a-", "a:80", "*", "*.a", "1.2.3.4", "1", "a/b", "a\n", "a" * 64, "a." * 127],
)
def test_no_name(name: str) -> None:
    """Whatever could be read in another way is none."""
    with pytest.raises(ValueError, match="expected a DNS name"):
        parse_name(name)


def test_host() -> None:
    """A host may be an IPv4 address too."""
    assert "127.0.0.1" == parse_host("127.0.0.1")


@pytest.mark.parametrize("prefix", ["/a", "/v1/stream", "/pkg.Service", "/..a/b.."])
def test_path_prefix(prefix: str) -> None:
    """Whole segments are a prefix."""
    assert prefix == parse_path_prefix(prefix)


@pytest.mark.parametrize(
    "prefix", ["", "/", "a", "/a/", "//a", "/a//b", "/a/../b", "/.", "/a%2fb", "/a;b", "/a?b", "/a\n"]
)
def test_no_path_prefix(prefix: str) -> None:
    """What normalisation would change, or what could match every path, is none."""
    with pytest.raises(ValueError, match="expected the first segments"):
        parse_path_prefix(prefix)


DURATIONS = {
    "50ms": timedelta(milliseconds=50),
    "1s": timedelta(seconds=1),
    "10m": timedelta(minutes=10),
    "1500ms": timedelta(milliseconds=1500),
}


@pytest.mark.parametrize("text", DURATIONS)
def test_duration(text: str) -> None:
    """A duration is read, and written in the largest unit that fits."""
    assert DURATIONS[text] == parse_duration(text)
    assert text == format_duration(DURATIONS[text])


def test_fraction_of_a_second() -> None:
    """Fractions are read."""
    assert timedelta(milliseconds=250) == parse_duration("0.25s")


@pytest.mark.parametrize("text", ["", "50", "0ms", "0s", "0.5ms", "-1s", "1h", "1 s", "1s\n", "٣s", "9999999s"])
def test_no_duration(text: str) -> None:
    """Without a unit, or shorter than a millisecond, it is none."""
    with pytest.raises(ValueError, match="expected"):
        parse_duration(text)
