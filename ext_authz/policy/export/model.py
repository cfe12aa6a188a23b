"""What every export is made of: who may do what on each resource, and what an export could not say.

1. An export never allows more than the policy without a note that says where and why.
2. What an export can express in no way at all is left out of what it allows, with a note.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionRegistry
from ext_authz.errors import ExtAuthzError
from ext_authz.identity.patterns import WILDCARD, Subject, SubjectPattern
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import EVERY_ACTION, Key
from ext_authz.policy.verdict import Grant, Rule

_SubjectT = TypeVar("_SubjectT", bound=Subject)


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
    verb: str = ""  # the last segment is any that ends in a colon and this
    has_tail: bool = False  # one segment or more follows
    besides: tuple["Operation", ...] = ()  # with verbs: what fits one of these is no request of this one

    @classmethod
    def of(cls, route: str) -> "Operation":
        """Read `METHOD /path/{parameter}`, `/path/**` and `/path/{parameter}:verb`."""
        method, _, path = route.partition(" ")
        *inner, last = path.split("/")[1:]
        segments = tuple(None if each.startswith("{") else each for each in inner)
        if last == "**":
            return cls(method, segments, has_tail=True)
        if last.startswith("{"):
            return cls(method, (*segments, None), verb=last.partition("}:")[2])
        return cls(method, (*segments, last))

    @property
    def ends_in_parameter(self) -> bool:
        """Whether requests with a verb at their end fit, which are those of another action where one has the verb."""
        return not self.verb and self.segments[-1:] == (None,) and not self.has_tail


class Permission(NamedTuple):
    """One call that the policy grants and no denial takes back."""

    subject: Subject
    resource: SpiffeId
    action: str
    operations: tuple[Operation, ...]  # empty: the request does not tell the action
    grants: tuple[Grant, ...]
    remark: str = ""  # what its operations do not say

    @property
    def name(self) -> str:
        """The call and where it is granted, for notes."""
        return f"{self.grants[0].rule.text} ({self.grants[0].rule.where})"


class Prohibition(NamedTuple):
    """One call that no grant can allow."""

    subject: Subject
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
        """Everybody who is named in the policy."""
        subjects = {call.subject for calls in (self.permissions, self.prohibitions) for call in calls}
        return by_name({*(each for each in subjects if isinstance(each, SpiffeId)), *self.resources})

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
    operations, remarks = dict(_operations(documents)), dict(_beside_routes(documents))
    matrix = policy.matrix
    permissions = [
        Permission(*_parties(key), key[2], operations.get(key[2], ()), grants, remarks.get(key[2], ""))
        for key, grants in matrix.grants.items()
        if matrix.denial(key) is None
    ]
    prohibitions = [
        Prohibition(*_parties(key), key[2], operations.get(key[2], ()), rule) for key, rule in matrix.denials.items()
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
    if policy.limits is not None and (policy.limits.usual is not None or policy.limits.callers):
        yield "callers: no more calls of a caller than its rate in Limits"
    if policy.egress.outlets:
        yield "EgressAllowlist: which hosts outside workloads may call; an export is about calls to workloads"
    for rule in dict.fromkeys(denial.rule for found in policy.matrix.conditional.values() for denial in found):
        yield f"{rule.text} ({rule.where}): a deny rule with a condition"


def notes_on(calls: Calls, language: str) -> Iterator[str]:
    """Say what a language of request lines does not express of these calls."""
    yield from calls.everywhere
    for call in calls.permissions:
        conditions = conditions_of(call.grants)
        if not call.operations:
            yield f"{call.name}: no route tells this action, so {language} denies it"
        elif conditions:
            yield f"{call.name}: also needs {conditions}, which ext_authz checks"
        if call.operations and call.remark:
            yield f"{call.name}: {call.remark}"
    for denial in calls.prohibitions:
        if denial.action != EVERY_ACTION and not denial.operations:
            yield f"{denial.rule.text} ({denial.rule.where}): no route tells this action; no permission allows it either"


def without_wildcards(calls: Calls) -> Calls:
    """Return the calls whose subjects are named."""
    return Calls(
        tuple(call for call in calls.permissions if isinstance(call.subject, SpiffeId)),
        tuple(call for call in calls.prohibitions if isinstance(call.subject, SpiffeId)),
        calls.everywhere,
    )


def by_name(workloads: Iterable[_SubjectT]) -> list[_SubjectT]:
    """Return workloads in the order of their SPIFFE IDs."""
    return sorted(workloads, key=str)


def with_comments(documents: Iterable[str], title: str, notes: Iterable[str], sign: str = "#") -> str:
    """Join an export: what it is, what it does not say, and its documents."""
    head = [f"{sign} {line}" for line in (title, *(f"NOT EXPRESSED: {note}" for note in notes))]
    return "\n".join([*head, *documents])


def _operations(documents: PolicyDocuments) -> Iterator[tuple[str, tuple[Operation, ...]]]:
    entries = {name: entry for source in documents.of(ActionRegistry) for name, entry in source.model.actions.items()}
    found = {
        name: [*map(Operation.of, entry.http), *(Operation.of(f"POST /{method}") for method in entry.grpc)]
        for name, entry in entries.items()
    }
    with_verb = [each for operations in found.values() for each in operations if each.verb]
    for name, operations in found.items():
        yield (
            name,
            tuple(
                each._replace(besides=tuple(other for other in with_verb if _takes_from(other, each)))
                for each in operations
            ),
        )


def _takes_from(other: Operation, operation: Operation) -> bool:
    """Whether requests that fit an operation which ends in a parameter are those of another with a verb."""
    return (
        operation.ends_in_parameter
        and other.method == operation.method
        and len(other.segments) == len(operation.segments)
        and all(None in pair or pair[0] == pair[1] for pair in zip(other.segments, operation.segments, strict=True))
    )


def _beside_routes(documents: PolicyDocuments) -> Iterator[tuple[str, str]]:
    """Say of actions what else a request can be, or must be, than its request line tells."""
    for source in documents.of(ActionRegistry):
        for name, entry in source.model.actions.items():
            if entry.mcp is not None or entry.a2a:
                yield name, "calls over MCP and A2A stand in a body and are not told apart, so they are denied"
            elif entry.grpc:
                yield name, "the content type of gRPC is not looked at"


def _parties(key: Key) -> tuple[Subject, SpiffeId]:
    subject, resource, _ = key
    caller = SubjectPattern.parse(subject) if WILDCARD in subject else SpiffeId.parse_workload(subject)
    return caller, SpiffeId.parse_workload(resource)


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
    if grant.rate is not None:
        yield f"no more calls than {grant.rate.rate.text}"
    if grant.access_token in _ACCESS_TOKEN:
        yield _ACCESS_TOKEN[grant.access_token]
    if grant.when is not None:
        yield f"the condition {grant.when.text}"
    asked: Mapping[str, object] = grant._asdict()
    for name, value in asked.items():
        if name not in _SAID and value != Grant._field_defaults.get(name):
            yield name.replace("_", " ")


_ACCESS_TOKEN = {"required": "an access token", "forbidden": "no authorization header"}
_SAID = frozenset({"rule", "delegation", "scopes", "max_hops", "times", "access_token", "rate", "when"})
