"""What every export is made of: who may do what on each resource, and what an export could not say.

1. An export never allows more than the policy without a note that says where and why.
2. What an export can express in no way at all is left out of what it allows, with a note.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionRegistry
from ext_authz.errors import ExtAuthzError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import EVERY_ACTION
from ext_authz.policy.verdict import Grant, Rule


class ExportError(ExtAuthzError):
    """The policy cannot be said in that language; `problems` lists every reason, one line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Exported(NamedTuple):
    """An export, and what it does not say."""

    text: str
    notes: tuple[str, ...]


class Operation(NamedTuple):
    """A request line: a method, and the segments of a path; None: one segment, whatever it is."""

    method: str
    segments: tuple[str | None, ...]

    @classmethod
    def of(cls, route: str) -> "Operation":
        """Read `METHOD /path/{parameter}`."""
        method, _, path = route.partition(" ")
        return cls(method, tuple(None if each.startswith("{") else each for each in path.split("/")[1:]))


class Permission(NamedTuple):
    """One call that the policy grants and no denial takes back."""

    subject: SpiffeId
    resource: SpiffeId
    action: str
    operations: tuple[Operation, ...]  # empty: the request does not tell the action
    grants: tuple[Grant, ...]

    @property
    def name(self) -> str:
        """The call and where it is granted, for notes."""
        return f"{self.grants[0].rule.text} ({self.grants[0].rule.where})"


class Prohibition(NamedTuple):
    """One call that no grant can allow."""

    subject: SpiffeId
    resource: SpiffeId
    action: str  # EVERY_ACTION: whatever the request is
    operations: tuple[Operation, ...]
    rule: Rule


@dataclass(frozen=True, slots=True)
class Calls:
    """All calls of a policy, in the order of names."""

    permissions: tuple[Permission, ...]
    prohibitions: tuple[Prohibition, ...]
    everywhere: tuple[str, ...] = ()  # what is asked of every call, for notes

    @property
    def workloads(self) -> list[SpiffeId]:
        """Everybody who stands in the policy."""
        subjects = {*(call.subject for call in self.permissions), *(call.subject for call in self.prohibitions)}
        return by_name({*subjects, *self.resources})

    @property
    def resources(self) -> list[SpiffeId]:
        """Everybody who is called."""
        return by_name({*(call.resource for call in self.permissions), *(call.resource for call in self.prohibitions)})

    def to(self, resource: SpiffeId) -> "Calls":
        """Return the calls of one resource."""
        return Calls(
            tuple(call for call in self.permissions if call.resource == resource),
            tuple(call for call in self.prohibitions if call.resource == resource),
            self.everywhere,
        )


def calls_of(documents: PolicyDocuments, policy: Policy) -> Calls:
    """List what a policy allows and denies."""
    operations = dict(_operations(documents))
    denials = policy.matrix.denials
    permissions = [
        Permission(*_workloads(subject, resource), action, operations.get(action, ()), grants)
        for (subject, resource, action), grants in policy.matrix.grants.items()
        if (subject, resource, action) not in denials and (subject, resource, EVERY_ACTION) not in denials
    ]
    prohibitions = [
        Prohibition(*_workloads(subject, resource), action, operations.get(action, ()), rule)
        for (subject, resource, action), rule in denials.items()
    ]
    everywhere = tuple(beyond_matrix(policy))
    return Calls(tuple(sorted(permissions, key=_order)), tuple(sorted(prohibitions, key=_order)), everywhere)


def conditions_of(grants: Iterable[Grant]) -> str:
    """Say what a call needs beside subject, resource and action; empty where some grant asks for nothing."""
    asked = [list(_conditions(grant)) for grant in grants]
    return "" if [] in asked else " or ".join(" and ".join(each) for each in asked)


def beyond_matrix(policy: Policy) -> Iterator[str]:
    """Say what a policy asks of every call, whatever the matrix grants."""
    for window in policy.windows.closed:
        yield f"closed {window.name} ({window.where}): no calls at all while this window is open"
    if policy.requires_timestamp:
        yield "require_timestamp: every call needs a fresh x-request-timestamp"


def by_name(workloads: Iterable[SpiffeId]) -> list[SpiffeId]:
    """Return workloads in the order of their SPIFFE IDs."""
    return sorted(workloads, key=str)


def with_comments(documents: Iterable[str], title: str, notes: Iterable[str], sign: str = "#") -> str:
    """Join an export: what it is, what it does not say, and its documents."""
    head = [f"{sign} {line}" for line in (title, *(f"NOT EXPRESSED: {note}" for note in notes))]
    return "\n".join([*head, *documents])


def _operations(documents: PolicyDocuments) -> Iterator[tuple[str, tuple[Operation, ...]]]:
    for source in documents.of(ActionRegistry):
        for name, entry in source.model.actions.items():
            yield name, tuple(map(Operation.of, entry.http))


def _workloads(subject: str, resource: str) -> tuple[SpiffeId, SpiffeId]:
    return SpiffeId.parse_workload(subject), SpiffeId.parse_workload(resource)


def _order(call: Permission | Prohibition) -> tuple[str, str, str]:
    return call.resource.uri, call.subject.uri, call.action


def _conditions(grant: Grant) -> Iterator[str]:
    """Say what a grant asks; a field of a grant that is not known here is named as it is, never passed over."""
    if grant.delegation != "optional":
        yield "a delegation chain" if grant.delegation == "required" else "no delegation chain"
    if grant.scopes:
        yield f"in a chain the scopes {', '.join(sorted(grant.scopes))}"
    if grant.max_hops is not None:
        yield f"in a chain at most {grant.max_hops} hops"
    if grant.times is not None:
        yield "the time to be inside its windows"
    asked: Mapping[str, object] = grant._asdict()
    for name, value in asked.items():
        if name not in _SAID and value != Grant._field_defaults.get(name):
            yield name.replace("_", " ")


_SAID = frozenset({"rule", "delegation", "scopes", "max_hops", "times"})
