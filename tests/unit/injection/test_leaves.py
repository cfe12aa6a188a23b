import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.errors import Reason, Refusal
from ext_authz.injection.leaves import (
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_NODES,
    MAX_OPENED,
    MAX_PLACE_CHARACTERS,
    Leaf,
    body_leaves,
    form_leaves,
    query_leaves,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int) -> Any:
    value: Any = "text"
    for _ in range(levels):
        value = [value]
    return value


def test_places() -> None:
    """Strings and keys come in the order of the document, at JSON pointers; other values hold no text."""
    value = {"model": "m", "messages": [{"content": "hello"}, 7, None, True, ["deep"]]}
    assert [
        Leaf("body:/model", "model"),
        Leaf("body:/model", "m"),
        Leaf("body:/messages", "messages"),
        Leaf("body:/messages/0/content", "content"),
        Leaf("body:/messages/0/content", "hello"),
        Leaf("body:/messages/4/0", "deep"),
    ] == list(body_leaves(value))


@pytest.mark.parametrize("value", [None, 7, True, [], {}])
def test_no_text(value: object) -> None:
    """A body without strings has no leaves."""
    assert [] == list(body_leaves(value))


def test_bare_string() -> None:
    """A body that is one string has one leaf, at the root."""
    assert [Leaf("body:", "hello")] == list(body_leaves("hello"))


@pytest.mark.parametrize(
    ("shown", "key"),
    [
        ("max_tokens", "max_tokens"),
        ("_a.b-C9", "_a.b-C9"),
        ("a" * 32, "a" * 32),
        ("*", "a" * 33),
        ("*", ""),
        ("*", "9"),
        ("*", "a b"),
        ("*", "a/b"),
        ("*", "a\n"),
        ("*", "ключ"),
    ],
)
def test_keys_in_places(shown: str, key: str) -> None:
    """Only a plain name is shown; any other key could write text of its own into records."""
    assert [Leaf(f"body:/{shown}", key), Leaf(f"body:/{shown}", "v")] == list(body_leaves({key: "v"}))


def test_place_is_capped() -> None:
    """A place has at most MAX_PLACE_CHARACTERS, however long the path."""
    value: Any = "v"
    for _ in range(20):
        value = {"a" * 32: value}
    assert MAX_PLACE_CHARACTERS == max(len(leaf.place) for leaf in body_leaves(value))


def test_json_in_strings() -> None:
    """A string that is JSON comes whole and in parts, so that no escape of the inner text hides it."""
    inner = json.dumps({"q": "line\nbreak"})
    assert [Leaf("body:/0", inner), Leaf("body:/0/q", "q"), Leaf("body:/0/q", "line\nbreak")] == list(
        body_leaves([inner])
    )


def test_json_in_json_in_strings() -> None:
    """Strings are opened MAX_OPENED times, not more."""
    text = "a\tb"
    for _ in range(MAX_OPENED + 1):
        text = json.dumps(text)
    leaves = [leaf.text for leaf in body_leaves([text])]
    assert MAX_OPENED + 1 == len(leaves)
    assert json.dumps("a\tb") == leaves[-1]


def test_keys_are_not_opened() -> None:
    """A key is text, also where it looks like JSON."""
    assert ["[1]", "v"] == [leaf.text for leaf in body_leaves({"[1]": "v"})]


@pytest.mark.parametrize("text", ["[1,", "{a}", '"', "[1] x", "{"])
def test_almost_json(text: str) -> None:
    """What merely begins like JSON stays a string."""
    assert [Leaf("body:/0", text)] == list(body_leaves([text]))


def test_long_number_does_not_close_a_string() -> None:
    """A number too long for int does not keep a string from being opened."""
    assert "x" in [leaf.text for leaf in body_leaves([f'[{"9" * 5000}, "x"]'])]


def test_nodes_at_the_limit() -> None:
    """As many strings as the limit says are read; one more is refused."""
    assert MAX_NODES == len(list(body_leaves(["x"] * MAX_NODES)))
    with pytest.raises(Refusal) as refused:
        list(body_leaves(["x"] * (MAX_NODES + 1)))
    assert Reason.BODY_TOO_LARGE is refused.value.reason


@pytest.mark.parametrize("value", [[[]] * (MAX_NODES + 1), {str(n): n for n in range(MAX_NODES + 1)}])
def test_everything_counts(value: object) -> None:
    """Empty arrays and keys of numbers count too: they cost as much to look at."""
    with pytest.raises(Refusal):
        list(body_leaves(value))


def test_refusal_comes_early() -> None:
    """A long array is not walked to its end once the limit is passed."""
    taken = 0

    class Counted(list[str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal taken
            for item in super().__iter__():
                taken += 1
                yield item

    with pytest.raises(Refusal):
        list(body_leaves(Counted(["x"] * 10 * MAX_NODES)))
    assert MAX_NODES + 1 == taken


def test_depth_at_the_limit() -> None:
    """As many levels as the limit says are read; one more is refused, also inside a string."""
    assert 1 == len(list(body_leaves(nested(MAX_DEPTH))))
    for value in (nested(MAX_DEPTH + 1), [json.dumps(nested(MAX_DEPTH))], "[" * 100_000):
        with pytest.raises(Refusal) as refused:
            list(body_leaves(value))
        assert Reason.BODY_TOO_LARGE is refused.value.reason


@given(JSON_VALUES)
def test_nothing_is_skipped(value: object) -> None:
    """Every string that a JSON body holds, keys included, is a leaf."""
    strings = []

    def collect(part: object) -> None:
        if isinstance(part, str):
            strings.append(part)
        elif isinstance(part, list):
            for child in part:
                collect(child)
        elif isinstance(part, dict):
            for key, child in part.items():
                strings.append(key)
                collect(child)

    collect(value)
    assert set(strings) <= {leaf.text for leaf in body_leaves(value)}


def test_query() -> None:
    """Names and values of a query are decoded and come in order."""
    assert [
        Leaf("query:q", "q"),
        Leaf("query:q", "ignore it"),
        Leaf("query:*", "a b"),
        Leaf("query:*", ""),
        Leaf("query:flag", "flag"),
        Leaf("query:flag", ""),
    ] == list(query_leaves("q=ignore+%69t&a%20b=&flag"))


def test_form() -> None:
    """A form's fields stand in the body."""
    assert [Leaf("body:/q", "q"), Leaf("body:/q", "x")] == list(form_leaves("q=x"))


def test_invalid_percent_encoding() -> None:
    """What does not decode stays visible as it can: nothing is raised."""
    assert ["q", "%zz\ufffd"] == [leaf.text for leaf in query_leaves("q=%zz%ff")]


def test_fields_at_the_limit() -> None:
    """As many fields as the limit says are read; one more is refused, as what it is: a query or a body."""
    assert 2 * MAX_FIELDS == len(list(islice(query_leaves("&".join(["a=b"] * MAX_FIELDS)), 3 * MAX_FIELDS)))
    too_many = "&".join(["a=b"] * (MAX_FIELDS + 1))
    with pytest.raises(Refusal) as refused:
        list(query_leaves(too_many))
    assert Reason.REQUEST_MALFORMED is refused.value.reason
    with pytest.raises(Refusal) as refused:
        list(form_leaves(too_many))
    assert Reason.BODY_TOO_LARGE is refused.value.reason
