"""JSON in the one form that all readers understand alike."""

import json

import pytest

from ext_authz.tokens.strict_json import MAX_DEPTH, MAX_INTEGER, StrictJsonError, parse_object


def nested(levels: int) -> bytes:
    """Return an object with arrays inside, so many levels in all."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, b"{}"),
        ({}, b" \t\r\n{ } "),
        ({"a": [True, False, None, "x", 1]}, b'{"a":[true,false,null,"x",1]}'),
        ({"a": {"b": 1}, "b": {"b": 2}}, b'{"a":{"b":1},"b":{"b":2}}'),
        ({"a": "\u20ac\U0001f600"}, b'{"a":"\\u20ac\\ud83d\\ude00"}'),
        ({"a": "\u20ac\U0001f600"}, '{"a":"\u20ac\U0001f600"}'.encode()),
        ({"a": " "}, b'{"a":" "}'),
        ({"a": "\x80"}, b'{"a":"\\u0080"}'),
        ({"a": 0, "b": -1}, b'{"a":-0,"b":-1}'),
        ({"a": MAX_INTEGER, "b": -MAX_INTEGER}, f'{{"a":{MAX_INTEGER},"b":{-MAX_INTEGER}}}'.encode()),
    ],
)
def test_accepted(value: object, text: bytes) -> None:
    """Plain JSON objects are read as everybody reads them."""
    assert value == parse_object(text) == json.loads(text)


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("not JSON", b""),
        ("not JSON", b"{"),
        ("not JSON", b"{'a':1}"),
        ("not JSON", b'{"a":1,}'),
        ("not JSON", b'{"a":01}'),
        ("not JSON", b'{"a":+1}'),
        ("not JSON", b'{"a":1}{}'),
        ("not JSON", b'{"a":1}\x00'),
        ("not JSON", b'{"a":1} //'),
        ("not JSON", b"\xef\xbb\xbf{}"),
        ("not JSON", b'{"a":"\x1f"}'),
        ("not JSON", b'{"a":"\n"}'),
        ("not JSON", b"\xa0{}".decode("latin-1").encode()),
        ("not JSON", "{}".encode("utf-16-le")),
        ("not JSON", nested(100_000)),
        ("not UTF-8", "{}".encode("utf-16")),
        ("not UTF-8", b'{"a":"\xff"}'),
        ("not UTF-8", b'{"a":"\xc0\xaf"}'),
        ("not UTF-8", b'{"a":"\xed\xa0\x80"}'),
        ("not UTF-8", b'{"a":"\xf4\x90\x80\x80"}'),
        ("not an object", b"[]"),
        ("not an object", b'"a"'),
        ("not an object", b"null"),
        ("not an object", b"1"),
        ("a member stands twice", b'{"a":1,"a":1}'),
        ("a member stands twice", b'{"a":1,"\\u0061":2}'),
        ("a member stands twice", b'{"x":{"a":1,"a":1}}'),
        ("a member stands twice", b'{"x":[{"a":1,"a":1}]}'),
        ("a number is not an integer", b'{"a":1.0}'),
        ("a number is not an integer", b'{"a":1e2}'),
        ("a number is not an integer", b'{"a":-0.0}'),
        ("a number is not an integer", b'{"a":1E-400}'),
        ("a number is not an integer", b'{"a":NaN}'),
        ("a number is not an integer", b'{"a":Infinity}'),
        ("a number is not an integer", b'{"a":-Infinity}'),
        ("an integer is too large", f'{{"a":{MAX_INTEGER + 1}}}'.encode()),
        ("an integer is too large", f'{{"a":{-MAX_INTEGER - 1}}}'.encode()),
        ("an integer is too large", b'{"a":' + b"9" * 5000 + b"}"),
        ("a string holds control characters", b'{"a":"\\u0000"}'),
        ("a string holds control characters", b'{"a":"\\n"}'),
        ("a string holds control characters", b'{"a":"\\u001f"}'),
        ("a string holds control characters", b'{"a":"\x7f"}'),
        ("a string holds control characters", b'{"a":"\\ud800"}'),
        ("a string holds control characters", b'{"a":"\\udfff"}'),
        ("a string holds control characters", b'{"a":"\\ude00\\ud83d"}'),
        ("a string holds control characters", b'{"\\u0000":1}'),
        ("a string holds control characters", b'{"x":[["\\t"]]}'),
    ],
)
def test_refused(why: str, text: bytes) -> None:
    """What two readers could understand differently is refused, for the first reason that is seen."""
    with pytest.raises(StrictJsonError) as caught:
        parse_object(text)
    assert why == str(caught.value)


def test_depth() -> None:
    """MAX_DEPTH levels are read, one more is refused."""
    assert parse_object(nested(MAX_DEPTH))
    with pytest.raises(StrictJsonError, match="nested too deeply"):
        parse_object(nested(MAX_DEPTH + 1))
