"""YAML text to plain values, strictly, with the place of every value.

1. PyYAML's parser reads the syntax; only what JSON can say comes out: no tags, no anchors, no dates, no merge keys.
2. What YAML 1.1 would guess (`no`, `on`, `1:30`, `0777`) is an error that says how to write it.
3. Memory and time are linear in the text: aliases are refused, depth and size are bounded.
"""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

# One file, in bytes. A matrix of 100,000 cells takes about 3 MB; a Kubernetes ConfigMap holds at most 1 MiB.
MAX_FILE_BYTES = 8 * 1024 * 1024
# Levels of nesting. The deepest document of ours has six.
MAX_DEPTH = 16
# Characters of a scalar shown in an error.
MAX_QUOTED_CHARACTERS = 40

# YAML 1.2.2 section 10.3.2, core schema, less what no document of ours needs (octal, hexadecimal, .inf, .nan).
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,15})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,15})\.[0-9]{1,15}")
_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}
_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n", "true", "false"})
# Plain scalars that YAML 1.1 readers take for something else than the text.
_GUESSED = re.compile(
    r"(?i:yes|no|on|off|y|n|true|false|null)"  # booleans and nulls in any letter case
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"  # base 60: 12:30:45
    r"|[-+]?0[0-9xob_][0-9a-fA-F_]*"  # octal, hexadecimal, binary
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"  # dates
    r"|[-+]?\.(?i:inf|nan)"
    r"|[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"  # other spellings of numbers
    r"|<<|="
)
# All of what is guessed, and all constants, that begin with a letter are no longer than `false`; most texts are longer.
_LONGEST_GUESSED_WORD = 5
_ASCII_LETTERS = frozenset(string.ascii_letters)
# Characters that readers or people take for something else: control characters, the line breaks of YAML 1.1 alone (what
# follows one in a comment is no comment to libyaml), bidirectional controls, the byte order mark, lone surrogates.
_MISREAD = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_BYTE_ORDER_MARK = "\ufeff"
_LINE_BREAK = re.compile(r"\r\n?|\n")
# What to do about libyaml's commoner complaints.
_ADVICE = {
    "found character that cannot start any token": (
        ": indent with spaces, not with tabs; put text that begins with @, ` or % in quotes"
    ),
    "mapping values are not allowed in this context": (
        ": put text that holds a colon in quotes; begin the keys of one mapping in the same column"
    ),
    "did not find expected key": ": begin the keys of one mapping in the same column",
    "could not find expected ':'": ": a key ends with a colon and a space",
}
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Place(NamedTuple):
    """Where something stands in a file, both counted from 1."""

    line: int
    column: int


class YamlError(ValueError):
    """The text cannot be read; `place` says where."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


# Most values hold nothing: they share this, because a matrix of 100,000 cells has a million of them. For the same reason
# places are kept as one number each, line and column; a column fits because a file has at most 2**23 bytes.
_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_COLUMN_BITS = 24


def _unpacked(packed: int) -> Place:
    return Place(packed >> _COLUMN_BITS, packed & (1 << _COLUMN_BITS) - 1)


class Places(NamedTuple):
    """Places of a value and of everything inside it, in the shape of the value."""

    packed: int
    keys: Mapping[str, int] = _NOTHING
    children: Mapping[Any, "Places | int"] = _NOTHING  # by key or index; a number is the place of what holds nothing

    @property
    def place(self) -> Place:
        """Where the value stands."""
        return _unpacked(self.packed)

    def find(self, path: tuple[str | int, ...]) -> Place:
        """Return the place of the value at `path`, or of the innermost existing value around it."""
        node = self
        for step in path:
            if step not in node.children:
                return _unpacked(node.keys.get(str(step), node.packed))
            child = node.children[step]
            if isinstance(child, int):
                return _unpacked(child)
            node = child
        return node.place

    def find_key(self, path: tuple[str | int, ...]) -> Place:
        """Return the place of the last key of `path`, or of the value where `path` does not end in a key."""
        *parents, last = path
        node = self
        for step in parents:
            child = node.children[step]
            if isinstance(child, int):
                return _unpacked(child)
            node = child
        key = node.keys.get(str(last))
        return self.find(path) if key is None else _unpacked(key)


class Document(NamedTuple):
    """One YAML document of a file."""

    value: Any
    places: Places


def read_documents(text: str) -> list[Document]:
    """Return the documents of `text`, empty ones left out. Raises YamlError."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    misread = _MISREAD.search(text)
    if misread is not None:
        character = f"U+{ord(misread.group()):04X}"
        raise YamlError(place_after(text[: misread.start()]), f"the character {character} is not read: remove it")
    try:
        return list(_documents(text))
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context
        place = _place(error.problem_mark or error.context_mark)
        raise YamlError(place, f"not YAML: {problem}{_ADVICE.get(str(problem), '')}") from None


