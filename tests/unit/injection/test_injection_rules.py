"""The model of a pack, and how a pack compiles."""

from typing import Any

import pytest
from pydantic import ValidationError

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.errors import PolicyError
from ext_authz.injection.rules import compile_rules


def pack(*patterns: str | list[str], words: dict[str, Any] | None = None, rule_id: str = "") -> InjectionRules:
    examples = {"match": ["a", "b"], "no_match": ["c", "d"]}
    rules = [
        {"id": rule_id or f"test.{chr(122 - n)}", "category": "test", "weight": 0.5, "pattern": p, "examples": examples}
        for n, p in enumerate(patterns)
    ]
    return InjectionRules.model_validate({"kind": "InjectionRules", "words": words or {}, "rules": rules})


@pytest.mark.parametrize(
    "pattern",
    [
        "a b",
        r"\bx\b",
        r"\d\w",
        "(?:a|b)+",
        "a{2,4}",
        "[a-z']*",
        "[^>]{0,3}",
        r"\[\.\]",
        "{name}",
        "忽略.{0,9}指令",
        "über",
    ],
)
def test_common_syntax(pattern: str) -> None:
    """What both engines read alike is accepted."""
    assert [pattern] == pack(pattern, words={"name": "x"}).rules[0].pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "^a",
        "a$",
        r"\s",
        r"\B",
        "(a)",
        "(?i:a)",
        "(?=a)",
        "a*?",
        "a++",
        "A",
        "[A-Z]",
        "[é]",
        "é?",
        "é{2}",
        "a\nb",
        r"\x41",
        "[]]",
        "",
    ],
)
def test_other_syntax(pattern: str) -> None:
    """What engines read differently, and what normalised text never holds, is refused."""
    with pytest.raises(ValidationError):
        pack(pattern)


def test_order_and_words() -> None:
    """Rules compile in the order of their ids, with words filled in and letters folded as in texts."""
    compiled = compile_rules(pack("größe", ["{verb} it", "x"], words={"verb": ["drop", "clear"]}))
    assert [("test.y", b"(?:drop|clear) it|x"), ("test.z", b"grosse")] == [(rule.id, rule.pattern) for rule in compiled]


def test_unknown_word() -> None:
    """A word that the pack does not define is an error that names rule and word."""
    with pytest.raises(PolicyError, match=r"rule `test\.z`: unknown word `verb`"):
        compile_rules(pack("{verb} it"))


def test_same_id_twice() -> None:
    """Two rules of one id would make findings ambiguous."""
    with pytest.raises(PolicyError, match=r"rule `test\.a` stands twice"):
        compile_rules(pack("a", "b", rule_id="test.a"))
