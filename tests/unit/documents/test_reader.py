"""YAML as policy authors write it: what is read, what is refused, and where the error points."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.documents.reader import (
    MAX_DEPTH,
    MAX_QUOTED_CHARACTERS,
    Place,
    YamlError,
    _scalar,
    kind_of,
    place_after,
    quoted,
    read_documents,
)

# What a 10 kB file may cost.
MAX_HOSTILE_SECONDS = 1
MAX_HOSTILE_BYTES = 100 * 1024 * 1024


def values(text: str) -> list[object]:
    """Return the values of the documents of a text."""
    return [document.value for document in read_documents(text)]


def error_of(text: str) -> tuple[int, int, str]:
    """Return line, column and message of the error that a text gives."""
    with pytest.raises(YamlError) as caught:
        read_documents(text)
    return (*caught.value.place, str(caught.value))


READ = {
    "text": ("a: planner-agent", "planner-agent"),
    "text with dots": ("a: 1.2.3", "1.2.3"),
    "text with a colon": ("a: llm:read", "llm:read"),
    "path": ("a: /records/{id}", "/records/{id}"),
    "route": ("a: GET /records", "GET /records"),
    "SPIFFE ID": ("a: spiffe://agents.example.com/x", "spiffe://agents.example.com/x"),
    "true": ("a: true", True),
    "false": ("a: false", False),
    "null": ("a: null", None),
    "tilde": ("a: ~", None),
    "nothing": ("a:", None),
    "zero": ("a: 0", 0),
    "integer": ("a: 42", 42),
    "negative": ("a: -7", -7),
    "plus": ("a: +7", 7),
    "largest": ("a: 9999999999999999", 9_999_999_999_999_999),
    "fraction": ("a: 0.5", 0.5),
    "negative fraction": ("a: -1.25", -1.25),
    "quoted no": ('a: "no"', "no"),
    "quoted octal": ("a: '0777'", "0777"),
    "quoted time": ('a: "08:00"', "08:00"),
    "quoted number": ('a: "3"', "3"),
    "quoted merge key": ("'<<': 1\na: x", "x"),
    "empty text": ('a: ""', ""),
    "block": ("a: |\n  yes\n", "yes\n"),
    "folded": ("a: >-\n  one\n  two\n", "one two"),
    "plain over two lines": ("a: one\n  two", "one two"),
    "escape": ('a: "\\u00fc\\x00"', "ü\0"),
    "umlaut": ("a: ü", "ü"),
    "beyond the basic plane": ("a: 🙂", "🙂"),
    "flow list": ("a: [b, c]", ["b", "c"]),
    "block list": ("a:\n- b\n- c", ["b", "c"]),
    "mapping": ("a: {b: c}", {"b": "c"}),
    "empty list": ("a: []", []),
    "empty mapping": ("a: {}", {}),
    "word that begins like another": ("a: note", "note"),
    "word that ends like another": ("a: reno", "reno"),
    "comment": ("a: b # no: 0777", "b"),
    "tab behind a value": ("a: b\t# comment", "b"),
    "carriage returns": ("x: z\r\na: b\r\n", "b"),
    "byte order mark": ("\ufeffa: b", "b"),
    "document markers": ("---\na: b\n...\n", "b"),
}


@pytest.mark.parametrize(("text", "value"), READ.values(), ids=READ)
def test_reads_what_means_one_thing(text: str, value: object) -> None:
    """What JSON could say too is read, and has the type that it has in JSON."""
    (document,) = values(text)
    assert isinstance(document, dict)
    assert (value, type(value)) == (document["a"], type(document["a"]))


GUESSED_BOOLEANS = [
    *("yes", "no", "on", "off", "y", "n", "Yes", "NO", "On", "OFF", "Y", "N"),
    *("True", "TRUE", "False", "FALSE"),
]
GUESSED = [
    *("0777", "00", "-012", "0o17", "0x1F", "0b101", "08", "+0x1f"),  # octal, hexadecimal, binary
    *("12:30", "190:20:30", "1:30.5", "0:0._", "-1:30", "20:59:59"),  # base 60
    *("2026-11-22", "2026-1-2", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43"),  # dates
    *("1_000", "1e3", "1E3", "1.5e3", "1.", ".5", "-.5", "+.5e3", "1_0.5", ".5_0"),  # numbers
    *("10000000000000000", "0.1234567890123456", ".inf", "-.INF", ".nan", ".NaN"),  # too long, or none
    *("Null", "NULL", "<<", "="),
]


@pytest.mark.parametrize("text", GUESSED)
def test_refuses_what_readers_guess(text: str) -> None:
    """What YAML 1.1 and 1.2 read differently is never guessed at."""
    message = f"`{text}` reads differently from reader to reader: put it in quotes"
    assert (1, 4, message) == error_of(f"a: {text}")
    assert (2, 3, message) == error_of(f"a:\n- {text}")
    assert [{"a": text}] == values(f'a: "{text}"')


@pytest.mark.parametrize("text", GUESSED_BOOLEANS)
def test_refuses_what_may_be_a_boolean(text: str) -> None:
    """Words that some readers take for booleans must be true or false, or stand in quotes."""
    message = f"`{text}` reads differently from reader to reader: write true or false, or put it in quotes"
    assert (1, 4, message) == error_of(f"a: {text}")
    assert (1, 1, message) == error_of(f"{text}: a")


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
def test_agrees_with_a_lenient_reader_or_refuses(text: str) -> None:
    """A plain scalar that is read as text is text to PyYAML's own YAML 1.1 reader too."""
    try:
        (value,) = values(f"- {text}")
    except (YamlError, ValueError):
        return
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        assert value == yaml.load(f"- {text}", Loader=yaml.CSafeLoader)


