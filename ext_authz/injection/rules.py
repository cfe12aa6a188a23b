"""A pack of rules to patterns that an engine can compile."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.errors import PolicyError
from ext_authz.injection.normalise import fold_characters

_WORD = re.compile(r"\{([a-z_]+)\}")


class Rule(NamedTuple):
    """One rule, ready for an engine."""

    id: str
    weight: float
    pattern: bytes


def compile_rules(pack: InjectionRules) -> tuple[Rule, ...]:
    """Return the rules by id, their words filled in and their letters folded as texts are.

    Raises PolicyError for an id that stands twice and for a word that the pack does not define.
    """
    identifiers = [rule.id for rule in pack.rules]
    problems = [f"rule `{name}` stands twice" for name in sorted({i for i in identifiers if identifiers.count(i) > 1})]
    problems += [
        f"rule `{rule.id}`: unknown word `{word}`"
        for rule in pack.rules
        for word in _WORD.findall("|".join(rule.pattern))
        if word not in pack.words
    ]
    if problems:
        raise PolicyError(problems)
    rules = (Rule(rule.id, rule.weight, _pattern(rule.pattern, pack.words)) for rule in pack.rules)
    return tuple(sorted(rules))


def _pattern(patterns: Sequence[str], words: Mapping[str, Sequence[str]]) -> bytes:
    filled = _WORD.sub(lambda match: f"(?:{'|'.join(words[match[1]])})", "|".join(patterns))
    return fold_characters(filled).encode()
