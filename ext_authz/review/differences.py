"""What one policy allows and another does not: in triples, in what cells ask, and in the words of all other documents.

1. A triple (subject, resource, action) is compared by what the compiled matrices say: spelling, groups and order never matter.
   A triple with wildcards speaks for those that fit it and that neither policy says anything more exact about
   (`review/regions.py`); who is written by name has triples of its own.
2. What a cell asks, and every other document, is compared as written, with its defaults; lists are sets.
3. Tests of a policy are not compared: they decide nothing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionRegistry, Delegation, IdentityProviders, PermissionMatrix, TestSuite
from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import Key
from ext_authz.policy.verdict import Grant, Rule, Verdict
from ext_authz.review.regions import keys_to_compare

# Keys of a PermissionMatrix that are compared in triples.
_IN_TRIPLES = frozenset({"groups", "matrix"})
_DENY = "deny"
_NO_MEANING = frozenset({"kind", "version"})


class Side(NamedTuple):
    """One of the two policies."""

    documents: PolicyDocuments
    policy: Policy


class Triple(NamedTuple):
    """One subject, resource and action, by their shortest names."""

    subject: str
    resource: str
    action: str


class TripleChange(NamedTuple):
    """A triple that is newly allowed or newly denied, and what stands behind both verdicts."""

    triple: Triple
    before: str
    after: str


class AskedChange(NamedTuple):
    """A triple that is allowed in both, and what its cells ask."""

    triple: Triple
    changes: tuple[str, ...]


class Edit(NamedTuple):
    """Something written that differs; an empty side: it is not there."""

    what: str  # `Delegation max_ttl`
    before: str
    after: str


class Differences(NamedTuple):
    """Everything that differs between two policies."""

    allowed: tuple[TripleChange, ...]
    denied: tuple[TripleChange, ...]
    asked: tuple[AskedChange, ...]
    denials: tuple[Edit, ...]
    actions: tuple[Edit, ...]
    settings: tuple[Edit, ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return any(self)


def compare(old: Side, new: Side) -> Differences:
    """Return what differs."""
    before, after = _Reading(old), _Reading(new)
    keys = keys_to_compare(old.policy.matrix, new.policy.matrix)
    allowed: list[TripleChange] = []
    denied: list[TripleChange] = []
    asked: list[AskedChange] = []
    for key in sorted(keys, key=after.triple):
        was, now = old.policy.matrix.verdict(key), new.policy.matrix.verdict(key)
        if bool(was.grants) is not bool(now.grants):
            change = TripleChange(after.triple(key), _why(was), _why(now))
            (allowed if now.grants else denied).append(change)
        elif changes := tuple(_asked(before.asks(was.grants), after.asks(now.grants))):
            asked.append(AskedChange(after.triple(key), changes))
    edits = list(_edits(set(_lines(old.documents)), set(_lines(new.documents))))
    settings = [edit for kind, edit in edits if kind not in (_DENY, ActionRegistry.__name__)]
    settings += _key_file_edits(old.policy, new.policy)
    return Differences(
        tuple(allowed),
        tuple(denied),
        tuple(asked),
        tuple(edit for kind, edit in edits if kind == _DENY),
        tuple(edit for kind, edit in edits if kind == ActionRegistry.__name__),
        tuple(settings),
    )


class _Reading:
    """One policy, read for comparison."""

    def __init__(self, side: Side) -> None:
        self.policy = side.policy
        self._asked = dict(_cells(side.documents))

    def triple(self, key: Key) -> Triple:
        name = self.policy.names.name_of
        return Triple(name(key[0]), name(key[1]), key[2])

    def asks(self, grants: Iterable[Grant]) -> list[dict[str, Any]]:
        """Return what each cell asks, as it is written; cells that ask the same once."""
        asked = [
            _plain({**self._asked[grant.rule], "delegation": grant.delegation, "access_token": grant.access_token})
            for grant in grants
        ]
        return [json.loads(text) for text in sorted({json.dumps(each, sort_keys=True) for each in asked})]


def _why(verdict: Verdict) -> str:
    """Return the places of the cells that allow, the deny rule, or that there is nothing."""
    if verdict.grants:
        return ", ".join(dict.fromkeys(grant.rule.where for grant in verdict.grants))
    return f"{verdict.rule.where} {verdict.rule.text}" if verdict.rule else "no cell"


def _cells(documents: PolicyDocuments) -> Iterator[tuple[Rule, dict[str, Any]]]:
    """Yield what each cell asks, by the rule that it compiles to."""
    for source in documents.of(PermissionMatrix):
        for subject, row in source.model.matrix.items():
            for resource, cell in row.items():
                where = source.rule_place("matrix", subject, resource)
                asked = _plain(cell.model_dump(mode="json", by_alias=True, exclude={"actions"}))
                for action in cell.actions:
                    yield Rule(where, f"{subject} -> {resource}: {action}"), asked


def _plain(value: Any) -> Any:
    """Return a value without what is absent, and with lists in one order."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None and each not in ([], {})}
    if isinstance(value, list):
        return sorted(map(_plain, value), key=json.dumps)
    return value


