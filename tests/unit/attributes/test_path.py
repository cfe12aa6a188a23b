"""A request path is accepted when it can be read in one way only."""

import pytest

from ext_authz.attributes.path import MAX_PATH_BYTES, Target, parse_target
from ext_authz.errors import Reason, Refusal


@pytest.mark.parametrize(
    ("path", "query", "text"),
    [
        ("/", "", "/"),
        ("/v1/search", "", "/v1/search"),
        ("/v1/search", "q=x", "/v1/search?q=x"),
        ("/v1/search/", "", "/v1/search/"),
        ("/a", "", "/a?"),
        ("/a", "b?c", "/a?b?c"),
        ("/a", "x=/../%2f%00;y", "/a?x=/../%2f%00;y"),
        ("/a.b/..c/...", "", "/a.b/..c/..."),
        ("/!$&'()*+,=:@-._~", "", "/!$&'()*+,=:@-._~"),
        ("/a2a/v1/message:send", "", "/a2a/v1/message:send"),
        ("/caf%C3%A9/%20x", "", "/caf%C3%A9/%20x"),
        ("/%5b%5D%7c", "", "/%5b%5D%7c"),
    ],
)
def test_paths_with_one_reading(path: str, query: str, text: str) -> None:
    """The path ends at the first question mark, and both parts come out as they came in."""
    assert Target(path, query) == parse_target(text)


@pytest.mark.parametrize(
    "text",
    [
        *("//", "//a", "/a//b", "/a//", "/.", "/..", "/./a", "/../a", "/a/.", "/a/..", "/a/./b", "/a/../b"),
        *("/a;b", "/a;b=c/d", "/a#b", "/a?b#c", "/a\\b", "/a b", "/a\tb", "/a\nb", "/a\x00b", "/a\x7fb", "/a?b c", "/a?\n"),
        *("/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%3bb", "/a%3Bb", "/a%23b", "/a%3fb", "/a%3Fb", "/a%25b", "/a%252fb"),
        *("/a%00", "/a%0a", "/a%1f", "/a%7f", "/%2e", "/%2e%2e/a", "/.%2e/a", "/%2E/a", "/%61", "/%5a", "/%5F", "/%7e", "/%30"),
        *("/a%", "/a%2", "/a%zz", "/a%u002f", "/100%", "/a%c0%af", "/a%e0%80%af", "/a%ff", "/a%c3", "/a%ed%a0%80"),
        *("/a%ef%bc%8f", "/a%ef%bc%8eb", "/a%e2%80%a5", "/e%cc%81", "/a%e2%80%ae", "/a%c2%a0", "/a%c2%85"),
        *('/"', "/<", "/>", "/[a]", "/^", "/`", "/{a}", "/|", "/caf\u00e9", "/a\u2215b", "/a?caf\u00e9"),
    ],
)  # fmt: skip
def test_paths_with_several_readings(text: str) -> None:
    """Whatever one reader could merge, cut, decode or fold and another not is refused."""
    with pytest.raises(Refusal) as refusal:
        parse_target(text)
    assert Reason.PATH_AMBIGUOUS is refusal.value.reason


@pytest.mark.parametrize("text", ["", "a", "*", "?a", "http://a/b", "retriever:443", " /a", "\u2215a"])
def test_path_begins_with_a_slash(text: str) -> None:
    """Any other form of a request target names no path."""
    with pytest.raises(Refusal) as refusal:
        parse_target(text)
    assert Reason.REQUEST_MALFORMED is refusal.value.reason


@pytest.mark.parametrize("text", ["/" + "a" * (MAX_PATH_BYTES - 1), "/a?" + "b" * (MAX_PATH_BYTES - 3)])
def test_longest_path(text: str) -> None:
    """A path of exactly the limit passes, one byte more does not."""
    assert len(text) == sum(map(len, parse_target(text))) + text.count("?")
    with pytest.raises(Refusal) as refusal:
        parse_target(text + "x")
    assert Reason.REQUEST_MALFORMED is refusal.value.reason


def test_refusal_does_not_repeat_the_path() -> None:
    """What a caller wrote does not come back in the detail."""
    for text in ("/canary//", "canary", "/canary" * 2000):
        with pytest.raises(Refusal) as refusal:
            parse_target(text)
        assert "canary" not in refusal.value.detail
