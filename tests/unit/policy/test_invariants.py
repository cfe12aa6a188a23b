"""Invariants: what no grants, together, may bring about."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.errors import PolicyError
from ext_authz.policy.compile import load

ACTIONS = "kind: ActionRegistry\nactions: {read: {asserted: true}, write: {asserted: true}}\n"
HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"


def problems_of(directory: Path, *matrices: str) -> list[str]:
    """Return what is wrong with matrices, each a file; nothing when the policy can be served."""
    for number, matrix in enumerate(matrices):
        (directory / f"{number}.yaml").write_text(matrix)
    (directory / "actions.yaml").write_text(ACTIONS)
    try:
        load(directory)
    except PolicyError as error:
        return [problem.removeprefix(f"{directory}/") for problem in error.problems]
    return []


CHAIN = f"{HEAD}matrix:\n  a:\n    b: [read]\n  b:\n    c: [write]\n"


def test_violation_prints_the_path(tmp_path: Path) -> None:
    """Grants that only together lead to the forbidden agent are an error that shows each of them."""
    assert [
        "0.yaml:9:5: `a` must not reach `c`: a -> b (0.yaml:5) -> c (0.yaml:7)",
    ] == problems_of(tmp_path, f"{CHAIN}invariants:\n  - {{from: a, must_not_reach: c}}\n")


@pytest.mark.parametrize(
    ("addition", "violated"),
    [
        ("invariants: [{from: a, must_not_reach: b}]", True),
        ("invariants: [{from: b, must_not_reach: c}]", True),
        ("invariants: [{from: /a, must_not_reach: spiffe://agents.example.com/c}]", True),
        ("groups: {g: [x, a]}\ninvariants: [{from: '@g', must_not_reach: c}]", True),
        ("groups: {g: [x, c]}\ninvariants: [{from: a, must_not_reach: '@g'}]", True),
        ("deny: [{subject: b, resource: c, action: write}]\ninvariants: [{from: a, must_not_reach: c}]", False),
        ("deny: [{subject: a, resource: b, action: '*'}]\ninvariants: [{from: a, must_not_reach: c}]", False),
        ("deny: [{subject: b, resource: c, action: read}]\ninvariants: [{from: a, must_not_reach: c}]", True),
        ("deny: [{subject: a, resource: c, action: '*'}]\ninvariants: [{from: a, must_not_reach: c}]", True),
        ("invariants: [{from: c, must_not_reach: a}]", False),
        ("invariants: [{from: a, must_not_reach: a}]", False),
        ("groups: {g: [a, x]}\ninvariants: [{from: '@g', must_not_reach: '@g'}]", False),
        ("groups: {g: []}\ninvariants: [{from: '@g', must_not_reach: c}]", False),
        ("invariants: [{from: a, must_not_reach: nobody}]", False),
        ("invariants: []", False),
    ],
)  # fmt: skip
def test_what_violates(tmp_path: Path, addition: str, violated: bool) -> None:  # noqa: FBT001
    """Any way from the one to the other counts, also a single grant; a denial of every action granted ends it."""
    assert violated == bool(problems_of(tmp_path, f"{CHAIN}{addition}\n"))


def test_cycle_is_a_way_back_to_oneself(tmp_path: Path) -> None:
    """An agent reaches itself only where grants lead back to it."""
    text = f"{HEAD}matrix: {{a: {{b: [read]}}, b: {{a: [read]}}}}\ninvariants: [{{from: a, must_not_reach: a}}]\n"
    assert ["0.yaml:4:14: `a` must not reach `a`: a -> b (0.yaml:3) -> a (0.yaml:3)"] == problems_of(tmp_path, text)


def test_grants_and_denials_of_all_documents_count(tmp_path: Path) -> None:
    """An invariant that stands in one file is about the grants and denials of all."""
    invariant = f"{HEAD}invariants: [{{from: a, must_not_reach: c}}]\n"
    first, second = f"{HEAD}matrix: {{a: {{b: [read]}}}}\n", f"{HEAD}matrix: {{b: {{c: [read]}}}}\n"
    assert ["0.yaml:3:14: `a` must not reach `c`: a -> b (1.yaml:3) -> c (2.yaml:3)"] == problems_of(
        tmp_path, invariant, first, second
    )
    assert [] == problems_of(tmp_path, invariant, first, f"{second}deny: [{{subject: b, resource: c, action: read}}]\n")


def test_conditions_of_a_grant_make_no_difference(tmp_path: Path) -> None:
    """A grant that asks for a chain leads on all the same: a stolen chain would do."""
    text = f"{HEAD}matrix: {{a: {{b: {{actions: [read], delegation: optional, max_hops: 1}}}}}}\n"
    assert problems_of(tmp_path, f"{text}invariants: [{{from: a, must_not_reach: b}}]\n")


def test_every_violation_is_told_with_the_other_problems(tmp_path: Path) -> None:
    """One run tells every invariant that is violated, every goal of a group, and names that mean nothing."""
    text = (
        f"{CHAIN}groups: {{g: [b, c]}}\n"
        "invariants:\n- {from: a, must_not_reach: '@g'}\n- {from: '@h', must_not_reach: c}\n- {from: 'a b', must_not_reach: c}\n"
    )
    assert [
        "0.yaml:10:3: `a` must not reach `@g`: a -> b (0.yaml:5)",
        "0.yaml:10:3: `a` must not reach `@g`: a -> b (0.yaml:5) -> c (0.yaml:7)",
        "0.yaml:11:10: unknown group `h`",
        "0.yaml:12:10: `a b` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form",
    ] == problems_of(tmp_path, text)


def test_shape_of_an_invariant(tmp_path: Path) -> None:
    """What is missing or misspelt in an invariant is told like everywhere else."""
    text = f"{HEAD}invariants:\n- {{from: a}}\n- {{from: a, must_not_reech: b}}\n- a\n"
    assert [
        "0.yaml:4:3: key `must_not_reach` is missing",
        "0.yaml:5:3: key `must_not_reach` is missing",
        "0.yaml:5:13: unknown key `must_not_reech`: did you mean `must_not_reach`?",
        "0.yaml:6:3: expected a mapping with `from` and `must_not_reach`, got `a`",
    ] == problems_of(tmp_path, text)


AGENTS = "abcd"
pairs = st.tuples(st.sampled_from(AGENTS), st.sampled_from(AGENTS))


@settings(max_examples=60, deadline=None)
@given(st.sets(pairs, max_size=8), st.sets(pairs, max_size=3), pairs)
def test_load_refuses_exactly_what_leads_there(
    granted: set[tuple[str, str]], denied: set[tuple[str, str]], invariant: tuple[str, str]
) -> None:
    """A policy loads exactly when following calls one by one never gets from the one to the other."""
    start, goal = invariant
    steps = granted - denied
    found = {resource for subject, resource in steps if subject == start}
    for _ in AGENTS:
        found |= {resource for subject, resource in steps if subject in found}
    rows = "".join(
        f"  {agent}: {{{', '.join(f'{other}: [read]' for subject, other in sorted(granted) if subject == agent)}}}\n"
        for agent in AGENTS
    )
    denials = "".join(f"  - {{subject: {one}, resource: {other}, action: read}}\n" for one, other in denied)
    text = f"{HEAD}matrix:\n{rows}{'deny:' if denied else ''}\n{denials}invariants: [{{from: {start}, must_not_reach: {goal}}}]\n"
    with tempfile.TemporaryDirectory() as name:
        assert (goal in found) == bool(problems_of(Path(name), text))
