"""Texts to findings.

1. Every byte of every text is scanned: what is long cannot hide what is short.
2. A finding names rule, place and score, and never the text that matched.
3. The same texts give the same findings, cached or not, whichever engine runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ext_authz.injection.engine import Engine, compile_engine
from ext_authz.injection.leaves import Leaf
from ext_authz.injection.normalise import normalise
from ext_authz.injection.rules import Rule
from ext_authz.injection.verdicts import Verdict, VerdictCache

# Findings of one request. One denies; sixteen tell an analyst what is going on and keep the audit record small.
MAX_FINDINGS = 16


class Finding(NamedTuple):
    """A rule that matched a text."""

    rule: str  # rule id
    place: str
    score: float  # the rule's weight


class Screen:
    """A compiled pack of rules and the verdicts on texts that it saw lately."""

    def __init__(
        self, rules: Sequence[Rule], compile_patterns: Callable[[Sequence[bytes]], Engine] = compile_engine
    ) -> None:
        self._rules = tuple(rules)
        self._engine = compile_patterns([rule.pattern for rule in rules])
        self._verdicts = VerdictCache()

    def scan(self, leaves: Iterable[Leaf]) -> tuple[Finding, ...]:
        """Return the first MAX_FINDINGS findings, by leaf and then by rule id.

        Never raises for a text; what `leaves` raises passes through, as does the failure of an engine (Undecided).
        """
        findings: list[Finding] = []
        for place, text in leaves:
            findings += [Finding(rule.id, place, rule.weight) for rule in self._verdict(text)]
            if len(findings) >= MAX_FINDINGS:
                break
        return tuple(findings[:MAX_FINDINGS])

    def knows_clean(self, texts: Iterable[str]) -> bool:
        """Whether every text was screened lately and no rule matched: then `scan` would find nothing."""
        return all(self._verdicts.get(text) == () for text in texts)

    def _verdict(self, text: str) -> Verdict:
        verdict = self._verdicts.get(text)
        if verdict is None:
            verdict = tuple(self._rules[index] for index in self._engine.match(normalise(text)))
            self._verdicts.put(text, verdict)
        return verdict
