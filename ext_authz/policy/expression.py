"""What a `when:` may say: a part of CEL that a reader can follow and whose cost is bounded.

1. Every fact is named to its end (`delegation.sub`), so that a typing mistake is found at load, not in the one request
   where it would have counted.
2. Comprehensions do not stand inside each other, there is one `map` at most, and there are no regular expressions: the
   cost is that of the text times the longest list. A second `map(x, x + x)` would double what the first one made.
3. What is not known here is refused, whatever the CEL library makes of it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted

# Brackets inside each other. The library stops at about a hundred; people stop following much earlier.
MAX_NESTING = 16

# https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax, without comments, bytes, raw and triple quotes:
#   IDENT  = [_a-zA-Z][_a-zA-Z0-9]*
#   STRING = '"' *( any but '"', "\", newline / "\" any ) '"' / the same with "'"
#   INT, UINT, FLOAT in decimals
_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<text>"(?:[^"\\\n\r]|\\.)*"|'(?:[^'\\\n\r]|\\.)*')"""
    r"""|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[uU]?)|(?P<sign>//|&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}]))"""
)
_CONSTANTS = frozenset({"true", "false", "null"})
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
COMPREHENSIONS = frozenset({"all", "exists", "exists_one", "filter", "map"})
FUNCTIONS = frozenset({"duration", "has", "int", "size", "string", "timestamp"})
METHODS = COMPREHENSIONS | {
    *("contains", "endsWith", "size", "startsWith"),
    *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMinutes", "getMonth"),
    *("getSeconds",),
}

# A fact and its field; a fact without fields has an empty one.
Path = tuple[str, str]


class ExpressionError(ValueError):
    """The text is no condition."""


class Vocabulary(NamedTuple):
    """What a condition may name."""

    facts: Mapping[str, frozenset[str]]  # the fields of each fact; none: the fact itself is the value
    headers: frozenset[str]  # keys of `asserted.headers`; empty: a condition may not name `asserted`


class _Token(NamedTuple):
    kind: str  # word, text, number, sign, end
    value: str
    start: int
    end: int


_END = _Token("end", "", 0, 0)


def named_facts(expression: str, vocabulary: Vocabulary) -> frozenset[Path]:
    """Return the facts that a condition names. Raises ExpressionError for what rules 1 to 3 refuse."""
    tokens = list(_tokens(expression))
    _check_nesting(tokens)
    return frozenset(_Reader(tokens, vocabulary).paths())


def _tokens(expression: str) -> Iterator[_Token]:
    position, length = 0, len(expression.rstrip())
    previous = _END
    while position < length:
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise ExpressionError(f"{quoted(expression[position:].lstrip()[:1])} is not read here")
        kind = match.lastgroup
        token = _Token(kind, match[kind], match.start(kind), match.end())
        if kind == "text" and previous.kind in {"word", "text"} and previous.end == token.start:
            raise ExpressionError("only plain strings are read: no bytes, raw strings or triple quotes")
        if token.value == "//":
            raise ExpressionError("comments are not read here: write them behind a `#` of YAML")
        yield token
        position, previous = token.end, token


def _check_nesting(tokens: Iterable[_Token]) -> None:
    depth = 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.value in _OPENING) - (token.value in _CLOSING)
        if depth > MAX_NESTING:
            raise ExpressionError(f"nested deeper than {MAX_NESTING} levels")


