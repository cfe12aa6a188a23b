"""The SPIFFE ID parser against a reading of the standard by hand: every character at every place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties.oracles import is_spiffe_id, is_workload
from properties.strategies import CHARACTERS, EXAMPLES

from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

# Scheme, separators, trust domain and segments, each with a beginning, a middle and an end.
IDS = ["spiffe://t.d/abc/d-e", "spiffe://abc", "spiffe://a/.b/..c/d."]


def _accepts(text: str) -> bool:
    try:
        parsed = SpiffeId.parse(text)
    except SpiffeIdError:
        return False
    assert text == parsed.uri == f"spiffe://{parsed.trust_domain}{parsed.path}"
    return True


def _accepts_workload(text: str) -> bool:
    try:
        return bool(SpiffeId.parse_workload(text).path)
    except SpiffeIdError:
        return False


@pytest.mark.parametrize("text", IDS)
@pytest.mark.parametrize("width", [0, 1], ids=["inserted", "in the place of another"])
def test_every_character_at_every_place(text: str, width: int) -> None:
    """A character is accepted at a place exactly when the grammar has it there."""
    for place in range(len(text) + 1):
        for character in CHARACTERS:
            changed = text[:place] + character + text[place + width :]
            assert is_spiffe_id(changed) is _accepts(changed), repr(changed)
            assert is_workload(changed) is _accepts_workload(changed), repr(changed)


@pytest.mark.parametrize("text", IDS)
def test_every_place_left_out(text: str) -> None:
    """Without one or two of its characters an ID is one exactly when the grammar says so."""
    for place in range(len(text)):
        for width in (1, 2):
            changed = text[:place] + text[place + width :]
            assert is_spiffe_id(changed) is _accepts(changed), changed


@EXAMPLES
@given(st.text("spife:/.a-_A0%\n", max_size=30).map("spiffe://".__add__) | st.text(max_size=20))
def test_any_text(text: str) -> None:
    """Any text is a SPIFFE ID for the parser exactly when it is one by the grammar."""
    assert is_spiffe_id(text) is _accepts(text)
