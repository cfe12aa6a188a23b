"""What a model refuses, in words for policy authors who never programmed: what was expected, what stands there, the fix.

`EXPECTED` says what belongs at a place of a policy document; the rest follows from the kind of error.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from ext_authz.documents.models import (
    ACTION_NAME_PATTERN,
    DENIED_ACTION_PATTERN,
    DURATION_PATTERN,
    HTTP_ROUTE_PATTERN,
    PLANNED_KEYS,
    RATE_PATTERN,
    SCOPE_PATTERN,
    SUBJECTS_PATTERN,
)
from ext_authz.documents.reader import kind_of, quoted

_ANY = "*"  # in the table below: whatever name or number stands there
_ACTION_NAME = "lower-case letters, digits, dot, dash and underscore, at most 64, a letter or digit first"

# What belongs at a place, by the keys that lead to it.
# fmt: off
EXPECTED: dict[tuple[str, ...], str] = {
    ("groups",): "a mapping from group names to lists of names",
    ("groups", _ANY): "a list of names",
    ("matrix",): "a mapping from who asks to whom it may ask",
    ("matrix", _ANY): "a mapping from who is asked to lists of action names",
    ("matrix", _ANY, _ANY): "a list of action names",
    ("matrix", _ANY, _ANY, "actions"): "a list of action names",
    ("matrix", _ANY, _ANY, "scopes"): "a list of scopes",
    ("deny",): "a list of denials",
    ("deny", _ANY): "a mapping with `subject`, `resource` and `action`",
    ("actions",): "a mapping from action names to how requests are recognised",
    ("actions", _ANY): "a mapping with `http` or `asserted`",
    ("actions", _ANY, "http"): "a list of routes, such as [GET /records/{id}]",
    ("actions", _ANY, "resources"): "a list of names",
    ("callers",): "a mapping from callers to rates",
    ("root_issuers",): "a list of names, or of mappings with `id`",
    ("root_issuers", _ANY): "a name, or a mapping with `id`",
    ("root_issuers", _ANY, "scopes"): "a list of scopes",
    ("minters",): "a list of names",
    ("keys",): "a mapping from issuers to files with their JWK sets",
    ("bundles",): "a mapping from trust domains to PEM files",
}
# fmt: on

# What a text has to look like, by the pattern that it does not match.
_FORMS = {
    ACTION_NAME_PATTERN: f"is not an action name: {_ACTION_NAME}",
    DENIED_ACTION_PATTERN: f"is not an action name: {_ACTION_NAME}; or `*` for every action",
    HTTP_ROUTE_PATTERN: "is not a route: expected METHOD /path, such as GET /records/{id}",
    SCOPE_PATTERN: "is not a scope: letters, digits, dot, dash, underscore, colon and slash, at most 128, a letter or digit first",
    DURATION_PATTERN: "is not a span of time: expected a number and s, m or h, such as 30m",
    RATE_PATTERN: "is not a rate: expected a number of calls, a slash and s, min or h, such as 10/min",
    SUBJECTS_PATTERN: "is not a subject: printable ASCII without spaces, and `*` at the end only",
}


def describe(problem: Any, model: type[BaseModel]) -> str:
    """Return one problem of a pydantic ValidationError as a sentence. `model` is that of the document."""
    words = _WORDS.get(problem["type"])
    if words is not None:
        return words(problem, model)
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}, got {_shown(problem['input'])}"


def unknown(what: str, name: str, planned: frozenset[str], known: Iterable[str]) -> str:
    """Say that a key or kind is not known, or not yet, and what may have been meant."""
    if name in planned:
        return f"{what} {quoted(name)} is not supported by this release"
    return f"unknown {what} {quoted(name)}{suggestion(name, known)}"


def suggestion(value: str, known: Iterable[str]) -> str:
    """Return `: did you mean ...?` when something known is spelled alike, else nothing."""
    near = difflib.get_close_matches(value, sorted(known), n=1, cutoff=0.7)
    return f": did you mean {quoted(near[0])}?" if near else ""


def _unknown_key(problem: Any, model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]  # the model and the models inside it
    name = str(problem["loc"][-1])
    known = {key for part in parts for key in part.get("properties", {})} - {name}  # it may be known elsewhere
    return unknown("key", name, PLANNED_KEYS, known)


def _missing_key(problem: Any, _: type[BaseModel]) -> str:
    return f"key {quoted(problem['loc'][-1])} is missing"


def _wrong_form(problem: Any, _: type[BaseModel]) -> str:
    form = _FORMS.get(problem["ctx"]["pattern"], "does not have the form that is expected here")
    return f"{_shown(problem['input'])} {form}"


def _not_text(problem: Any, _: type[BaseModel]) -> str:
    value = problem["input"]
    fix = ": put it in quotes" if isinstance(value, bool | int | float) else ""
    return f"expected text, got {_shown(value)}{fix}"


def _not_boolean(problem: Any, _: type[BaseModel]) -> str:
    value = problem["input"]
    fix = ": leave out the quotes" if value in ("true", "false") else ""
    return f"expected true or false, got {_shown(value)}{fix}"


def _not_integer(problem: Any, _: type[BaseModel]) -> str:
    value = problem["input"]
    fix = ": leave out the quotes" if isinstance(value, str) and value.isdecimal() else ""
    return f"expected a whole number, got {_shown(value)}{fix}"


def _too_little(problem: Any, _: type[BaseModel]) -> str:
    return f"expected at least {problem['ctx']['ge']}, got {_shown(problem['input'])}"


def _too_much(problem: Any, _: type[BaseModel]) -> str:
    return f"expected at most {problem['ctx']['le']}, got {_shown(problem['input'])}"


def _not_one_of(problem: Any, _: type[BaseModel]) -> str:
    expected = problem["ctx"]["expected"].replace("'", "`")
    return f"expected {expected}, got {_shown(problem['input'])}"


def _too_short(problem: Any, _: type[BaseModel]) -> str:
    return (
        "nothing stands here: write at least one entry"
        if problem["type"] == "too_short"
        else "an empty text is no name"
    )


def _too_long(problem: Any, _: type[BaseModel]) -> str:
    return f"longer than {problem['ctx']['max_length']} characters"


def _not_a(fallback: str) -> Callable[[Any, type[BaseModel]], str]:
    def words(problem: Any, _: type[BaseModel]) -> str:
        return f"expected {_expected(problem['loc']) or fallback}, got {_shown(problem['input'])}"

    return words


def _expected(location: tuple[str | int, ...]) -> str | None:
    for keys, words in EXPECTED.items():
        if len(keys) == len(location) and all(key in (_ANY, step) for key, step in zip(keys, location, strict=True)):
            return words
    return None


def _shown(value: Any) -> str:
    """Return a value as its author wrote it, or what it is where it is long."""
    if isinstance(value, bool):
        return quoted(str(value).lower())
    return quoted(value) if isinstance(value, str | int | float) else kind_of(value)


# By pydantic's type of error (https://docs.pydantic.dev/latest/errors/validation_errors/).
_WORDS: dict[str, Callable[[Any, type[BaseModel]], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing_key,
    "string_pattern_mismatch": _wrong_form,
    "string_type": _not_text,
    "literal_error": _not_one_of,
    "too_short": _too_short,
    "string_too_short": _too_short,
    "string_too_long": _too_long,
    "bool_type": _not_boolean,
    "int_type": _not_integer,
    "greater_than_equal": _too_little,
    "less_than_equal": _too_much,
    "list_type": _not_a("a list"),
    "dict_type": _not_a("a mapping"),
    "model_type": _not_a("a mapping"),
}
