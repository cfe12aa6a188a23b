"""Whom an outbound request calls: one reading, or a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.attributes.authority import Authority, AuthorityError, is_address, parse_authority, parse_host

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])

READ = {
    "api.example.com": Authority("api.example.com", None),
    "API.Example.COM": Authority("api.example.com", None),
    "api.example.com.": Authority("api.example.com", None),
    "api.example.com.:8443": Authority("api.example.com", 8443),
    "api.example.com:1": Authority("api.example.com", 1),
    "api.example.com:65535": Authority("api.example.com", 65535),
    "retrieval-agent": Authority("retrieval-agent", None),
    "xn--bcher-kva.example": Authority("xn--bcher-kva.example", None),
    "a--b.example": Authority("a--b.example", None),
    "1.2.3.4.example": Authority("1.2.3.4.example", None),
    "0xcafe": None,
    "192.0.2.7": Authority("192.0.2.7", None),
    "192.0.2.7:80": Authority("192.0.2.7", 80),
    "[2001:db8::1]": Authority("[2001:db8::1]", None),
    "[2001:DB8::1]:443": Authority("[2001:db8::1]", 443),
    LONGEST: Authority(LONGEST, None),
    f"{LONGEST}.:65535": Authority(LONGEST, 65535),
}
HOSTILE = [
    *("", ".", "..", ":", ":443", "a..b", ".a", "a.b..", "-a", "a-", "a.-b", "a_b", "_dmarc.example.com", "*", "*.example.com"),
    *("user@api.example.com", "api.example.com@evil.example", "user:pass@a", "@a", "a@", "a:443@b"),
    *("a b", " a", "a ", "a\t", "a\n", "a\r\nx: y", "a\0", "a\x7f", "\ufeffa", "a\u200b", "a\u00ad"),
    *("bücher.example", "\uff45xample.com", "example\u3002com", "ex\u0430mple.com", "\u212a.example", "\u017f.example", "①.example"),
    *("a%2eb", "%61", "a%00.example.com", "a/b", "a\\b", "a?b", "a#b", "a,b", "a;b", "http://a", "//a", "a&b", "a=b", "{a}"),
    *("a:", "a:0", "a:00", "a:0443", "a:65536", "a:99999", "a:123456", "a:+443", "a:-1", "a:4 43", "a:http", "a:443:443", "a:٤٤٣"),
    *("2130706433", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "0x", "127.0.0.0x1", "0177.0.0.1", "127.0.0.01", "256.0.0.1"),
    *("1.2.3.4.5", "127.0.0.1.", "1.2.3", "example.1", "a.0x1f", "0", "127.0.0.1:0"),
    *("::1", "2001:db8::1", "[]", "[", "]", "[::1", "::1]", "[::1]]", "[[::1]]", "[::1]a", "[::1].", "[::1%25lo]", "[::1%lo]"),
    *("[0:0:0:0:0:0:0:1]", "[2001:db8:0::1]", "[2001:0db8::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
    *("[v1.a]", "[a]", "[::1]:", "[::1]:0", "[:::]", "a" * 64, f"{LONGEST}e", f"a.{LONGEST}", "a" * 300),
]  # fmt: skip


@pytest.mark.parametrize(("text", "authority"), READ.items())
def test_reading(text: str, authority: Authority | None) -> None:
    """Lower case, no trailing dot, the port apart; what a resolver takes for a number is none of these."""
    if authority is None:
        with pytest.raises(AuthorityError):
            parse_authority(text)
    else:
        assert authority == parse_authority(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_authority(text: str) -> None:
    """What has two readings has none, and the refusal does not repeat it."""
    with pytest.raises(AuthorityError) as caught:
        parse_authority(text)
    assert len(text) < 5 or text not in str(caught.value)


@pytest.mark.parametrize("byte", range(256))
def test_every_character_of_a_name(byte: int) -> None:
    """Letters, digits, dashes inside and dots between: no other of the first 256 characters stands in a name."""
    inside = f"a{chr(byte)}b.example"
    if byte < 128 and (chr(byte).isalnum() or chr(byte) in "-."):
        assert inside.lower() == parse_host(inside)
    else:
        with pytest.raises(AuthorityError):
            parse_host(inside)


@given(st.text("aB0-.:[]@%_x*\n é", max_size=20) | st.text(max_size=20))
def test_one_reading_only(text: str) -> None:
    """What is read stays as it is when it is read again, in ASCII, and names no second host."""
    try:
        host, port = parse_authority(text)
    except AuthorityError:
        return
    assert (host, port) == parse_authority(host if port is None else f"{host}:{port}")
    assert host.isascii()
    assert host == host.lower()
    assert not set("@%/\\ \n*_") & set(host)
    assert text.lower().startswith(host)


def test_addresses_are_told_from_names() -> None:
    """A name never counts as an address, nor an address as a name."""
    assert [True, True, False, False] == [
        is_address(parse_host(text)) for text in ("[::1]", "192.0.2.7", "1.2.3.4.example", "a")
    ]
