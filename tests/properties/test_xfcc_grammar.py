"""The XFCC parser against a reading of the grammar by hand: every character at every place, and headers made of its signs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties.oracles import Elements, names_a_peer, read_xfcc
from properties.strategies import CHARACTERS, EXAMPLES

from ext_authz.errors import Refusal
from ext_authz.identity.xfcc import XfccMode, immediate_peer, parse_xfcc

HASH = "0a" * 32
# A key, an equals sign, both kinds of value, both escapes, both separators.
HEADER = f'URI=spiffe://a/b;Subject="c\\"d\\\\e\\f,";By=spiffe://a/g;Hash={HASH},DNS=h=;uri="spiffe://a/i";hash={HASH}'
# Between the first and the last digits of a hash every place is like the next.
PLACES = [place for place in range(len(HEADER) + 1) if HEADER[max(0, place - 3) : place + 3].count("0a") < 3]


def _read(header: str) -> Elements | None:
    """Return what the parser reads, in the form of the oracle: values by key, keys in the order of their first."""
    try:
        return [[(key, value) for key in pairs for value in pairs[key]] for pairs in parse_xfcc(header)]
    except Refusal:
        return None


def _by_key(elements: Elements | None) -> Elements | None:
    if elements is None:
        return None
    keys = [list(dict.fromkeys(key for key, _ in pairs)) for pairs in elements]
    return [
        [pair for key in order for pair in pairs if pair[0] == key] for order, pairs in zip(keys, elements, strict=True)
    ]


def _has_peer(header: str, mode: XfccMode) -> bool:
    try:
        immediate_peer(header, mode)
    except Refusal:
        return False
    return True


def _check(header: str) -> None:
    elements = read_xfcc(header)
    assert _by_key(elements) == _read(header), repr(header)
    last = bool(elements) and names_a_peer(elements[-1]) if elements else False
    assert last is _has_peer(header, XfccMode.APPEND_FORWARD), repr(header)
    only = last and elements is not None and len(elements) == 1
    assert only is _has_peer(header, XfccMode.SANITIZE_SET), repr(header)


def test_header_that_is_changed() -> None:
    """The header that the others change is a good one."""
    assert _has_peer(HEADER, XfccMode.APPEND_FORWARD)
    _check(HEADER)


@pytest.mark.parametrize("width", [0, 1], ids=["inserted", "in the place of another"])
def test_every_character_at_every_place(width: int) -> None:
    """A character at a place is read exactly as the grammar reads it, or refused where the grammar does not have it."""
    for place in PLACES:
        for character in CHARACTERS:
            _check(HEADER[:place] + character + HEADER[place + width :])


def test_every_place_left_out() -> None:
    """The same holds without one or two characters, and for every beginning and end of the header."""
    for place in PLACES:
        for changed in (
            HEADER[:place] + HEADER[place + 1 :],
            HEADER[:place] + HEADER[place + 2 :],
            HEADER[:place],
            HEADER[place:],
        ):
            _check(changed)


signs = st.text('",;=\\ aB', max_size=12)
pairs = st.builds(
    "{}={}".format,
    st.sampled_from(["By", "HASH", "uri", "Subject", "Cert", "Chain", "dns", "Role", ""]),
    st.sampled_from(["spiffe://a/b", '"spiffe://a/b"', HASH, '"x"', '"', '"\\"', '"\\\\"', "", "a b"]) | signs,
)
elements = st.lists(pairs, min_size=1, max_size=5).map(";".join)


@EXAMPLES
@given(st.lists(elements, min_size=1, max_size=4).map(",".join))
def test_headers_of_pairs(header: str) -> None:
    """Headers made of good and bad pairs are read as by the grammar."""
    _check(header)


@EXAMPLES
@given(elements, signs, st.booleans())
def test_client_cannot_move_the_last_element(claimed: str, junk: str, has_subject: bool) -> None:  # noqa: FBT001
    """Whatever a client sends in front, an appended header names the sidecar's peer, or nobody."""
    subject = ';Subject="O=SPIRE,C=US"' if has_subject else ""
    own = f"By=spiffe://a/g;Hash={HASH}{subject};URI=spiffe://a/peer"
    for header in (f"{claimed},{own}", f"{claimed}{junk},{own}", f"{junk},{own}"):
        try:
            peer = immediate_peer(header, XfccMode.APPEND_FORWARD)
        except Refusal:
            continue
        assert ("spiffe://a/peer", "spiffe://a/g", HASH) == (str(peer.uri), str(peer.by), peer.certificate_sha256)


@EXAMPLES
@given(st.text(max_size=60))
def test_any_text(header: str) -> None:
    """Any text is read as by the grammar."""
    _check(header)
