"""YAML text to plain values, strictly, with the place of every value.

1. PyYAML's parser reads the syntax; only what JSON can say comes out: no tags, no anchors, no dates, no merge keys.
2. What YAML 1.1 would guess (`no`, `on`, `1:30`, `0777`) is an error that says how to write it.
3. Memory and time are linear in the text: aliases are refused, depth and size are bounded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Places:
    """Places of a value and of everything inside it, in the shape of the value."""

    place: Place
    keys: dict[str, Place] = field(default_factory=dict)
    children: dict[str | int, "Places"] = field(default_factory=dict)

    def find(self, path: tuple[str | int, ...]) -> Place:
        """Return the place of the value at `path`, or of the innermost existing value around it."""
        node = self
        for step in path:
            if step not in node.children:
                return node.keys.get(str(step), node.place)
            node = node.children[step]
        return node.place

    def find_key(self, path: tuple[str | int, ...]) -> Place:
        """Return the place of the last key of `path`, or of the value where `path` does not end in a key."""
        *parents, last = path
        node = self
        for step in parents:
            node = node.children[step]
        return node.keys.get(str(last), self.find(path))


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

    value: dict[str, Any] | list[Any]
    places: Places
    key: str | None = None

    def add(self, child: Any, places: Places) -> None:
        if isinstance(self.value, list):
            self.places.children[len(self.value)] = places
            self.value.append(child)
        elif self.key is None:
            self._start_entry(child, places.place)
        else:
            self.places.children[self.key] = places
            self.value[self.key] = child
            self.key = None

    def _start_entry(self, key: Any, place: Place) -> None:
        if not isinstance(key, str):
            raise YamlError(place, f"a key is text, not {kind_of(key)}: put it in quotes")
        if key in self.places.keys:
            raise YamlError(place, f"key {quoted(key)} stands twice, first on line {self.places.keys[key].line}")
        self.places.keys[key] = place
        self.key = key


def _documents(text: str) -> Iterator[Document]:
    stack: list[_Open] = []
    for event in yaml.parse(text, Loader=_PARSER):
        value: Any
        match event:
            case yaml.ScalarEvent():
                places = Places(_place(event.start_mark))
                _refuse_decoration(event, event.tag is not None and not event.implicit[1], places.place)
                value = _scalar(event, places.place)
            case yaml.CollectionStartEvent():
                places = Places(_place(event.start_mark))
                _refuse_decoration(event, event.tag is not None, places.place)
                if len(stack) == MAX_DEPTH:
                    raise YamlError(places.place, f"nested deeper than {MAX_DEPTH} levels")
                stack.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], places))
                continue
            case yaml.CollectionEndEvent():
                closed = stack.pop()
                value, places = closed.value, closed.places
            case yaml.AliasEvent():
                raise YamlError(_place(event.start_mark), "aliases are not read: write the value out, or name a group")
            case _:
                continue
        if stack:
            stack[-1].add(value, places)
        elif value is not None:
            yield Document(value, places)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _refuse_decoration(event: yaml.NodeEvent, tagged: bool, place: Place) -> None:  # noqa: FBT001
    if event.anchor is not None:
        raise YamlError(place, "anchors are not read: write the value out, or name a group")
    if tagged:
        raise YamlError(place, "tags are not read: leave out the `!`")


def _scalar(event: yaml.ScalarEvent, place: Place) -> str | int | float | bool | None:
    text: str = event.value
    if event.style:  # quoted or a block: text and nothing else
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _GUESSED.fullmatch(text):
        fix = "write true or false, or put it in quotes" if text.lower() in _BOOLEANS else "put it in quotes"
        raise YamlError(place, f"{quoted(text)} reads differently from reader to reader: {fix}")
    return text