@pytest.mark.parametrize("length", range(1, 6))
def test_no_short_text_is_a_number_elsewhere(length: int) -> None:
    """Of all short texts made of what numbers are made of, none is text to us and something else to YAML 1.1."""
    alphabet, resolver = "01.:_-+eEx" if length > 4 else "01.:_-+eExobnfi=<~", yaml.SafeLoader("")
    resolve: Callable[..., str] = resolver.resolve
    for characters in product(alphabet, repeat=length):
        text = "".join(characters)
        try:
            value = _scalar(yaml.ScalarEvent(None, None, (True, False), text))
        except YamlError:
            continue
        if isinstance(value, str):
            assert resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"


TABS = ": indent with spaces, not with tabs; put text that begins with @, ` or % in quotes"
CANNOT_START = f"not YAML: found character that cannot start any token{TABS}"
SAME_COLUMN = "begin the keys of one mapping in the same column"
NO_ALIAS = "aliases are not read: write the value out, or name a group"
NO_ANCHOR = "anchors are not read: write the value out, or name a group"
NO_TAG = "tags are not read: leave out the `!`"
REFUSED = {
    "merge key": ("a:\n  <<: {b: c}", (2, 3, "`<<` reads differently from reader to reader: put it in quotes")),
    "anchor of a text": ("a: &x b", (1, 4, NO_ANCHOR)),
    "anchor of a list": ("a:\n- &x [b]", (2, 3, NO_ANCHOR)),
    "anchor of a mapping": ("a: &x\n  b: c", (1, 4, NO_ANCHOR)),
    "anchor of a key": ("&x a: b", (1, 1, NO_ANCHOR)),
    "alias": ("a: *x", (1, 4, NO_ALIAS)),
    "alias as a key": ("*x : a", (1, 1, NO_ALIAS)),
    "tag of ours": ("a: !secret b", (1, 4, NO_TAG)),
    "standard tag": ("a: !!str 1", (1, 4, NO_TAG)),
    "tag of python": ("a: !!python/object/apply:os.system [id]", (1, 4, NO_TAG)),
    "tag of a list": ("a: !!seq [b]", (1, 4, NO_TAG)),
    "tag of a quoted text": ('a: !!int "3"', (1, 4, NO_TAG)),
    "tag without a name": ("a: ! b", (1, 4, NO_TAG)),
    "duplicate key": ("a: 1\nb: 2\na: 3", (3, 1, "key `a` stands twice, first on line 1")),
    "duplicate key in another spelling": ("a: 1\n'a': 2", (2, 1, "key `a` stands twice, first on line 1")),
    "duplicate key inside": ("x: {a: 1,\n a: 2}", (2, 2, "key `a` stands twice, first on line 1")),
    "number as a key": ("3: a", (1, 1, "a key is text, not a number: put it in quotes")),
    "boolean as a key": ("true: a", (1, 1, "a key is text, not a boolean: put it in quotes")),
    "null as a key": ("~: a", (1, 1, "a key is text, not nothing: put it in quotes")),
    "list as a key": ("[a]: b", (1, 1, "a key is text, not a list: put it in quotes")),
    "mapping as a key": ("? {a: b}\n: c", (1, 3, "a key is text, not a mapping: put it in quotes")),
    "tab": ("a:\n\tb: c", (2, 1, CANNOT_START)),
    "sign of a group": ("@readers: a", (1, 1, CANNOT_START)),
    "two colons": (
        "a: b: c",
        (1, 5, f"not YAML: mapping values are not allowed in this context: put text that holds a colon in quotes; {SAME_COLUMN}"),
    ),
    "crooked keys": (
        "a:\n    b: c\n  d: e",
        (3, 3, f"not YAML: did not find expected key: {SAME_COLUMN}"),
    ),
    "key without a colon": ("a: b\nc\n", (3, 1, "not YAML: could not find expected ':': a key ends with a colon and a space")),
    "open list": ("a: [b\n", (2, 1, "not YAML: did not find expected ',' or ']'")),
    "open quotes": ("a: 'b", (1, 6, "not YAML: found unexpected end of stream")),
    "unknown escape": ('a: "\\q"', (1, 5, "not YAML: found unknown escape character")),
    "version of YAML": ("%YAML 3.0\n---\na: b", (1, 1, "not YAML: found incompatible YAML document")),
    "second document": ("a: b\n---\nc: *d", (3, 4, NO_ALIAS)),
    "behind carriage returns": ("a: b\r\n\r\nc: *d\r\n", (3, 4, NO_ALIAS)),
    "behind letters of two bytes": ("ü: [ü, *d]", (1, 8, NO_ALIAS)),
    "behind a letter of four bytes": ("🙂: *d", (1, 4, NO_ALIAS)),
    "behind a byte order mark": ("\ufeffa: *d", (1, 4, NO_ALIAS)),
    "control character": ("ü: b\x07", (1, 5, "the character U+0007 is not read: remove it")),
    "control character on a later line": ("a: b\r\nü: ü\x00", (2, 5, "the character U+0000 is not read: remove it")),
    "escape character in quotes": ("a: '\x1b[31m'", (1, 5, "the character U+001B is not read: remove it")),
    "byte order mark inside": ("a: b\ufeff", (1, 5, "the character U+FEFF is not read: remove it")),
    "line break of YAML 1.1 in a comment": ("# no\u2028a: b", (1, 5, "the character U+2028 is not read: remove it")),
    "next line": ("a: b\x85c: d", (1, 5, "the character U+0085 is not read: remove it")),
    "text turned round": ("a: \u202eb", (1, 4, "the character U+202E is not read: remove it")),
    "lone surrogate": ("a: \ud800", (1, 4, "the character U+D800 is not read: remove it")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "error"), REFUSED.values(), ids=REFUSED)
