"""A JSON-RPC call that is accepted is the same call to every reader: method and tool cannot be hidden."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from properties.strategies import EXAMPLES
from support.check_requests import QUESTION
from support.rpc_policies import message, rpc_policy

from ext_authz.action.jsonrpc import Protocol, RpcCall, read_call
from ext_authz.attributes.body import Body, BodyState
from ext_authz.attributes.request import parse_attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId

_ATTRIBUTES = parse_attributes(QUESTION.serialized())
_RESOURCE = SpiffeId.parse_workload("spiffe://agents.example.com/tools-agent")


def read(text: str, protocol: Protocol = Protocol.MCP) -> RpcCall:
    """Read a body as an endpoint does."""
    data = text.encode("utf-8", "surrogatepass")
    return read_call(protocol, _ATTRIBUTES._replace(body=Body(BodyState.WHOLE, data)))


def outcome(text: str, protocol: Protocol = Protocol.MCP) -> RpcCall | Refusal:
    """Return what an endpoint makes of a body."""
    try:
        return read(text, protocol)
    except Refusal as refusal:
        return refusal


def spelled(draw: st.DrawFn, text: str) -> str:
    """Write a JSON string with any of its characters escaped."""
    return "".join(
        f"\\u{ord(character):04{draw(st.sampled_from('xX'))}}" if draw(st.booleans()) else json.dumps(character)[1:-1]
        for character in text
    ).join('""')


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """Write a value as JSON: members in any order, any white space, any escapes."""
    space = draw(st.sampled_from(["", " ", "\n", "\t", "\r\n  "]))
    if isinstance(value, str):
        return spelled(draw, value)
    if isinstance(value, dict):
        pairs = [
            f"{spelled(draw, key)}{space}:{space}{draw(written(value[key]))}"
            for key in draw(st.permutations(list(value)))
        ]
        return f"{{{space}{f'{space},{space}'.join(pairs)}{space}}}"
    return json.dumps(value)


CALLS = st.sampled_from(
    [
        message("tools/call", params={"name": "search", "arguments": {"q": "x", "method": "tools/list"}}),
        message("tools/call", params={"name": "delete"}, id="a"),
        message("tools/list"),
        message("prompts/get", params={"name": "search"}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 3, "result": {"method": "tools/call", "params": {"name": "search"}}},
    ]
)


@EXAMPLES
@given(CALLS.flatmap(lambda call: st.tuples(st.just(call), written(call))))
def test_spelling_changes_nothing(call_and_text: tuple[dict[str, Any], str]) -> None:
    """Order, white space and escapes of a body change neither its method, its tool, its id nor its action."""
    call, text = call_and_text
    plain, other = read(json.dumps(call)), read(text)
    assert plain == other
    registry = rpc_policy().registry
    assert registry.resolve(_ATTRIBUTES, _RESOURCE, plain) is registry.resolve(_ATTRIBUTES, _RESOURCE, other)


Pairs = list[tuple[str, Any]]


def last_wins(pairs: Pairs) -> dict[str, Any]:
    """Read as Python, JavaScript and most others do."""
    return dict(pairs)


def first_wins(pairs: Pairs) -> dict[str, Any]:
    """Read as some C and Java parsers do."""
    return dict(reversed(pairs))


def by(fold: Callable[[str], str], choose: Callable[[Pairs], dict[str, Any]]) -> Callable[[Pairs], dict[str, Any]]:
    """Read keys as if they had been written in another way."""
    return lambda pairs: choose([(fold(key), value) for key, value in pairs])


def upwards(key: str) -> str:
    """Ignore letter case as Java's equalsIgnoreCase does."""
    return key.upper().lower()


def simple_fold(key: str) -> str:
    """Ignore letter case as Go's encoding/json does."""
    return key.casefold()


def without_separators(key: str) -> str:
    """Ignore letter case, dashes and underscores, as Go's newer decoder can be told to."""
    return key.casefold().replace("-", "").replace("_", "")


def until_nul(key: str) -> str:
    """Stop at a NUL, as C does."""
    return key.partition("\0")[0]


READERS = [
    by(fold, choose)
    for fold in (str, upwards, simple_fold, without_separators, until_nul, str.strip)
    for choose in (last_wins, first_wins)
]


def seen(text: str, reader: Callable[[Pairs], dict[str, Any]]) -> tuple[object, object]:
    """Return the method and the tool that a reader sees."""
    value = json.loads(text, object_pairs_hook=reader)
    params = value.get("params")
    is_call = value.get("method") == "tools/call" and isinstance(params, dict)
    return value.get("method"), params.get("name") if is_call else None


METHODS = st.sampled_from(['"tools/call"', '"tools/list"', '"t\\u006fols/call"', '"TOOLS/CALL"', "null"])
TOOLS = st.sampled_from(['"search"', '"delete"', '"se\\u0061rch"', '["search"]'])
METHOD_KEYS = st.sampled_from(
    [
        "method",
        "Method",
        "METHOD",
        "m\\u0065thod",
        "\\u004dethod",
        "method\\u0000",
        "me-thod",
        "_method",
        " method",
        "methods",
    ]
)
PARAMS_KEYS = st.sampled_from(["params", "Params", "param\\u017f", "param\u017f", "p\\u0061rams", "params_", "param"])
NAME_KEYS = st.sampled_from(["name", "Name", "n\\u0061me", "NAME", "na_me", "name\\u0000x", "name ", "title"])


def members(*pairs: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[str]:
    """Write an object of members in any order; each may stand several times."""
    return st.lists(st.one_of(*pairs), max_size=3).map(
        lambda found: ",".join(f'"{key}":{value}' for key, value in found)
    )


PARAMS = st.tuples(TOOLS, members(st.tuples(NAME_KEYS, TOOLS)), st.booleans()).map(
    lambda parts: "{" + ",".join(filter(None, (f'"name":{parts[0]}' if parts[2] else "", parts[1]))) + "}"
)
EXTRA = st.just("") | members(st.tuples(METHOD_KEYS, METHODS), st.tuples(PARAMS_KEYS, PARAMS))
BODIES = st.tuples(
    st.permutations(['"jsonrpc":"2.0"', '"id":1', '"method":"tools/call"', "params", "extra"]), PARAMS, EXTRA
).map(
    lambda parts: (
        "{"
        + ",".join(
            filter(None, ({"params": f'"params":{parts[1]}', "extra": parts[2]}.get(part, part) for part in parts[0]))
        )
        + "}"
    )
)


@settings(EXAMPLES, max_examples=500)
@given(BODIES)
def test_every_reader_sees_the_same_call(text: str) -> None:
    """What is accepted has one method and one tool to readers that keep the first, the last, or ignore case or signs."""
    call = outcome(text)
    if isinstance(call, Refusal):
        event(call.reason)
        assert call.reason in {Reason.BODY_DUPLICATE_KEY, Reason.BODY_MALFORMED}
        return
    event("accepted")
    assert {(call.method, call.tool or None)} == {seen(text, reader) for reader in READERS}


@EXAMPLES
@given(st.text(max_size=30) | BODIES.map(lambda text: text[:-1]), st.sampled_from(Protocol))
def test_nothing_else_gets_through(text: str, protocol: Protocol) -> None:
    """Any other text is refused, with the reason of a body and nothing of the text."""
    refusal = outcome(text, protocol)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("body_")
    assert len(text) < 5 or text not in refusal.detail
