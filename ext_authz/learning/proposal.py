"""Observations to the smallest policy that allows them.

1. A grant is proposed for a call that was seen, and for nothing else; it keeps every condition of the active policy's cell.
   A cell whose subject has wildcards is narrowed to those that were seen.
2. A request that the active policy knows keeps its action; only for others are routes proposed.
3. What rests on few observations says so.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ext_authz.action.registry import Registry
from ext_authz.attributes.body import NO_BODY
from ext_authz.attributes.request import CONTENT_TYPE, Attributes
from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionRegistry, Cell, PermissionMatrix
from ext_authz.errors import Refusal
from ext_authz.identity.names import DEFAULT_ID_PATH, Names
from ext_authz.identity.patterns import WILDCARD
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.learning.observations import Observations, Request
from ext_authz.learning.routes import new_actions
from ext_authz.policy.compile import Policy
from ext_authz.policy.verdict import Rule

# The content type of gRPC, which an access log does not show.
GRPC = "application/grpc"

# Subject and resource as they stand in a matrix.
Row = tuple[str, str]
Call = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Active:
    """The policy in force, to learn against."""

    documents: PolicyDocuments
    policy: Policy


@dataclass(slots=True)
class Proposal:
    """A policy that allows what was seen. Conditions are the keys of a long cell but `actions`, as JSON."""

    names: Names
    cells: dict[Row, dict[str, Counter[str]]] = field(default_factory=dict)  # row -> conditions -> action -> how often
    entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # the actions, as an ActionRegistry has them
    endpoints: list[Mapping[str, Any]] = field(default_factory=list)  # of the active policy
    untold: int = 0  # requests to endpoints, where a body that no log shows says which action it is
    new_calls: list[Call] = field(default_factory=list)  # seen, and not granted today
    denied_calls: list[tuple[Call, str]] = field(default_factory=list)  # seen, and denied by a rule; where
    sometimes_denied_calls: list[tuple[Call, str]] = field(default_factory=list)  # proposed, and denied on a condition
    unseen_calls: list[tuple[Call, str]] = field(default_factory=list)  # granted today and not seen; where
    # Granted with wildcards today: where, and seen of how many.
    narrowed_calls: list[tuple[Call, str, int]] = field(default_factory=list)

    def to_yaml(self, few: int) -> str:
        """Return the documents; cells seen fewer than `few` times are marked."""
        return "".join(f"{line}\n" for line in self._lines(few))

    def _lines(self, few: int) -> Iterator[str]:
        for index in range(max((len(found) for found in self.cells.values()), default=1)):
            yield from ("---",) if index else ()
            yield "kind: PermissionMatrix"
            yield f"trust_domain: {self.names.trust_domain}"
            yield from (f"id_path: {json.dumps(self.names.id_path)}",) if self.names.id_path != DEFAULT_ID_PATH else ()
            yield from self._matrix(index, few)
        if self.entries:
            yield from ("---", "kind: ActionRegistry", "actions:")
            yield from (f"  {_plain(name)}: {json.dumps(entry)}" for name, entry in sorted(self.entries.items()))
        for endpoints in self.endpoints:
            yield from ("---", "kind: ActionRegistry", f"endpoints: {json.dumps(endpoints)}")

    def _matrix(self, index: int, few: int) -> Iterator[str]:
        """Write the cells whose conditions come at this place among those of their row: a key stands once in a document."""
        subject_before = None
        for (subject, resource), found in sorted(self.cells.items()):
            if index >= len(found):
                continue
            if subject_before is None:
                yield "matrix:"
            if subject != subject_before:
                yield f"  {_plain(subject)}:"
            subject_before = subject
            conditions, counts = sorted(found.items())[index]
            cell: Any = sorted(counts)
            if conditions != "{}":
                cell = {"actions": cell, **json.loads(conditions)}
            rare = ", ".join(f"{action} {count}" for action, count in sorted(counts.items()) if count < few)
            yield f"    {_plain(resource)}: {json.dumps(cell)}{f'  # few observations: {rare}' if rare else ''}"


def propose(observations: Observations, names: Names, active: Active | None) -> Proposal:
    """Return the smallest policy that allows what was seen."""
    proposal = Proposal(active.policy.names if active else names)
    actions = _actions(observations, active)
    seen: Counter[Call] = Counter()
    for request, action in actions.items():
        seen[request.subject.uri, request.resource.uri, action.name] += observations.counts[request]
    proposal.untold = observations.counts.total() - seen.total()
    _add_cells(proposal, active, seen)
    granted = {action for found in proposal.cells.values() for counts in found.values() for action in counts}
    for action in actions.values():
        if action.name in granted:
            _add_entry(proposal, action)
    if active:
        if any("mcp" in entry or "a2a" in entry for entry in proposal.entries.values()):
            proposal.endpoints.extend(_endpoints(active.documents))
        _add_unseen(proposal, active, seen)
    return proposal


def _add_cells(proposal: Proposal, active: Active | None, seen: Counter[Call]) -> None:
    """Grant what was seen, on the terms of the active policy, and leave out what it denies."""
    cells = _cells(active) if active else {}
    for call, count in sorted(seen.items()):
        subject, resource, action = *(_name(SpiffeId.parse_workload(uri), proposal.names) for uri in call[:2]), call[2]
        denial = _denial(active, call)
        if denial is not None:
            proposal.denied_calls.append(((subject, resource, action), denial.where))
            continue
        proposal.sometimes_denied_calls += (
            ((subject, resource, action), rule.where) for rule in _conditional_denials(active, call)
        )
        granted = _conditions(active, cells, call)
        if active and not granted:
            proposal.new_calls.append((subject, resource, action))
        for conditions in granted or ("{}",):
            proposal.cells.setdefault((subject, resource), {}).setdefault(conditions, Counter())[action] += count


class _Action(NamedTuple):
    name: str
    entry: Mapping[str, Any]  # as the active policy has it; empty for a new one
    route: str | None  # of a new one


def _actions(observations: Observations, active: Active | None) -> dict[Request, _Action]:
    """Find the action of every request that was seen."""
    entries = _entries(active.documents) if active else {}
    registry = active.policy.registry if active else Registry()
    told = [request for request in observations.counts if not _is_endpoint(registry, request)]
    names = {request: request.action or _registered(registry, request) for request in told}
    unknown = {request: name for request, name in names.items() if name not in entries}
    found = new_actions(((each.method, each.path, unknown[each]) for each in unknown), entries)
    known = {request: _Action(name, entries[name], None) for request, name in names.items() if name in entries}
    return known | {each: _Action(name, {}, route) for each, (name, route) in zip(unknown, found, strict=True)}


def _denial(active: Active | None, call: Call) -> Rule | None:
    return active.policy.matrix.denial(call) if active else None


def _conditional_denials(active: Active | None, call: Call) -> Iterator[Rule]:
    if active is not None:
        yield from (denial.rule for denial in active.policy.matrix.denials_when(call))


def _registered(registry: Registry, request: Request) -> str:
    """Return the action that the request line tells; empty where it tells none."""
    for headers in ({}, {CONTENT_TYPE: GRPC}):
        try:
            return registry.resolve(_attributes(request, headers), request.resource).name
        except Refusal:
            continue
    return ""


def _is_endpoint(registry: Registry, request: Request) -> bool:
    """Whether a request is a call to an endpoint, and neither its record nor its path says which action it is."""
    route = registry.routes.find(request.method, request.path, request.resource)
    if request.action or route is None or route.action is not None:
        return False
    return route.protocol is not None or not _registered(registry, request)


def _attributes(request: Request, headers: Mapping[str, str]) -> Attributes:
    return Attributes("", "", "", {}, request.method, request.path, "", headers, NO_BODY, 0)


def _endpoints(documents: PolicyDocuments) -> Iterator[Mapping[str, Any]]:
    for source in documents.of(ActionRegistry):
        if source.model.endpoints is not None:
            yield source.model.endpoints.model_dump(mode="json", exclude_defaults=True)


def _entries(documents: PolicyDocuments) -> dict[str, Mapping[str, Any]]:
    return {
        name: entry.model_dump(mode="json", exclude_defaults=True)
        for source in documents.of(ActionRegistry)
        for name, entry in source.model.actions.items()
    }


def _add_entry(proposal: Proposal, action: _Action) -> None:
    entry = proposal.entries.setdefault(action.name, action.entry)
    if action.route is not None:
        routes = sorted({*entry.get("http", ()), action.route})
        proposal.entries[action.name] = {**entry, "http": routes}


def _cells(active: Active) -> dict[Call, list[str]]:
    """Return for each granted call the conditions of the cells that grant it."""
    found: dict[Call, list[str]] = {}
    for source in active.documents.of(PermissionMatrix):
        groups = source.model.groups
        for subject, row in source.model.matrix.items():
            members = groups.get(subject.removeprefix("@"), []) if subject.startswith("@") else [subject]
            for resource, cell in row.items():
                for member in members:
                    _add_cell(found, active.policy.names, (member, resource), cell)
    return found


def _conditions(active: Active | None, cells: Mapping[Call, list[str]], call: Call) -> list[str]:
    """Return the conditions of every cell that grants a call, by name or by wildcards, each once."""
    if active is None:
        return []
    _, resource, action = call
    subjects = active.policy.matrix.about(call[0])
    return list(dict.fromkeys(each for subject in subjects for each in cells.get((subject, resource, action), ())))


def _add_cell(found: dict[Call, list[str]], names: Names, row: Row, cell: Cell) -> None:
    subject, resource = (names.resolve_subject(name).uri for name in row)
    conditions = json.dumps(cell.model_dump(mode="json", exclude_defaults=True, exclude={"actions"}), sort_keys=True)
    for action in cell.actions:
        conditions_here = found.setdefault((subject, resource, action), [])
        if conditions not in conditions_here:
            conditions_here.append(conditions)


def _add_unseen(proposal: Proposal, active: Active, seen: Collection[Call]) -> None:
    matrix = active.policy.matrix
    allowed = (call for call in seen if matrix.denial(call) is None)
    callers = Counter((subject, *rest) for caller, *rest in allowed for subject in matrix.about(caller))
    for call, grants in sorted(matrix.grants.items()):
        named = _subject_name(call[0], proposal.names), _subject_name(call[1], proposal.names), call[2]
        if call not in callers and call not in seen:
            proposal.unseen_calls.append((named, grants[0].rule.where))
        elif WILDCARD in call[0]:
            proposal.narrowed_calls.append((named, grants[0].rule.where, callers[call]))


def _subject_name(uri: str, names: Names) -> str:
    return names.name_of(uri) if WILDCARD in uri else _name(SpiffeId.parse_workload(uri), names)


def _name(workload: SpiffeId, names: Names) -> str:
    """Return the shortest way to write a workload in a policy."""
    before, _, after = names.id_path.partition("{name}")
    path = workload.path.removeprefix("/")
    short = path[len(before) : len(path) - len(after)] if path.startswith(before) and path.endswith(after) else ""
    for candidate in (short, path if "/" in path else f"/{path}"):
        try:
            if candidate and names.resolve(candidate) == workload:
                return candidate
        except SpiffeIdError:
            continue
    return workload.uri


# What a YAML reader takes for a text and nothing else; the rest is quoted.
_PLAIN = re.compile(r"[a-z][a-z0-9.-]*[a-z0-9]")
_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


def _plain(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name not in _WORDS else json.dumps(name)
