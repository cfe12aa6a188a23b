"""The rules of a compiled policy, one after the other: what tests cover and differences are made of."""

from collections.abc import Iterator
from typing import NamedTuple

from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import Key
from ext_authz.policy.verdict import Grant, Rule


class GrantedTriple(NamedTuple):
    """One (subject, resource, action) and a cell that grants it."""

    key: Key
    grant: Grant


def grants_of(policy: Policy) -> Iterator[GrantedTriple]:
    """Yield each triple with each cell that grants it, by the cell's place."""
    found = [GrantedTriple(key, grant) for key, grants in policy.matrix.grants.items() for grant in grants]
    yield from sorted(found, key=lambda each: (place_of_rule(each.grant.rule), each.key))


def denials_of(policy: Policy) -> Iterator[Rule]:
    """Yield each deny rule once, by its place. One behind an equal one can never decide, and is not among them."""
    conditional = {denial.rule for found in policy.matrix.conditional.values() for denial in found}
    yield from sorted(conditional.union(policy.matrix.denials.values()), key=place_of_rule)


def rules_of(policy: Policy) -> Iterator[Rule]:
    """Yield each rule of the matrix once."""
    yield from dict.fromkeys(each.grant.rule for each in grants_of(policy))
    yield from denials_of(policy)


def place_of_rule(rule: Rule) -> tuple[str, int, str]:
    """Return file, line and text: the order in which an author reads rules."""
    file, _, line = rule.where.rpartition(":")
    return file, int(line), rule.text