def _asked(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[str]:
    if before == after:
        return
    if len(before) == len(after) == 1:
        [was], [now] = before, after
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                yield f"{key}: {_shown(was.get(key))} -> {_shown(now.get(key))}"
    else:
        yield f"{_any_of(before)} -> {_any_of(after)}"


def _any_of(asked: list[dict[str, Any]]) -> str:
    return " or ".join(
        "{" + ", ".join(f"{key}: {_shown(value)}" for key, value in each.items()) + "}" for each in asked
    )


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Line(NamedTuple):
    """One value of a document."""

    kind: str
    path: str
    value: str


def _lines(documents: PolicyDocuments) -> Iterator[_Line]:
    """Yield each value of each document but the cells and tests, each entry of a list on its own."""
    for source in documents.sources:
        model = source.model
        if isinstance(model, TestSuite):
            continue
        written = model.model_dump(mode="json", by_alias=True, exclude=set(_NO_MEANING))
        kind = type(model).__name__
        for key, value in written.items():
            if isinstance(model, PermissionMatrix) and key in _IN_TRIPLES:
                continue
            yield from _flat(_DENY if (kind, key) == (PermissionMatrix.__name__, _DENY) else kind, key, _plain(value))


def _flat(kind: str, path: str, value: Any) -> Iterator[_Line]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(kind, f"{path}.{key}", each)
    elif isinstance(value, list):
        for each in value:
            yield _Line(kind, path, _entry(kind, each))
    elif value is not None:
        yield _Line(kind, path, _shown(value))


def _entry(kind: str, value: Any) -> str:
    if kind != _DENY:
        return _shown(value)
    parties = f"{value['subject']} -> {value['resource']}: {value['action']}"
    more = {key: each for key, each in value.items() if key not in ("subject", "resource", "action") and each}
    return " ".join([parties, *(f"{key} {_shown(each)}" for key, each in more.items())])


def _edits(before: set[_Line], after: set[_Line]) -> Iterator[tuple[str, Edit]]:
    """Yield what differs; a place with one value on each side is one edit."""
    removed, added = _by_place(before - after), _by_place(after - before)
    for place in sorted(removed.keys() | added.keys()):
        kind, path = place
        what = path if kind in (_DENY, ActionRegistry.__name__) else f"{kind} {path}"
        was, now = removed.get(place, []), added.get(place, [])
        if len(was) == len(now) == 1 and kind != _DENY:
            yield kind, Edit(what, was[0], now[0])
            continue
        yield from ((kind, Edit(what, value, "")) for value in was)
        yield from ((kind, Edit(what, "", value)) for value in now)


def _key_file_edits(old: Policy, new: Policy) -> Iterator[Edit]:
    """Say which documents have key files with other content."""
    for kind, one, other in (
        (Delegation.__name__, old.delegation, new.delegation),
        (IdentityProviders.__name__, old.providers, new.providers),
    ):
        if one is not None and other is not None and one.digest != other.digest:
            yield Edit(f"{kind} key files", "their content", "other content")


def _by_place(lines: Iterable[_Line]) -> dict[tuple[str, str], list[str]]:
    places: dict[tuple[str, str], list[str]] = {}
    for line in sorted(lines):
        places.setdefault((line.kind, line.path), []).append(line.value)
    return places
