"""The tests that stand beside a policy: read, run, and what came of them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ext_authz.decision.explain import Explanation
from ext_authz.decision.model import Decision
from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import Expectation, SuiteRequest, TestSuite
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.errors import PolicyError, Reason
from ext_authz.injection.screen import Screen
from ext_authz.policy.compile import Policy
from ext_authz.policy.verdict import Rule
from ext_authz.review.explaining import explain_request
from ext_authz.review.rehearsal import rehearse
from ext_authz.review.requests import PolicyRequest, RequestReader
from ext_authz.review.rules import rules_of

# Keys that say the same in another way: a request that has one of them does not take the others from `defaults`.
_ALTERNATIVES = (frozenset({"action"}), frozenset({"method", "path"}))


class Case(NamedTuple):
    """One test, ready to run."""

    name: str
    where: str  # path:line:column
    request: PolicyRequest
    expected: Expectation


class Trial(NamedTuple):
    """What came of one test."""

    case: Case
    decision: Decision
    differences: tuple[str, ...]  # from what was expected; none: it passed
    explanation: Explanation | None  # of one that did not pass


def compile_suites(documents: PolicyDocuments, policy: Policy) -> tuple[Case, ...]:
    """Return the tests of a policy directory. Raises PolicyError with everything that is wrong with them."""
    problems: list[str] = []
    compiler = _Compiler(documents, policy, problems)
    cases = tuple(case for source in documents.of(TestSuite) for case in compiler.cases(source))
    if problems:
        raise PolicyError(list(dict.fromkeys(problems)))  # those of the defaults come with each test
    return cases


def run(cases: Iterable[Case], policy: Policy, screen: Screen) -> Iterator[Trial]:
    """Run tests and yield what came of each."""
    for case in cases:
        decision = rehearse(case.request, policy, screen)
        differences = tuple(_differences(case.expected, decision))
        explanation = explain_request(case.request, policy, screen) if differences else None
        yield Trial(case, decision, differences, explanation)


class _Compiler:
    def __init__(self, documents: PolicyDocuments, policy: Policy, problems: list[str]) -> None:
        self._reader = RequestReader(documents, policy, problems)
        self._rules = tuple(rules_of(policy))
        self._problems = problems
        self._named: dict[str, str] = {}  # where each test was written first

    def cases(self, source: Source[TestSuite]) -> Iterator[Case]:
        for index, test in enumerate(source.model.tests):
            where = source.locate("tests", index)
            if test.name in self._named:
                here = source.locate("tests", index, "name")
                self._problems.append(
                    f"{here}: test {quoted(test.name)} stands twice, first in {self._named[test.name]}"
                )
            self._named.setdefault(test.name, source.line("tests", index))
            self._check(source, index, test.expect)
            words = with_defaults(test.request, source.model.defaults)
            request = self._reader.read(words, _Locate(source, index, test.request))
            if request is not None:
                yield Case(test.name, where, request, test.expect)

    def _check(self, source: Source[TestSuite], index: int, expected: Expectation) -> None:
        steps = ("tests", index, "expect")
        if expected.reason is not None:
            self._check_reason(source.locate(*steps, "reason"), expected.reason, expected.outcome)
        if expected.rule is not None and not any(is_named(rule, expected.rule) for rule in self._rules):
            known = [text for rule in self._rules for text in (rule.text, rule.where)]
            here = source.locate(*steps, "rule")
            self._problems.append(f"{here}: unknown rule {quoted(expected.rule)}{suggestion(expected.rule, known)}")

    def _check_reason(self, here: str, reason: str, outcome: str) -> None:
        known = {each.value: each.meaning.outcome.value for each in Reason}
        if reason not in known:
            self._problems.append(f"{here}: unknown reason {quoted(reason)}{suggestion(reason, known)}")
        elif known[reason] != outcome:
            self._problems.append(f"{here}: {quoted(reason)} is the reason of an `{known[reason]}`, not of `{outcome}`")


class _Locate:
    """The place of a key of a test's request, or of the suite's defaults where the test does not have it."""

    def __init__(self, source: Source[TestSuite], index: int, request: SuiteRequest) -> None:
        self._source = source
        self._index = index
        self._own = request.model_dump(by_alias=True, exclude_unset=True)

    def __call__(self, *steps: str | int) -> str:
        of_test = ("tests", self._index, "request") if not steps or _holds(self._own, steps) else ("defaults",)
        return self._source.locate(*of_test, *steps)


def _holds(value: Any, steps: tuple[str | int, ...]) -> bool:
    first, *rest = steps
    inside = first in value if isinstance(value, dict) else isinstance(value, list) and first in range(len(value))
    return inside and (not rest or _holds(value[first], tuple(rest)))


def with_defaults(request: SuiteRequest, defaults: SuiteRequest) -> SuiteRequest:
    """Return a request with what it does not say itself taken from `defaults`; `headers` and `query` add up."""
    said = request.model_fields_set
    instead = {
        key for group in _ALTERNATIVES if said & group for other in _ALTERNATIVES if other != group for key in other
    }
    shared = {key: getattr(defaults, key) for key in defaults.model_fields_set - instead - said}
    added = {key: {**getattr(defaults, key), **getattr(request, key)} for key in ("headers", "query")}
    return request.model_copy(update=shared | added)


def is_named(rule: Rule, name: str) -> bool:
    """Whether `name` means this rule: its place, its text, or its text without the reason that its author gave."""
    return name in (rule.where, rule.text) or rule.text.startswith(f"{name} because ")


def _differences(expected: Expectation, decision: Decision) -> Iterator[str]:
    reason = decision.reason
    if expected.outcome != reason.meaning.outcome:
        yield f"expected {expected.outcome}, got {reason.meaning.outcome} ({reason})"
    elif expected.reason not in (None, reason.value):
        yield f"expected {expected.reason}, got {reason}"
    if expected.rule is not None and not (decision.rule and is_named(decision.rule, expected.rule)):
        got = f"{decision.rule.where} {decision.rule.text}" if decision.rule else "none"
        yield f"expected rule {expected.rule}, got {got}"
