"""What a model refuses, in words for policy authors who never programmed: what was expected, what stands there, the fix.

`EXPECTED` says what belongs at a place of a policy document; the rest follows from the kind of error.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from ext_authz.documents.models import (
    ACTION_NAME_PATTERN,
    BASE_PATH_PATTERN,
    DENIED_ACTION_PATTERN,
    DURATION_PATTERN,
    END_PATTERN,
    ENDPOINT_PATTERN,
    FOREIGN_SCOPE_PATTERN,
    GRPC_METHOD_PATTERN,
    HEADER_PATTERN,
    HTTP_ROUTE_PATTERN,
    ISSUER_PATTERN,
    METHOD_PATTERN,
    MOMENT_PATTERN,
    OAUTH_NAME_PATTERN,
    ON_BEHALF_OF_PATTERN,
    OUTBOUND_PATH_PATTERN,
    PLANNED_KEYS,
    RATE_PATTERN,
    RPC_METHOD_PATTERN,
    SCOPE_PATTERN,
    START_PATTERN,
    SUBJECTS_PATTERN,
    TOOL_PATTERN,
    WINDOW_NAME_PATTERN,
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
    ("matrix", _ANY, _ANY, "during"): "a list of windows",
    ("matrix", _ANY, _ANY, "not_during"): "a list of windows",
    ("deny",): "a list of denials",
    ("deny", _ANY): "a mapping with `subject`, `resource` and `action`",
    ("invariants",): "a list of invariants",
    ("invariants", _ANY): "a mapping with `from` and `must_not_reach`",
    ("actions",): "a mapping from action names to how requests are recognised",
    ("actions", _ANY): "a mapping with `http` or `asserted`",
    ("actions", _ANY, "http"): "a list of routes, such as [GET /records/{id}]",
    ("actions", _ANY, "grpc"): "a list of gRPC methods, such as [search.v1.Index/Query]",
    ("actions", _ANY, "mcp"): "a mapping with `tools` or `methods`",
    ("actions", _ANY, "mcp", "tools"): "a list of tools, such as [search]",
    ("actions", _ANY, "mcp", "methods"): "a list of JSON-RPC methods, such as [tools/list]",
    ("actions", _ANY, "a2a"): "a list of A2A methods, such as [message/send]",
    ("actions", _ANY, "resources"): "a list of names",
    ("presets",): "a list of presets, such as [openai]",
    ("endpoints",): "a mapping with `mcp` or `a2a`",
    ("endpoints", "mcp"): "a list of routes, such as [POST /mcp]",
    ("endpoints", "a2a"): "a list of routes, such as [POST /a2a], or a mapping with `jsonrpc`, `http` or `grpc`",
    ("endpoints", "a2a", "jsonrpc"): "a list of routes, such as [POST /a2a]",
    ("endpoints", "a2a", "http"): "a list of base paths, such as [/v1]",
    ("endpoints", "resources"): "a list of names",
    ("callers",): "a mapping from callers to rates",
    ("egress",): "a mapping from who calls to lists of hosts that it may call",
    ("egress", _ANY): "a list of mappings with `hosts` and `methods`",
    ("egress", _ANY, _ANY): "a mapping with `hosts` and `methods`",
    ("egress", _ANY, _ANY, "hosts"): "a list of hosts, such as [api.example.com]",
    ("egress", _ANY, _ANY, "ports"): "a list of ports, such as [443]",
    ("egress", _ANY, _ANY, "methods"): "a list of methods, such as [GET, POST]",
    ("egress", _ANY, _ANY, "paths"): "a list of paths, such as [/v1/**]",
    ("root_issuers",): "a list of names, or of mappings with `id`",
    ("root_issuers", _ANY): "a name, or a mapping with `id`",
    ("root_issuers", _ANY, "scopes"): "a list of scopes",
    ("root_issuers", _ANY, "targets"): "a list of names",
    ("minters",): "a list of names",
    ("keys",): "a mapping from issuers to files or addresses of their JWK sets",
    ("bundles",): "a mapping from trust domains to PEM files",
    ("tests",): "a list of tests",
    ("tests", _ANY): "a mapping with `name`, `request` and `expect`",
    ("tests", _ANY, "request"): "a mapping with `from`, `to` and `action`",
    ("tests", _ANY, "request", "headers"): "a mapping from header names to texts",
    ("tests", _ANY, "request", "query"): "a mapping from names to texts",
    ("tests", _ANY, "request", "access_token"): "a mapping with `on_behalf_of`",
    ("tests", _ANY, "expect"): "`allow`, `deny` or `error`, or a mapping with `outcome`",
    ("trust_domains",): "a mapping from trust domains to what their callers may be granted",
    ("trust_domains", _ANY): "a mapping with `subjects` or `actions`, or {}",
    ("trust_domains", _ANY, "subjects"): "a list of paths",
    ("trust_domains", _ANY, "actions"): "a list of action names",
    ("windows",): "a mapping from window names to spans of time",
    ("windows", _ANY): "a mapping with `from` and `to`",
    ("windows", _ANY, "days"): "a list of days, such as [mon, tue]",
    ("closed",): "a list of windows",
    ("providers",): "a list of mappings with `issuer` and `audience`",
    ("providers", _ANY): "a mapping with `issuer` and `audience`",
    ("providers", _ANY, "audience"): "a text or a list of texts",
    ("providers", _ANY, "token_types"): "a list of `at+jwt` and `JWT`",
    ("providers", _ANY, "clients"): "a mapping from clients to who may show their tokens",
    ("providers", _ANY, "clients", _ANY): "a name or a list of names",
    ("providers", _ANY, "scopes"): "a mapping from scopes of the issuer to lists of scopes",
    ("providers", _ANY, "scopes", _ANY): "a list of scopes",
}
# fmt: on

# What a text has to look like, by the pattern that it does not match.
_FORMS = {
    ACTION_NAME_PATTERN: f"is not an action name: {_ACTION_NAME}",
    DENIED_ACTION_PATTERN: f"is not an action name: {_ACTION_NAME}; or `*` for every action",
    HTTP_ROUTE_PATTERN: "is not a route: expected METHOD /path, such as GET /records/{id}",
    ENDPOINT_PATTERN: "is not an endpoint: expected POST /path, such as POST /mcp",
    BASE_PATH_PATTERN: "is not a base path: expected /path, such as /v1, or / alone",
    OUTBOUND_PATH_PATTERN: "is not a path: expected printable ASCII that begins with /, such as /v1/**",
    GRPC_METHOD_PATTERN: "is not a gRPC method: expected package.Service/Method; there are no wildcards",
    TOOL_PATTERN: "is not a tool: letters, digits, and _ . / : @ -, at most 128; there are no wildcards",
    RPC_METHOD_PATTERN: "is not a JSON-RPC method: expected a name such as tools/list; there are no wildcards",
    SCOPE_PATTERN: "is not a scope: letters, digits, dot, dash, underscore, colon and slash, at most 128, a letter or digit first",
    DURATION_PATTERN: "is not a span of time: expected a number and s, m or h, such as 30m",
    METHOD_PATTERN: "is not a method: capitals, such as GET",
    HEADER_PATTERN: "is not the name of a header",
    MOMENT_PATTERN: "is not a moment: expected RFC 3339 with its zone, such as 2026-01-05T12:00:00Z",
    START_PATTERN: "is not a time of day: expected hours and minutes from 00:00 to 23:59, in quotes",
    END_PATTERN: "is not a time of day: expected hours and minutes from 00:00 to 24:00, in quotes",
    WINDOW_NAME_PATTERN: "is not a window's name: lower-case letters, digits, dash and underscore, at most 64, a letter or digit first",
    RATE_PATTERN: "is not a rate: expected a number of calls, a slash and s, min or h, such as 10/min",
    SUBJECTS_PATTERN: "is not a subject: printable ASCII without spaces, and `*` at the end only",
    ISSUER_PATTERN: "is not an issuer: expected https://host/path without query, as its tokens write it",
    ON_BEHALF_OF_PATTERN: "does not say for whom: expected `{sub}` once, such as user:{sub}, in printable ASCII without spaces",
    FOREIGN_SCOPE_PATTERN: 'is not a scope of an issuer: printable ASCII without spaces, `"` and `\\`, at most 255',
    OAUTH_NAME_PATTERN: "is not what a token can name: printable ASCII, at most 255, no space at either end",
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
    name = str(problem["loc"][-1])
    return unknown("key", name, PLANNED_KEYS, _keys(model) - {name})  # it may be known elsewhere


@lru_cache(maxsize=32)
def _keys(model: type[BaseModel]) -> frozenset[str]:
    """Return the keys of a model and of the models inside it: asked for with each unknown key of a file full of them."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(key for part in parts for key in part.get("properties", {}))


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
    if problem["loc"] == ("version",):
        return _other_version(problem["input"])
    expected = problem["ctx"]["expected"].replace("'", "`")
    return f"expected {expected}, got {_shown(problem['input'])}"


def _other_version(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"expected a whole number without quotes, got {_shown(value)}: this release reads version 1"
    whose = "a later release reads" if value > 1 else "no release reads"
    return f"{whose} version {_shown(value)}: this one reads version 1"


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
