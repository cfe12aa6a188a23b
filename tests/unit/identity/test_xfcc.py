"""The XFCC header: whose element counts in which mode. The vectors hold the grammar's cases."""

import pytest

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.identity.xfcc import MAX_ELEMENTS, MAX_XFCC_BYTES, XfccElement, XfccMode, immediate_peer, parse_xfcc

HASH, OTHER_HASH = "ab" * 32, "cd" * 32
PLANNER, GATEWAY, RETRIEVER = (
    SpiffeId.parse(f"spiffe://example.org/{name}") for name in ("planner", "gateway", "retriever")
)
OWN = f'By={RETRIEVER};Hash={HASH};Subject="O=SPIRE,C=US";URI={PLANNER}'
CLAIMED = f"Hash={OTHER_HASH};URI={GATEWAY}"
PEER = XfccElement(PLANNER, RETRIEVER, HASH, "O=SPIRE,C=US")


def _reason(header: str, mode: XfccMode) -> Reason:
    with pytest.raises(Refusal) as refusal:
        immediate_peer(header, mode)
    return refusal.value.reason


@pytest.mark.parametrize(
    ("mode", "header"),
    [
        (XfccMode.SANITIZE_SET, OWN),
        (XfccMode.APPEND_FORWARD, OWN),
        (XfccMode.APPEND_FORWARD, f"{CLAIMED},{OWN}"),
        (XfccMode.APPEND_FORWARD, f"{CLAIMED},{CLAIMED},{OWN}"),
        (XfccMode.APPEND_FORWARD, f"Hash=;DNS=x,{OWN}"),
    ],
)
def test_immediate_peer(mode: XfccMode, header: str) -> None:
    """The sidecar's own element is the only one, or the last one where it appends."""
    assert PEER == immediate_peer(header, mode)


@pytest.mark.parametrize(
    ("mode", "header"),
    [
        (XfccMode.SANITIZE_SET, f"{OWN},{OWN}"),
        (XfccMode.SANITIZE_SET, f"{CLAIMED},{OWN}"),
        (XfccMode.SANITIZE, OWN),
        (XfccMode.FORWARD_ONLY, OWN),
        (XfccMode.ALWAYS_FORWARD_ONLY, OWN),
        (XfccMode.APPEND_FORWARD, f"Hash ,{OWN}"),
        (XfccMode.APPEND_FORWARD, f"{OWN},URI="),
        (XfccMode.APPEND_FORWARD, f"{OWN},"),
        (XfccMode.APPEND_FORWARD, f'{CLAIMED};Subject="a,{OWN}'),
    ],
)
def test_header_that_names_no_peer(mode: XfccMode, header: str) -> None:
    """An element too many, one that the sidecar did not write, and any error in any element refuse the whole header."""
    assert Reason.IDENTITY_INVALID is _reason(header, mode)


def test_pairs() -> None:
    """Keys are lower-cased, repeated pairs stay in order, and quoted values lose quotes and the two escapes only."""
    header = f'uri={PLANNER};URI={GATEWAY};SUBJECT="a\\"b\\\\c\\,d;,=";Dns=;by="",HASH=x'
    expected = [
        {"uri": [str(PLANNER), str(GATEWAY)], "subject": ['a"b\\c\\,d;,='], "dns": [""], "by": [""]},
        {"hash": ["x"]},
    ]
    assert expected == parse_xfcc(header)


def test_absent_by_and_subject() -> None:
    """Without them the peer has none; an empty Subject is one."""
    assert XfccElement(PLANNER, None, HASH, None) == immediate_peer(f"Hash={HASH};URI={PLANNER}", XfccMode.SANITIZE_SET)
    assert "" == immediate_peer(f'Hash={HASH};Subject="";URI={PLANNER}', XfccMode.SANITIZE_SET).subject


@pytest.mark.parametrize("key", ["By", "Hash", "Cert", "Chain", "Subject"])
def test_key_stands_at_most_once(key: str) -> None:
    """Of two values of one key nobody knows which counts."""
    value = {"By": str(RETRIEVER), "Hash": HASH}.get(key, "a")
    others = [pair for pair in OWN.replace('"O=SPIRE,C=US"', "a").split(";") if not pair.startswith(f"{key}=")]
    immediate_peer(";".join([*others, f"{key}={value}"]), XfccMode.SANITIZE_SET)
    for second in (f"{key}={value}", f"{key.upper()}={value}", f"{key}="):
        assert Reason.IDENTITY_INVALID is _reason(";".join([*others, f"{key}={value}", second]), XfccMode.SANITIZE_SET)


def test_limits() -> None:
    """Exactly as many bytes and elements as the limits pass; one more does not."""
    longest = f"{OWN};Cert={'a' * (MAX_XFCC_BYTES - len(OWN) - 6)}"
    assert PEER == immediate_peer(longest, XfccMode.SANITIZE_SET)
    assert Reason.IDENTITY_INVALID is _reason(f"{longest}a", XfccMode.SANITIZE_SET)
    most = ",".join([CLAIMED] * (MAX_ELEMENTS - 1) + [OWN])
    assert PEER == immediate_peer(most, XfccMode.APPEND_FORWARD)
    assert Reason.IDENTITY_INVALID is _reason(f"{CLAIMED},{most}", XfccMode.APPEND_FORWARD)


def test_refusal_does_not_repeat_the_header() -> None:
    """What a client wrote does not come back in the detail."""
    for header in (
        "canary",
        "canary=1",
        f"{OWN};Subject=canary",
        f"URI=canary;Hash={HASH}",
        f"URI={PLANNER};Hash=canary",
    ):
        with pytest.raises(Refusal) as refusal:
            immediate_peer(header, XfccMode.SANITIZE_SET)
        assert "canary" not in refusal.value.detail
