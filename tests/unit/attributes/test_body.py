"""The request body: whole or refused, and strict JSON."""

from typing import Any

import pytest

from ext_authz.attributes.body import NO_BODY, Body, BodyState, parse_json
from ext_authz.errors import Reason, Refusal


@pytest.mark.parametrize("body", [Body(BodyState.WHOLE, b"{}"), NO_BODY])
def test_whole_body(body: Body) -> None:
    """A whole body gives its bytes, a request without one gives none."""
    assert body.data == body.whole()


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        (Reason.BODY_PARTIAL, Body(BodyState.PARTIAL, b"{}")),
        (Reason.BODY_MISSING, Body(BodyState.MISSING, b"")),
    ],
)
def test_body_that_is_not_whole(reason: Reason, body: Body) -> None:
    """What is not whole is refused and never handed out."""
    with pytest.raises(Refusal) as refusal:
        body.whole()
    assert reason is refusal.value.reason


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, b'{"a": [1, 2.5, null, true, "x"]}'),
        ({"a": {"a": 1}, "b": {"a": 1}}, b'{"a":{"a":1},"b":{"a":1}}'),
        ({"a": 1, "A": 2}, b'{"a":1,"A":2}'),
        ("x", b'"x"'),
        (0, b"0"),
        (None, b"null"),
        ([], b" \t\r\n[] \t\r\n"),
        ("\u00e9\u4e2d", '"\u00e9\\u4e2d"'.encode()),
        ("\U0001f600", b'"\\ud83d\\ude00"'),
    ],
)
def test_json(value: Any, data: bytes) -> None:
    """RFC 8259 texts in UTF-8 are read."""
    assert value == parse_json(data)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        (Reason.BODY_MALFORMED, b""),
        (Reason.BODY_MALFORMED, b"   "),
        (Reason.BODY_MALFORMED, b"{"),
        (Reason.BODY_MALFORMED, b'{"a":1'),
        (Reason.BODY_MALFORMED, b"{'a':1}"),
        (Reason.BODY_MALFORMED, b"{a:1}"),
        (Reason.BODY_MALFORMED, b'{"a":1,}'),
        (Reason.BODY_MALFORMED, b"[1,]"),
        (Reason.BODY_MALFORMED, b"// x\n1"),
        (Reason.BODY_MALFORMED, b"NaN"),
        (Reason.BODY_MALFORMED, b"[Infinity]"),
        (Reason.BODY_MALFORMED, b"-Infinity"),
        (Reason.BODY_MALFORMED, b'"a\nb"'),
        (Reason.BODY_MALFORMED, b'"\\x"'),
        (Reason.BODY_MALFORMED, b"\x0b1"),
        (Reason.BODY_MALFORMED, "\u00a01".encode()),
        (Reason.BODY_MALFORMED, '{"a":1}'.encode("utf-16-le")),
        (Reason.BODY_MALFORMED, b"[" * 100_000),
        (Reason.BODY_MALFORMED, b'{"a":' * 100_000),
        (Reason.BODY_MALFORMED, b"[" * 5_000 + b"]" * 5_000),
        (Reason.BODY_MALFORMED, b"9" * 5_000),
        (Reason.BODY_TRAILING, b"{} {}"),
        (Reason.BODY_TRAILING, b"{}x"),
        (Reason.BODY_TRAILING, b"1 2"),
        (Reason.BODY_TRAILING, b"01"),
        (Reason.BODY_TRAILING, b"[]\x00"),
        (Reason.BODY_TRAILING, b"{}\xc2\xa0"),
        (Reason.BODY_DUPLICATE_KEY, b'{"a":1,"a":1}'),
        (Reason.BODY_DUPLICATE_KEY, b'{"a":1,"\\u0061":2}'),
        (Reason.BODY_DUPLICATE_KEY, b'[{"x":{"a":1,"b":2,"a":3}}]'),
        (Reason.BODY_ENCODING, b'"\xff"'),
        (Reason.BODY_ENCODING, b'"\xc0\xaf"'),
        (Reason.BODY_ENCODING, b'"\xed\xa0\x80"'),
        (Reason.BODY_ENCODING, b"\xef\xbb\xbf{}"),
        (Reason.BODY_ENCODING, '{"a":1}'.encode("utf-16")),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:20]),
)
def test_what_json_readers_disagree_on(reason: Reason, data: bytes) -> None:
    """Text that is no JSON, or that two readers could read differently, is refused with the reason why."""
    with pytest.raises(Refusal) as refusal:
        parse_json(data)
    assert reason is refusal.value.reason


def test_refusal_does_not_repeat_the_body() -> None:
    """No byte of the body stands in a detail."""
    for data in (b'{"canary"', b'{"canary":1,"canary":2}', b'"canary" "canary"', b'"canary\xff"'):
        with pytest.raises(Refusal) as refusal:
            parse_json(data)
        assert "canary" not in refusal.value.detail
