"""The header value to links: one spelling, and nothing else."""

import base64
import string

import pytest
from support.delegations import signing_hash, world

from ext_authz.errors import Reason, Refusal
from ext_authz.tokens.jws import (
    MAX_CHAIN_BYTES,
    MAX_LINKS,
    decode_base64url,
    decode_link,
    encode_base64url,
    split_chain,
)

OBJECT = encode_base64url(b"{}")


def reason_of(text: str) -> Reason:
    with pytest.raises(Refusal) as caught:
        decode_link(text, 0)
    return caught.value.reason


def test_links_come_root_first() -> None:
    """A header value is cut at each ~."""
    assert ["a", "b", ""] == split_chain("a~b~")


def test_count_of_links() -> None:
    """MAX_LINKS are taken, one more is refused."""
    assert MAX_LINKS == len(split_chain("~".join("a" * MAX_LINKS)))
    with pytest.raises(Refusal, match="more than 6 links"):
        split_chain("~".join("a" * (MAX_LINKS + 1)))


def test_size() -> None:
    """MAX_CHAIN_BYTES are taken, one more is refused."""
    assert ["a" * MAX_CHAIN_BYTES] == split_chain("a" * MAX_CHAIN_BYTES)
    with pytest.raises(Refusal, match="more than 16384 bytes"):
        split_chain("a" * (MAX_CHAIN_BYTES + 1))


def test_parts_of_a_link() -> None:
    """Header and claims are objects; what was signed is the text before the last dot."""
    header, claims = encode_base64url(b'{"a":1}'), encode_base64url(b'{"b":2}')
    link = decode_link(f"{header}.{claims}.AQI", 0)
    assert ({"a": 1}, {"b": 2}, b"\1\2") == (link.header, link.claims, link.signature)
    assert link.text.rpartition(".")[0].encode() == link.signing_input


def test_signing_hash() -> None:
    """What a child carries as `par_hash` is the SHA-256 of its parent's signing input."""
    chain = world().root()
    assert signing_hash(chain) == decode_link(chain, 0).signing_hash


def test_every_character_at_every_place() -> None:
    """Only the letters of base64url may stand in a segment, only dots between segments."""
    allowed = set(string.ascii_letters + string.digits + "-_")
    link = f"{OBJECT}.{OBJECT}.AAAA"
    for place, letter in enumerate(link):
        for character in map(chr, range(256)):
            if character in allowed or character == letter:
                continue
            assert Reason.TOKEN_MALFORMED == reason_of(link[:place] + character + link[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", ".", "..", f"{OBJECT}.{OBJECT}.", f".{OBJECT}.AAAA", f"{OBJECT}..AAAA", "\u0430.b.c"]
)
def test_other_forms(text: str) -> None:
    """A link has three segments, none of them empty."""
    assert Reason.TOKEN_MALFORMED == reason_of(text)


@pytest.mark.parametrize("value", [b"[]", b'"a"', b"", b'{"a":1,"a":2}', b"\xff"])
def test_segments_that_are_no_strict_objects(value: bytes) -> None:
    """Header and claims are strict JSON objects, both of them."""
    segment = encode_base64url(value) or "AA"
    assert Reason.TOKEN_MALFORMED == reason_of(f"{segment}.{OBJECT}.AAAA")
    assert Reason.TOKEN_MALFORMED == reason_of(f"{OBJECT}.{segment}.AAAA")


def test_refusal_names_the_link() -> None:
    """The place of the link stands in the refusal, its text does not."""
    with pytest.raises(Refusal) as caught:
        decode_link("secret", 4)
    assert "link 4 of the delegation chain is not three base64url segments" == caught.value.detail


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_base64url_there_and_back(data: bytes) -> None:
    """Each sequence of bytes has one spelling."""
    assert data == decode_base64url(encode_base64url(data))


@pytest.mark.parametrize(
    "segment",
    ["A", "AAAAA", "AB", "AAB", "AA==", "AA=", "A A", "AA\n", "+/+/", "AAA*", "AA-=", "\u0430\u0430\u0430\u0430"],
)
def test_base64url_of_another_spelling(segment: str) -> None:
    """Padding, spare bits, foreign letters and impossible lengths are refused."""
    with pytest.raises(ValueError):  # noqa: PT011  (of several kinds, all of them ValueErrors)
        decode_base64url(segment)


def test_last_letter_has_one_value() -> None:
    """Of the 64 letters that could end a segment, those with spare bits set are refused."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    for prefix, spare_bits in (("A", 4), ("AA", 2), ("AAA", 0)):
        accepted = []
        for letter in alphabet:
            try:
                decode_base64url(prefix + letter)
            except ValueError:
                continue
            accepted.append(letter)
        assert [letter for index, letter in enumerate(alphabet) if index % 2**spare_bits == 0] == accepted
        assert base64.urlsafe_b64decode(f"{prefix}_{'=' * (3 - len(prefix))}")  # the library takes any of them
