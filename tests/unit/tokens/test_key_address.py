"""Which addresses keys may be fetched from."""

import pytest

from ext_authz.tokens.key_address import (
    MAX_ADDRESS_CHARACTERS,
    KeyAddressError,
    check_issuer_address,
    check_key_address,
    check_named_address,
)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://sts.example.com/jwks", "sts.example.com"),
        ("https://sts.example.com:8443/jwks?v=1", "sts.example.com"),
        ("HTTPS://STS.example.com", "sts.example.com"),
        ("https://10.0.0.1/jwks", "10.0.0.1"),
        ("https://[2001:db8::1]/jwks", "2001:db8::1"),
        ("http://127.0.0.1:8080/jwks", "127.0.0.1"),
        ("http://localhost/jwks", "localhost"),
        ("http://[::1]:8080/jwks", "::1"),
    ],
)
def test_addresses(url: str, host: str) -> None:
    """Https goes anywhere, http to this machine."""
    assert host == check_key_address(url)


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://", "https:///jwks", "https://:443/jwks", "sts.example.com", "//sts.example.com/jwks"),
        *("http://sts.example.com/jwks", "http://10.0.0.1/jwks", "http://localhost.example.com/jwks", "http://0.0.0.0/"),
        *("http://127.0.0.1.example.com/", "http://2130706433/", "http://0177.0.0.1/", "http://[::ffff:127.0.0.1]/"),
        *("ftp://sts.example.com/jwks", "file:///etc/passwd", "file://localhost/etc/passwd", "unix:///run/jwks"),
        *("spiffe://agents.example.com/sts", "javascript://x", "://x"),
        *("https://user@sts.example.com/", "https://user:secret@sts.example.com/", "http://127.0.0.1@evil.example/"),
        *("https://sts.example.com/jwks#keys", "https://sts.example.com/#"),
        *("https://sts.example.com:0/", "https://sts.example.com:65536/", "https://sts.example.com:x/"),
        *("https://sts.example.com\\@evil.example/", "https://sts.example.com/a b", " https://sts.example.com/"),
        *("https://sts.example.com/\n", "https://sts.example.com/\x00", "https://st\ts.example.com/", "https://śts.example/"),
        *("https://[::1%25eth0]/", "https://sts%2eexample.com/", "https://[::1/", "https://[x]/"),
        f"https://sts.example.com/{'a' * MAX_ADDRESS_CHARACTERS}",
    ],
)  # fmt: skip
def test_no_addresses(url: str) -> None:
    """What is unprotected, holds secrets, or could be read in two ways is refused without repeating it."""
    with pytest.raises(KeyAddressError) as caught:
        check_key_address(url)
    assert not url or "secret" not in str(caught.value)


def test_longest_address() -> None:
    """An address has at most MAX_ADDRESS_CHARACTERS."""
    url = "https://sts.example.com/".ljust(MAX_ADDRESS_CHARACTERS, "a")
    assert "sts.example.com" == check_key_address(url)


def test_an_issuer_has_no_query() -> None:
    """Behind an issuer stands a path of the metadata, so nothing may stand behind its own."""
    assert "idp.example.com" == check_issuer_address("https://idp.example.com/tenant")
    with pytest.raises(KeyAddressError, match="no query"):
        check_issuer_address("https://idp.example.com/?tenant=1")


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        (None, "https://idp.example.com"),
        (["https://idp.example.com/jwks"], "https://idp.example.com"),
        ("http://idp.example.com/jwks", "https://idp.example.com"),
        ("http://127.0.0.1/jwks", "https://idp.example.com"),
        ("https://127.0.0.1/jwks", "https://idp.example.com"),
        ("https://localhost/jwks", "https://idp.example.com"),
        ("https://user@idp.example.com/jwks", "https://idp.example.com"),
    ],
)
def test_metadata_leads_to_no_other_kind_of_place(url: object, issuer: str) -> None:
    """Metadata of another machine cannot make the server ask its own, nor without TLS."""
    with pytest.raises(KeyAddressError):
        check_named_address(url, issuer)


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        ("https://keys.example.net/v3", "https://idp.example.com"),
        ("http://127.0.0.1:1/jwks", "http://localhost:2"),
        ("https://idp.example.com/jwks", "http://localhost:2"),
    ],
)
def test_metadata_may_lead_elsewhere(url: str, issuer: str) -> None:
    """Keys may stand on another machine than the issuer, and on this one where the issuer does."""
    check_named_address(url, issuer)