def place_after(text: str) -> Place:
    """Return the place of what follows `text` at the beginning of a file."""
    *lines, last = _LINE_BREAK.split(text.removeprefix(_BYTE_ORDER_MARK))
    return Place(len(lines) + 1, len(last) + 1)


def quoted(value: object) -> str:
    """Return the user's own value in backticks, shortened, for an error."""
    text = str(value)
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = text[:MAX_QUOTED_CHARACTERS] + "…"
    return f"`{text}`"


def kind_of(value: Any) -> str:
    """Return what a value is, for an error."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "a mapping"


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end has not come yet."""

    packed: int
    value: dict[str, Any] | list[Any]
    keys: dict[str, int] = field(default_factory=dict)
    children: dict[str | int, Places | int] = field(default_factory=dict)
    key: str | None = None

    def add(self, child: Any, places: Places | int) -> None:
        if isinstance(self.value, list):
            self.children[len(self.value)] = places
            self.value.append(child)
        elif self.key is None:
            self._start_entry(child, places if isinstance(places, int) else places.packed)
        else:
            self.children[self.key] = places
            self.value[self.key] = child
            self.key = None

    def close(self) -> Places | int:
        return Places(self.packed, self.keys or _NOTHING, self.children) if self.children else self.packed

    def _start_entry(self, key: Any, packed: int) -> None:
        if not isinstance(key, str):
            raise YamlError(_unpacked(packed), f"a key is text, not {kind_of(key)}: put it in quotes")
        if key in self.keys:
            first = _unpacked(self.keys[key]).line
            raise YamlError(_unpacked(packed), f"key {quoted(key)} stands twice, first on line {first}")
        self.keys[key] = packed
        self.key = key


def _documents(text: str) -> Iterator[Document]:
    parser = _PARSER(text)
    try:
        yield from _documents_of(iter(parser.get_event, None))
    finally:
        parser.dispose()


def _documents_of(events: Iterator[yaml.Event]) -> Iterator[Document]:
    stack: list[_Open] = []
    texts: dict[str, str] = {}  # names stand in a matrix again and again, and are kept once
    for event in events:
        value: Any
        places: Places | int
        if isinstance(event, yaml.ScalarEvent):
            _refuse_decoration(event, tagged=event.tag is not None and not event.implicit[1])
            places, value = _packed(event), _scalar(event)
            if isinstance(value, str):
                value = texts.setdefault(value, value)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_decoration(event, tagged=event.tag is not None)
            if len(stack) == MAX_DEPTH:
                raise YamlError(_place(event.start_mark), f"nested deeper than {MAX_DEPTH} levels")
            stack.append(_Open(_packed(event), {} if isinstance(event, yaml.MappingStartEvent) else []))
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            value, places = closed.value, closed.close()
        elif isinstance(event, yaml.AliasEvent):
            raise YamlError(_place(event.start_mark), "aliases are not read: write the value out, or name a group")
        else:
            continue
        if stack:
            stack[-1].add(value, places)
        elif value is not None:
            yield Document(value, Places(places) if isinstance(places, int) else places)


def _packed(event: yaml.Event) -> int:
    mark: Any = event.start_mark
    packed: int = mark.line + 1 << _COLUMN_BITS | mark.column + 1
    return packed


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _refuse_decoration(event: yaml.NodeEvent, *, tagged: bool) -> None:
    if event.anchor is not None:
        raise YamlError(_place(event.start_mark), "anchors are not read: write the value out, or name a group")
    if tagged:
        raise YamlError(_place(event.start_mark), "tags are not read: leave out the `!`")


def _scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    text: str = event.value
    if event.style:  # quoted or a block: text and nothing else
        return text
    if len(text) > _LONGEST_GUESSED_WORD and text[0] in _ASCII_LETTERS:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _GUESSED.fullmatch(text):
        fix = "write true or false, or put it in quotes" if text.lower() in _BOOLEANS else "put it in quotes"
        raise YamlError(_place(event.start_mark), f"{quoted(text)} reads differently from reader to reader: {fix}")
    return text
