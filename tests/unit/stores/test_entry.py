"""Entries of the control store: what can be meant, and for how long it counts."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.stores import entry as entry_module
from ext_authz.stores.entry import KEPT_SECONDS, MARKED, Entry, EntryError, Kind
from ext_authz.tokens import claims

NOW = 1_795_299_009.5
AGENT = "spiffe://agents.example.com/planner-agent"
ID = "3kTMd5vPqXzWnL2aYcR8ug"
# A value that each kind takes.
VALUES = {
    Kind.TOKEN_ID: ID,
    Kind.SESSION_ID: ID,
    Kind.KEY_ID: "sts-2026-11",
    Kind.CERTIFICATE: "ab" * 32,
    Kind.SUBJECT: "user:4711",
    Kind.WORKLOAD: AGENT,
    Kind.QUARANTINE: AGENT,
}


def test_every_kind_has_its_tables() -> None:
    """A new kind cannot be forgotten in a table."""
    assert set(Kind) == KEPT_SECONDS.keys() == entry_module._CHECKS.keys() == VALUES.keys()


def test_ids_are_those_of_tokens() -> None:
    """Whatever a token can be named by can be revoked, and nothing else."""
    assert claims._ID.pattern == entry_module._ID.pattern
    assert claims._SUBJECT.pattern == entry_module._ON_BEHALF_OF.pattern


@pytest.mark.parametrize("kind", Kind)
def test_new(kind: Kind) -> None:
    """An entry needs a value and the time; what matches by a mark gets it now."""
    entry = Entry.new(kind, VALUES[kind], NOW)

    mark = int(NOW) if kind in MARKED else None
    assert Entry(kind, VALUES[kind], mark, (mark or NOW) + KEPT_SECONDS[kind], "", NOW) == entry


@pytest.mark.parametrize("kind", [Kind.KEY_ID, Kind.CERTIFICATE, Kind.WORKLOAD])
def test_what_can_sign_again_is_kept(kind: Kind) -> None:
    """Who stole a key makes new tokens with it as long as it counts, so its entry ends only when it is lifted."""
    assert Entry.new(kind, VALUES[kind], NOW).keep_until == math.inf


def test_a_token_is_kept_for_its_longest_life() -> None:
    """An hour, and the leeway of an issuer whose clock runs ahead."""
    assert NOW + 3630 == Entry.new(Kind.TOKEN_ID, ID, NOW).keep_until


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.TOKEN_ID, "x" * 15),
        (Kind.TOKEN_ID, "x" * 65),
        (Kind.TOKEN_ID, f"{ID}\n"),
        (Kind.SESSION_ID, f"{ID}="),
        (Kind.KEY_ID, ""),
        (Kind.KEY_ID, "a b"),
        (Kind.KEY_ID, "x" * 129),
        (Kind.CERTIFICATE, "AB" * 32),
        (Kind.CERTIFICATE, "ab" * 31),
        (Kind.SUBJECT, ""),
        (Kind.SUBJECT, "user:\x1b[2J"),
        (Kind.SUBJECT, "x" * 256),
        (Kind.WORKLOAD, "planner-agent"),
        (Kind.WORKLOAD, "spiffe://agents.example.com"),
        (Kind.WORKLOAD, f"{AGENT}/"),
        (Kind.QUARANTINE, "planner-agent"),
        (Kind.QUARANTINE, "spiffe://agents.example.com/*"),
    ],
)
def test_a_value_that_nothing_can_have(kind: Kind, value: str) -> None:
    """A value that no token, certificate or workload has is refused."""
    with pytest.raises(EntryError):
        Entry.new(kind, value, NOW)


@pytest.mark.parametrize("because", ["x" * 201, "two\nlines", "\x1b[31m", "\u202egnp.exe", "null\0"])
def test_a_reason_that_breaks_a_line(because: str) -> None:
    """A reason is one line of printable text."""
    with pytest.raises(EntryError, match="printable"):
        Entry.new(Kind.TOKEN_ID, ID, NOW, because=because)


@given(st.text(max_size=200))
def test_an_accepted_reason_is_one_line(because: str) -> None:
    """No accepted reason moves the cursor of a terminal."""
    try:
        Entry.new(Kind.TOKEN_ID, ID, NOW, because=because)
    except EntryError:
        return
    assert re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", because) is None


def test_a_mark_lies_in_the_past() -> None:
    """A mark beyond the leeway would be a ban, perhaps one in milliseconds: quarantine is for that."""
    assert int(NOW) + 30 == Entry.new(Kind.WORKLOAD, AGENT, NOW, mark_at=int(NOW) + 30).mark_at
    with pytest.raises(EntryError, match="use quarantine"):
        Entry.new(Kind.WORKLOAD, AGENT, NOW, mark_at=int(NOW) + 31)


@pytest.mark.parametrize("kind", sorted(frozenset(Kind) - MARKED))
def test_a_mark_where_there_is_none(kind: Kind) -> None:
    """What is revoked as a whole takes no mark, which would have no effect."""
    with pytest.raises(EntryError, match="no mark"):
        Entry.new(kind, VALUES[kind], NOW, mark_at=1)


def test_a_mark_whose_tokens_have_all_expired() -> None:
    """An entry without any effect is refused."""
    assert int(NOW) - 3629 == Entry.new(Kind.SUBJECT, "user:1", NOW, mark_at=int(NOW) - 3629).mark_at
    with pytest.raises(EntryError, match="expired"):
        Entry.new(Kind.SUBJECT, "user:1", NOW, mark_at=int(NOW) - 3630)


@pytest.mark.parametrize("keep_until", [NOW, NOW - 1, -math.inf, math.nan])
def test_an_end_that_is_no_end(keep_until: float) -> None:
    """An entry ends after its beginning."""
    with pytest.raises(EntryError, match="nothing"):
        Entry(Kind.QUARANTINE, AGENT, None, keep_until, "", NOW)


@pytest.mark.parametrize("created_at", [-1.0, math.inf, math.nan])
def test_a_beginning_that_is_no_moment(created_at: float) -> None:
    """An entry is made at some time."""
    with pytest.raises(EntryError, match="moment"):
        Entry(Kind.QUARANTINE, AGENT, None, math.inf, "", created_at)


def test_the_end_counts_from_now_when_somebody_says_it() -> None:
    """Seconds that somebody gives run from now, not from the mark."""
    assert NOW + 60 == Entry.new(Kind.SUBJECT, "user:1", NOW, mark_at=5, keep_seconds=60).keep_until


def test_in_force_ends_at_its_end() -> None:
    """In the last moment it counts, at its end it does not."""
    entry = Entry.new(Kind.QUARANTINE, AGENT, NOW, keep_seconds=10)
    assert [True, False] == [entry.is_in_force(NOW + 9.9), entry.is_in_force(NOW + 10)]


MARKS = st.integers(0, int(NOW))
KEPT = st.floats(1, math.inf, exclude_min=True)


@given(MARKS, KEPT, MARKS, KEPT)
def test_merging_never_weakens(mark: int, keep: float, older_mark: int, older_keep: float) -> None:
    """What two entries revoke, their merger revokes."""
    older = Entry.new(Kind.WORKLOAD, AGENT, NOW - 5, mark_at=min(older_mark, int(NOW - 5)), keep_seconds=older_keep)
    newer = Entry.new(Kind.WORKLOAD, AGENT, NOW, mark_at=mark, keep_seconds=keep)

    merged = newer.merged_with(older)

    assert (max(mark, older.mark_at or 0), max(older.keep_until, newer.keep_until)) == (
        merged.mark_at,
        merged.keep_until,
    )


def test_merging_keeps_a_reason() -> None:
    """The newer reason counts, the older one where there is none."""
    older, newer, silent = (
        Entry.new(Kind.TOKEN_ID, ID, NOW, because=because) for because in ("stolen", "INC-4711", "")
    )
    assert ["INC-4711", "stolen"] == [newer.merged_with(older).because, silent.merged_with(older).because]
