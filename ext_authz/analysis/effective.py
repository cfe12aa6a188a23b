"""The matrix as it takes effect: every (subject, resource, action) that some rule says something about, in one list.

1. Groups are resolved, documents are put together, and denials stand beside the grants that they beat.
2. What a grant asks beside subject, resource and action is told in the words of its cell; what its cell leaves to the
   Delegation document, or to the action, is filled in.
3. A subject with wildcards has entries of its own. What it grants, and what a rule denies it, counts in the entries of those
   that fit it too, where they have some.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from ext_authz.analysis.survey import Survey, WrittenCell
from ext_authz.policy.engine import EVERY_ACTION, Key, Matrix
from ext_authz.policy.verdict import Rule


class Granted(NamedTuple):
    """One cell that grants an action."""

    where: str  # file:line
    asks: Mapping[str, Any]  # keys of the cell, as written


_Grants = Mapping[Key, list[Granted]]


class Entry(NamedTuple):
    """What a policy says about one action of a subject on a resource."""

    subject: str
    resource: str
    action: str  # "*": every action, of a denial that no grant meets
    grants: tuple[Granted, ...]
    denial: Rule | None  # beats every grant
    denials_when: tuple[Rule, ...] = ()  # beat every grant where their conditions say so

    @property
    def is_allowed(self) -> bool:
        """Whether a call can be allowed, if it brings what a grant asks."""
        return bool(self.grants) and self.denial is None

    @property
    def pair(self) -> tuple[str, str]:
        """Subject and resource."""
        return self.subject, self.resource


def effective(survey: Survey) -> list[Entry]:
    """Return every entry, sorted by subject, resource and action. Subjects and resources are SPIFFE IDs, or patterns."""
    grants, matrix = _grants(survey), survey.policy.matrix
    granted = {key: _all_grants(grants, matrix, key) for key in grants}
    if matrix.patterns.uris:  # a denial by name may meet a grant by pattern alone
        granted |= {key: found for key in matrix.denials if (found := _all_grants(grants, matrix, key))}
    entries = [
        Entry(*key, tuple(found), survey.denial_of(*key), survey.denials_when(*key)) for key, found in granted.items()
    ]
    met = {(entry.subject, entry.resource, name) for entry in entries for name in (entry.action, EVERY_ACTION)}
    entries += [Entry(*key, (), rule) for key, rule in matrix.denials.items() if key not in met]
    return sorted(entries, key=lambda entry: entry[:3])


def by_pair(entries: Iterable[Entry]) -> Iterator[tuple[tuple[str, str], list[Entry]]]:
    """Yield sorted entries by subject and resource."""
    for pair, group in groupby(entries, key=lambda entry: entry.pair):
        yield pair, list(group)


def _all_grants(grants: _Grants, matrix: Matrix, key: Key) -> list[Granted]:
    subject, resource, action = key
    return [granted for each in matrix.about(subject) for granted in grants.get((each, resource, action), ())]


def _grants(survey: Survey) -> _Grants:
    usual = (
        None if survey.policy.delegation is None else "required" if survey.policy.delegation.required else "optional"
    )
    grants: dict[Key, list[Granted]] = {}
    for cell in survey.cells:
        for action in dict.fromkeys(cell.cell.actions):
            granted = Granted(cell.line, _asks(cell, usual, survey.policy.registry.actions[action].access_token))
            for subject in cell.subjects:
                grants.setdefault((subject, cell.resource_id, action), []).append(granted)
    return grants


def _asks(cell: WrittenCell, usual: str | None, access_token: str | None) -> dict[str, Any]:
    asks = cell.cell.model_dump(mode="json", by_alias=True, exclude={"actions"}, exclude_defaults=True)
    if usual is not None:
        asks.setdefault("delegation", usual)
    if access_token is not None:
        asks.setdefault("access_token", access_token)
    return asks