class _Reader:
    """Walks through the words of a condition and says what each one is."""

    def __init__(self, tokens: list[_Token], vocabulary: Vocabulary) -> None:
        self._tokens = tokens
        self._vocabulary = vocabulary
        self._variables = frozenset(self._bound())

    def paths(self) -> Iterator[Path]:
        at = 0
        while at < len(self._tokens):
            token, behind = self._tokens[at], self._at(at + 1)
            at += 1
            if token.kind != "word" or token.value in _CONSTANTS or token.value == "in":
                continue
            if self._is(at - 2, "."):
                self._check_method(token.value, is_call=behind.value == "(")
            elif behind.kind == "sign" and behind.value == "(":
                _check_known("function", token.value, FUNCTIONS)
            elif token.value not in self._variables:
                yield self._path(at - 1)
                at += 2 * bool(self._vocabulary.facts.get(token.value, True))  # behind the field

    def _path(self, at: int) -> Path:
        fact = self._tokens[at].value
        if fact == "asserted":
            self._check_header(at)
            return "asserted", "headers"
        known = self._vocabulary.facts
        if fact not in known:
            raise ExpressionError(f"unknown fact {quoted(fact)}{suggestion(fact, known) or _one_of(known)}")
        if not known[fact]:
            return fact, ""
        name = self._at(at + 2)
        if not self._is(at + 1, ".") or name.kind != "word" or self._is(at + 3, "("):
            raise ExpressionError(f"{quoted(fact)} stands with one of its fields{_one_of(known[fact])}")
        if name.value not in known[fact]:
            meant = suggestion(name.value, known[fact]) or _one_of(known[fact])
            raise ExpressionError(f"{quoted(fact)} has no field {quoted(name.value)}{meant}")
        return fact, name.value

    def _check_header(self, at: int) -> None:
        known = self._vocabulary.headers
        if not known:
            raise ExpressionError("`asserted` is the caller's own word, which may never widen: only deny rules read it")
        named = _END
        if self._is(at + 1, ".") and self._at(at + 2).value == "headers":
            if self._is(at + 3, "[") and self._is(at + 5, "]"):
                named = self._at(at + 4)
            elif self._at(at - 1).value == "in":
                named = self._at(at - 2)
        if named.kind != "text":
            raise ExpressionError('headers are read as asserted.headers["name"] and "name" in asserted.headers')
        _check_known("header", named.value[1:-1], known)

    def _check_method(self, name: str, *, is_call: bool) -> None:
        if not is_call:
            raise ExpressionError(f"unknown field {quoted(name)}")
        _check_known("function", name, METHODS)

    def _bound(self) -> Iterator[str]:
        """Yield the variables of comprehensions, and refuse one inside another."""
        opened: list[bool] = []  # for each open bracket, whether it is that of a comprehension
        for at, token in enumerate(self._tokens):
            if token.kind == "sign" and token.value in _OPENING:
                is_comprehension = self._is(at - 2, ".") and self._at(at - 1).value in COMPREHENSIONS
                if is_comprehension and any(opened):
                    raise ExpressionError("a comprehension inside another one is not read")
                opened.append(is_comprehension)
                if is_comprehension:
                    yield self._variable(at + 1)
            elif token.kind == "sign" and token.value in _CLOSING and opened:
                opened.pop()
        if sum(token.value == "map" and self._is(at - 1, ".") for at, token in enumerate(self._tokens)) > 1:
            raise ExpressionError("a second `map` is not read")

    def _variable(self, at: int) -> str:
        name = self._at(at)
        if name.kind != "word" or not self._is(at + 1, ","):
            raise ExpressionError("a comprehension begins with a variable and a comma")
        if name.value in self._vocabulary.facts or name.value in {"asserted", "in", *_CONSTANTS}:
            raise ExpressionError(f"{quoted(name.value)} is taken: give the variable another name")
        return name.value

    def _at(self, at: int) -> _Token:
        return self._tokens[at] if 0 <= at < len(self._tokens) else _END

    def _is(self, at: int, sign: str) -> bool:
        token = self._at(at)
        return token.kind == "sign" and token.value == sign


def _check_known(what: str, name: str, known: frozenset[str]) -> None:
    if name not in known:
        raise ExpressionError(f"unknown {what} {quoted(name)}{suggestion(name, known) or _one_of(known)}")


def _one_of(known: Iterable[str]) -> str:
    return f": expected one of {', '.join(sorted(known))}"
