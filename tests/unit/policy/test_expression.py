"""What a condition may say: names, functions, and shapes whose cost is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.policy.conditions import IN_CELLS, IN_DENY_RULES
from ext_authz.policy.expression import MAX_NESTING, METHODS, ExpressionError, named_facts


@pytest.mark.parametrize(
    ("paths", "expression"),
    [
        ({"delegation.sub"}, 'delegation.sub.startsWith("tenant-acme:")'),
        ({"delegation.sub"}, "delegation . sub == 'x'"),
        ({"delegation.present", "action.name"}, '!delegation.present || action.name in ["read", "list"]'),
        ({"delegation.scopes", "action.scope"}, "delegation.scopes.exists(scope, scope == action.scope)"),
        ({"delegation.actors"}, "size(delegation.actors) < 3 && delegation.actors.size() > 0"),
        ({"delegation.session_id"}, "has(delegation.session_id)"),
        ({"now", "delegation.expires_at"}, 'delegation.expires_at - now > duration("60s")'),
        ({"now"}, "now.getHours() >= 8 && now < timestamp('2030-01-01T00:00:00Z')"),
        ({"runtime.policy_digest"}, 'runtime.policy_digest.startsWith("ab")'),
        (set(), "true"),
        ({"subject.id"}, 'subject.id != "delegation.nothing // \\" [[[ }"'),
        (
            {"subject.path"},
            """subject.path == 'a"b' ||
            subject.path == "c" """,
        ),
        ({"delegation.scopes"}, "delegation.scopes.filter(a, a != '').all(b, b.size() < 9)"),
    ],
)
def test_facts_that_a_condition_names(paths: set[str], expression: str) -> None:
    """Every fact is found, also in a comprehension, and none in a string."""
    assert paths == {".".join(filter(None, path)) for path in named_facts(expression, IN_CELLS)}


FACTS = "expected one of access_token, action, delegation, now, resource, runtime, subject"
WRONG: dict[str, tuple[str, str]] = {
    "a fact": ("unknown fact `delegaton`: did you mean `delegation`?", "delegaton.sub == 'x'"),
    "no fact at all": (f"unknown fact `user`: {FACTS}", "user == 'x'"),
    "a type": (f"unknown fact `int`: {FACTS}", "1 == int"),
    "a field": ("`delegation` has no field `scope`: did you mean `scopes`?", "delegation.scope == 'x'"),
    "a field behind a false side": (
        "`subject` has no field `name`: expected one of id, path, trust_domain",
        "false && subject.name == 'x'",
    ),
    "a field of a field": ("unknown field `foo`", "delegation.sub.foo == 1"),
    "a field of a variable": ("unknown field `id`", "delegation.actors.all(a, a.id == '')"),
    "a fact without field": (
        "`action` stands with one of its fields: expected one of name, scope",
        "action == 'read'",
    ),
    "a field by index": ("`action` stands with one of its fields: expected one of name, scope", "action['name'] == ''"),
    "a field as a function": (
        "`action` stands with one of its fields: expected one of name, scope",
        "action.name('read')",
    ),
    "a function": (
        "unknown function `matching`: expected one of duration, has, int, size, string, timestamp",
        "matching(delegation.scopes) > 1",
    ),
    "a method": ("unknown function `startswith`: did you mean `startsWith`?", "subject.id.startswith('x')"),
    "a pattern": (
        f"unknown function `matches`: expected one of {', '.join(sorted(METHODS))}",
        "subject.id.matches('(a+)+$')",
    ),
    "a comprehension in another": (
        "a comprehension inside another one is not read",
        "delegation.scopes.all(a, delegation.scopes.exists(b, b == a))",
    ),
    "a comprehension in the list of another": (
        "a comprehension inside another one is not read",
        "[1].map(a, ([a].map(b, b))) == []",
    ),
    "a map of what a map made": (
        "a second `map` is not read",
        "delegation.scopes" + ".map(x, x + x)" * 60 + ".size() > 0",
    ),
    "a map beside another": ("a second `map` is not read", "size([1].map(x, x)) == size([2].map(y, y))"),
    "a variable that hides a fact": (
        "`subject` is taken: give the variable another name",
        "delegation.actors.all(subject, subject == '')",
    ),
    "no variable": ("a comprehension begins with a variable and a comma", "delegation.scopes.all('x')"),
    "the caller's word": (
        "`asserted` is the caller's own word, which may never widen: only deny rules read it",
        "asserted.headers['x-agent-action'] == 'read'",
    ),
    "a comment": ("comments are not read here: write them behind a `#` of YAML", "true // subject.id"),
    "bytes": ("only plain strings are read: no bytes, raw strings or triple quotes", "b'a' == b'a'"),
    "a raw string": ("only plain strings are read: no bytes, raw strings or triple quotes", r"r'\' == '"),
    "three quotes": ("only plain strings are read: no bytes, raw strings or triple quotes", '""" == subject.id"""'),
    "a string without end": ("`'` is not read here", "subject.id == 'x"),
    "a string over lines": ('`"` is not read here', 'subject.id == "x\n"'),
    "a letter beyond ASCII": ("`ѕ` is not read here", "ѕubject.id == ''"),  # noqa: RUF001
    "a quoted name": ("``` is not read here", "`subject`.id == ''"),
    "nesting": ("nested deeper than 16 levels", "(" * 17 + "true" + ")" * 17),
    "nested lists": ("nested deeper than 16 levels", "[" * 500 + "]" * 500 + " == []"),
}


@pytest.mark.parametrize(("message", "expression"), WRONG.values(), ids=WRONG)
def test_what_is_not_read(message: str, expression: str) -> None:
    """What is not known, or could cost more than it looks, is refused, with what may have been meant."""
    with pytest.raises(ExpressionError) as caught:
        named_facts(expression, IN_CELLS)
    assert message == str(caught.value)


def test_deepest_nesting() -> None:
    """As many brackets as the limit says are read."""
    named_facts("(" * MAX_NESTING + "true" + ")" * MAX_NESTING, IN_CELLS)


HEADERS = 'headers are read as asserted.headers["name"] and "name" in asserted.headers'


@pytest.mark.parametrize(
    "expression",
    ['asserted.headers["x-ai-prompt"] == ""', "'x-agent-action' in asserted.headers && 'x' == 'y'"],
)
def test_headers_in_deny_rules(expression: str) -> None:
    """A deny rule may look at what the caller asserts."""
    assert {("asserted", "headers")} == named_facts(expression, IN_DENY_RULES)


@pytest.mark.parametrize(
    ("message", "expression"),
    [
        ("unknown header `x-agent-acton`: did you mean `x-agent-action`?", "'x-agent-acton' in asserted.headers"),
        ("unknown header `x-ai_prompt`: did you mean `x-ai-prompt`?", "asserted.headers['x-ai_prompt'] == ''"),
        (HEADERS, "asserted.headers['x-ai-' + 'prompt'] == ''"),
        (HEADERS, "asserted.headers[subject.id] == ''"),
        (HEADERS, "subject.id in asserted.headers"),
        (HEADERS, "size(asserted.headers) == 0"),
        (HEADERS, "asserted == {}"),
        (HEADERS, "asserted['headers'] == {}"),
        (HEADERS, "has(asserted.headers)"),
    ],
)
def test_headers_are_named(message: str, expression: str) -> None:
    """A header is named in full, so that a typing mistake cannot switch a deny rule off."""
    with pytest.raises(ExpressionError) as caught:
        named_facts(expression, IN_DENY_RULES)
    assert message == str(caught.value)


@pytest.mark.parametrize("header", ["authorization", "x-delegation-token", "x-forwarded-client-cert"])
def test_no_secret_is_a_fact(header: str) -> None:
    """Tokens and what Envoy verified are not among the headers that a condition sees."""
    with pytest.raises(ExpressionError, match="unknown header"):
        named_facts(f"'{header}' in asserted.headers", IN_DENY_RULES)


words = st.sampled_from(
    [
        "subject",
        ".id",
        ".",
        "delegation.scopes",
        "(",
        ")",
        "[",
        "]",
        ",",
        "'",
        '"',
        "\\",
        " ",
        "in",
        "x",
        "//",
        "&&",
        ".all(x,",
        "asserted",
        ".headers",
        "r",
        "b",
        "1",
        "{",
        "}",
        "?",
        ":",
        "\n",
        "é",
    ]
)


@given(st.lists(words | st.text(max_size=3), max_size=40).map("".join))
def test_any_text_is_read_or_refused(expression: str) -> None:
    """No text is an error of ours."""
    for vocabulary in (IN_CELLS, IN_DENY_RULES):
        try:
            named_facts(expression, vocabulary)
        except ExpressionError:
            continue
