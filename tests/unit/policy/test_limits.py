"""Limits documents and the rates of cells, compiled; and what is wrong with them."""

from pathlib import Path

import pytest

from ext_authz.errors import PolicyError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.limits import CallLimits
from ext_authz.policy.rates import CellRate, Rate

POLICY = """\
kind: PermissionMatrix
trust_domain: agents.example.com
groups: {readers: [a, b]}
matrix:
  "@readers": {x: {actions: [write, read], rate: 10/min}}
  clerk: {x: [read]}
---
kind: ActionRegistry
actions: {read: {asserted: true}, write: {asserted: true}}
---
kind: Limits
"""


def compiled(directory: Path, limits: str) -> Policy:
    """Compile the policy with these keys of its Limits document."""
    (directory / "p.yaml").write_text(POLICY + limits)
    return load(directory)


def workload(name: str) -> SpiffeId:
    """Return a workload of the policy."""
    return SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}")


def test_limits(tmp_path: Path) -> None:
    """Callers have their own rate, else the default; names are those of the directory."""
    limits = compiled(
        tmp_path,
        "callers: {default: 5/s, a: 1/s, /b: 2/s, spiffe://agents.example.com/clerk: 3/s}\nunknown_callers: 4/h\n",
    ).limits
    assert limits is not None
    assert ["1/s", "2/s", "3/s", "5/s"] == [
        rate.text for name in ("a", "b", "clerk", "x") if (rate := limits.of(workload(name)))
    ]
    assert (Rate.parse("4/h"), None) == (limits.unknown_callers, limits.failed_verifications)


def test_empty_limits(tmp_path: Path) -> None:
    """A Limits document that says nothing limits nothing; so does none."""
    assert CallLimits() == compiled(tmp_path, "").limits
    (tmp_path / "p.yaml").write_text(POLICY.removesuffix("---\nkind: Limits\n"))
    assert load(tmp_path).limits is None


def test_rate_of_a_cell(tmp_path: Path) -> None:
    """Every grant of a cell has its rate under one name, whatever the order of actions."""
    grants = compiled(tmp_path, "").matrix.grants
    rate = CellRate("@readers -> x: read, write: 10/min", Rate.parse("10/min"))
    counted = [grant.rate for key in sorted(grants) for grant in grants[key]]
    assert [rate, rate, rate, rate, None] == counted


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("callers: {b c: 1/s}", "12:11: `b c` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"),
        ("callers: {clerc: 1/s}", "12:11: no cell grants `clerc` anything, so this would limit nobody: did you mean `clerk`?"),
        ("callers: {a: 1/s, /a: 2/s}", "12:19: `/a` names a workload that stands here already"),
        ("---\nkind: Limits", "13:7: a policy has one Limits document, the first is in {path}"),
    ],
)  # fmt: skip
def test_problems(tmp_path: Path, limits: str, problem: str) -> None:
    """What would limit nobody, twice or not as meant is an error."""
    with pytest.raises(PolicyError) as caught:
        compiled(tmp_path, limits)
    path = tmp_path / "p.yaml"
    assert (f"{path}:{problem.format(path=path)}",) == caught.value.problems


def test_who_is_known(tmp_path: Path) -> None:
    """A caller is known when some cell grants it something; who is only called is not."""
    matrix = compiled(tmp_path, "").matrix
    known = [name for name in ("a", "b", "clerk", "x") if matrix.knows(workload(name).uri)]
    assert ["a", "b", "clerk"] == known
    assert not any(matrix.knows(text) for text in ("", "a", "@readers", "spiffe://agents.example.com/a "))
