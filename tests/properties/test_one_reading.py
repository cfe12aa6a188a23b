"""What is accepted has one reading: paths and JSON bodies."""

import json
import unicodedata
from typing import Any, NoReturn
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties.strategies import CHARACTERS, EXAMPLES, json_values

from ext_authz.attributes.body import parse_json
from ext_authz.attributes.path import Target, parse_target
from ext_authz.errors import Reason, Refusal

# Pieces of paths that readers disagree on, and harmless ones between them.
PIECES = [
    *(
        "/",
        "//",
        ".",
        "..",
        "/./",
        "/../",
        ";",
        "?",
        "#",
        "\\",
        "%",
        "a",
        "b1",
        "_",
        "~",
        "@",
        ":",
        "=",
        "&",
        "+",
        " ",
        "*",
    ),
    *(
        "%2f",
        "%2F",
        "%5c",
        "%2e",
        "%2E%2e",
        "%25",
        "%252f",
        "%3b",
        "%23",
        "%3f",
        "%00",
        "%0a",
        "%7f",
        "%20",
        "%61",
        "%41",
    ),
    *("%c3%a9", "%C3%A9", "%c0%af", "%ef%bc%8f", "%e2%80%a5", "%e2%80%ae", "%f0%9f%98%80", "%c3", "%u002f", "\u00e9"),
]
paths = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "/" + "".join(pieces))


def _target(text: str) -> Target | None:
    try:
        return parse_target(text)
    except Refusal:
        return None


@EXAMPLES
@given(paths | st.text(max_size=20).map("/".__add__))
@example("/v1/documents/caf%C3%A9")
def test_accepted_paths_have_one_reading(text: str) -> None:
    """Normalising, merging slashes, decoding once or twice and folding leave the segments of a path where they are."""
    target = _target(text)
    if target is None:
        return
    path, query = target
    assert text in {path, f"{path}?{query}"}
    decoded = unquote_to_bytes(path).decode("utf-8")  # strict: overlong forms and surrogates would raise
    assert decoded == unquote(decoded, errors="strict") == unicodedata.normalize("NFKC", decoded)
    segments = path.split("/")
    assert len(segments) == len(decoded.split("/")) == len(decoded.replace("\\", "/").split("/"))
    assert all(unquote(segment) not in {"", ".", ".."} for segment in segments[1:-1])
    assert unquote(segments[-1]) not in {".", ".."}
    assert not set(";?#\\") & set(decoded)
    assert decoded.isprintable()
    assert "#" not in query
    assert query.isascii()
    assert "" == query or query.isprintable()


def test_every_character_at_every_place() -> None:
    """A character in the clear is part of a path only where RFC 3986 has it and no reader cuts, folds or decodes it."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@")
    for character in CHARACTERS:
        inside, alone = _target(f"/a{character}b"), _target(f"/{character}")
        assert (character in allowed or character in "/?") is (inside is not None), repr(character)
        assert (character in allowed - {"."} or character == "?") is (alone is not None), repr(character)


def test_every_encoded_byte() -> None:
    """A byte may be encoded only where it must be and where decoding it moves nothing."""
    refused = set(range(33)) - {32} | {127} | set(b"/\\;?#%-._~") | set(range(128, 256))
    refused |= set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    for byte in range(256):
        for form in (f"/a%{byte:02x}", f"/a%{byte:02X}"):
            assert (byte not in refused) is (_target(form) is not None), form


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _strictly(data: bytes) -> Any:
    """Return what the standard library reads when it is told to be strict; raise ValueError otherwise."""
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


signs = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ",", ":", '"a"', '"\\u0061"', '"b"', "1", "-0", "1e5", "true", "null", "NaN", "-Infinity", " ", "\n", "\x0c", "\ufeff", "'", '"']
    ),
    max_size=10,
).map("".join)  # fmt: skip


@EXAMPLES
@given(signs.map(str.encode) | st.binary(max_size=20))
def test_json_is_what_a_strict_reader_accepts(data: bytes) -> None:
    """A body is accepted exactly when a strict reader accepts it, and with the same value."""
    try:
        expected = _strictly(data)
    except ValueError:
        expected = Refusal
    try:
        value = parse_json(data)
    except Refusal:
        value = Refusal
    assert _same(expected, value)


@EXAMPLES
@given(json_values, st.sampled_from([None, 2]), st.booleans())
def test_json_round_trip(value: Any, indent: int | None, ascii_only: bool) -> None:  # noqa: FBT001
    """Every JSON value is read back, however it was written."""
    assert _same(value, parse_json(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()))


@EXAMPLES
@given(st.dictionaries(st.text(max_size=5), json_values, min_size=1, max_size=4), st.data())
def test_duplicate_keys_at_any_depth(members: dict[str, Any], data: st.DataObject) -> None:
    """A key that stands twice is refused, however deep and however it is spelled."""
    key = data.draw(st.sampled_from(sorted(members)))
    spelled = "".join(f"\\u{ord(character):04x}" if ord(character) < 0x10000 else character for character in key)
    pairs = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members.items()] + [f'"{spelled}":0']
    text = "{" + ",".join(data.draw(st.permutations(pairs))) + "}"
    for _ in range(data.draw(st.integers(0, 3))):
        text = f'{{"x":[{text}]}}'
    with pytest.raises(Refusal) as refusal:
        parse_json(text.encode())
    assert Reason.BODY_DUPLICATE_KEY is refusal.value.reason