def test_refuses_and_says_where(text: str, error: tuple[int, int, str]) -> None:
    """Each trap has its message, and the place is that of the first character that is wrong, counted in characters."""
    assert error == error_of(text)


def test_every_character_is_read_as_it_is_or_refused() -> None:
    """No character changes the text around it, ends a line in secret or makes the parser fail with another error."""
    for number in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10010), 0x10FFFF]:
        if chr(number) in "\n\r'":  # these mean something between single quotes
            continue
        outcome: object
        try:
            outcome = values(f"a: 'b{chr(number)}c'")
        except YamlError as error:
            outcome = (error.place, str(error))
        refused = (Place(1, 6), f"the character U+{number:04X} is not read: remove it")
        assert outcome in ([{"a": f"b{chr(number)}c"}], refused)


def test_documents_of_one_file() -> None:
    """Documents that hold nothing are left out, and each place counts from the beginning of the file."""
    documents = read_documents("# nothing\n---\na: 1\n---\n---\n~\n---\n- b\n...\n---\n  c: 2\n")
    assert [({"a": 1}, Place(3, 1)), (["b"], Place(8, 1)), ({"c": 2}, Place(11, 3))] == [
        (document.value, document.places.place) for document in documents
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# comment", "---", "---\n---\n", "\ufeff", "null"])
def test_text_without_documents(text: str) -> None:
    """A file that holds nothing holds no documents."""
    assert [] == values(text)


def test_places() -> None:
    """Every value and every key knows its line and column; what does not exist is placed at what surrounds it."""
    (document,) = read_documents("a:\n  b: [x, {c: 'y'}]\n  ü: z\n'd':   |\n  text\n")
    places = document.places
    expected = {
        (): (1, 1),
        ("a",): (2, 3),
        ("a", "b"): (2, 6),
        ("a", "b", 0): (2, 7),
        ("a", "b", 1): (2, 10),
        ("a", "b", 1, "c"): (2, 14),
        ("a", "ü"): (3, 6),
        ("d",): (4, 8),
        ("a", "b", 2): (2, 6),
        ("a", "missing"): (2, 3),
        ("a", "missing", "deeper"): (2, 3),
    }
    assert expected == {path: tuple(places.find(path)) for path in expected}
    keys = {("a",): (1, 1), ("a", "b"): (2, 3), ("a", "b", 1, "c"): (2, 11), ("a", "ü"): (3, 3), ("d",): (4, 1)}
    assert keys == {path: tuple(places.find_key(path)) for path in keys}
    assert Place(2, 7) == places.find_key(("a", "b", 0))


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_nesting(brackets: str) -> None:
    """As many levels as the limit says are read, one more is not."""
    opening = "[" if brackets == "[]" else "{a: "
    deepest = opening * (MAX_DEPTH - 1) + brackets + brackets[1] * (MAX_DEPTH - 1)
    assert len(values(deepest)) == 1
    line, column, message = error_of(opening + deepest + brackets[1])
    assert (1, 1 + MAX_DEPTH * len(opening), f"nested deeper than {MAX_DEPTH} levels") == (line, column, message)


def test_levels_that_end_do_not_count() -> None:
    """Depth is that of the open mappings and lists, not the number of them."""
    assert len(values("\n".join(["- [[[[x]]]]"] * 100))) == 1


def hostile() -> Iterator[tuple[str, str]]:
    """Yield texts of about 10 kB that cost much more in readers that build what they say."""
    size = 10_000
    yield (
        "alias bomb",
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 200)),
    )
    yield "open lists", "[" * size
    yield "open mappings", "{a: " * (size // 4)
    yield "nested block lists", "- " * (size // 2)
    yield "explicit keys", "? " * (size // 2)
    yield "indented mappings", "\n".join(" " * level + "a:" for level in range(140))
    yield "one long key", "a" * size + ": b"
    yield "one long text", "a: " + "b " * (size // 2)
    yield "digits", "a: " + "1" * size
    yield "digits with colons", "a: " + "1:" * (size // 2) + "x"
    yield "digits with underscores", "a: 0" + "_" * size + "x"
    yield "dates", "a: " + "2026-11-22" * (size // 10) + "\n  x"
    yield "open quotes", "a: '" + "''" * (size // 2)
    yield "escapes", 'a: "' + "\\u0041" * (size // 6) + '"'
    yield "comments", "#\n" * (size // 2)
    yield "documents", "---\n" * (size // 4)
    yield "documents with values", "--- a\n" * (size // 6)
    yield "flow list", "[" + "a," * (size // 2) + "]"
    yield "flow mapping", "{" + ",".join(f"k{number}: 1" for number in range(1100)) + "}"
    yield "commas", "{" + "," * size
    yield "colons", ": " * (size // 2)
    yield "tags", "!!a " * (size // 4)
    yield "anchors", "&a " * (size // 3)
    yield "directives", "%TAG ! tag:a,2026:\n" * (size // 20)
    yield "percent signs", "%" * size
    yield "tabs", "\t" * size
    yield "carriage returns", "\r" * size
    yield "block text", "a: |\n" + "\n".join(" " * (number % 80) + "x" for number in range(250))


HOSTILE = dict(hostile())


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_read_or_refused_in_time(text: str) -> None:
    """A small file is read or refused at once, whatever it says."""
    began = time.process_time()
    try:
        read_documents(text)
    except YamlError as error:
        assert error.place.line >= 1  # noqa: PT017  either is right
    assert time.process_time() - began < MAX_HOSTILE_SECONDS


def test_a_million_aliases() -> None:
    """Aliases are refused at the first one: nothing is multiplied."""
    began = time.process_time()
    assert (1, 2, NO_ALIAS) == error_of("[" + "*a," * 1_000_000 + "]")
    assert time.process_time() - began < MAX_HOSTILE_SECONDS


READ_WITHIN_LIMITS = f"""
import resource, sys, time
from ext_authz.documents.reader import YamlError, read_documents
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
if used:
    resource.setrlimit(resource.RLIMIT_AS, (used + {MAX_HOSTILE_BYTES},) * 2)
for text in sys.stdin.read().split("\\x1e"):
    began = time.process_time()
    try:
        read_documents(text)
    except YamlError:
        pass
    assert time.process_time() - began < {MAX_HOSTILE_SECONDS}, text[:40]
print("done")
"""


def test_hostile_texts_within_limits_of_the_system() -> None:
    """A process that may take no more than 100 MB and a few seconds reads all of them."""
    outcome = subprocess.run(
        [sys.executable, "-c", READ_WITHIN_LIMITS],
        input="\x1e".join(HOSTILE.values()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (20, 20)),
    )
    assert (0, "done\n", "") == (outcome.returncode, outcome.stdout, outcome.stderr)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a", "`a`"), (3, "`3`"), ("x" * MAX_QUOTED_CHARACTERS, f"`{'x' * MAX_QUOTED_CHARACTERS}`"),
     ("x" * (MAX_QUOTED_CHARACTERS + 1), f"`{'x' * MAX_QUOTED_CHARACTERS}…`")],
)  # fmt: skip
def test_quoted_value_is_short(value: object, shown: str) -> None:
    """An error repeats the author's value in backticks, and of a long one the beginning."""
    assert shown == quoted(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "nothing"), (True, "a boolean"), (1, "a number"), (1.5, "a number"), ([], "a list"), ({}, "a mapping")],
)
def test_kind_of_value(value: object, kind: str) -> None:
    """What a value is has a word that authors know."""
    assert kind == kind_of(value)


@pytest.mark.parametrize(
    ("text", "place"),
    [("", (1, 1)), ("ab", (1, 3)), ("a\n", (2, 1)), ("a\r\nb", (2, 2)), ("a\rb", (2, 2)), ("\ufeffa", (1, 2))],
)
def test_place_after_text(text: str, place: tuple[int, int]) -> None:
    """Lines end as YAML says; a byte order mark takes no column."""
    assert place == tuple(place_after(text))
