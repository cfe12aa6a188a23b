"""A policy as it was written and as it was compiled, side by side: what every analysis starts from.

1. What stands in the documents is listed with its place, in the order of the documents.
2. Names are those that people read (`Names.name_of`); SPIFFE IDs are what is compared.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ext_authz.documents.loader import PolicyDocuments, Source, load_policy
from ext_authz.documents.models import Cell, DenyRule, PermissionMatrix
from ext_authz.garbage import collection_paused
from ext_authz.identity.names import GROUP_SIGN, Names
from ext_authz.policy.compile import Policy, compile_policy
from ext_authz.policy.verdict import Rule


@dataclass(frozen=True, slots=True)
class WrittenCell:
    """One cell of a document, and the workloads that it is about."""

    source: Source[PermissionMatrix]
    subject: str  # as written
    resource: str  # as written
    cell: Cell
    subjects: tuple[str, ...]  # SPIFFE IDs and patterns
    resource_id: str

    @property
    def place(self) -> str:
        """Return `path:line:column`."""
        return self.source.locate_key("matrix", self.subject, self.resource)

    @property
    def line(self) -> str:
        """Return `file:line`."""
        return self.source.rule_place("matrix", self.subject, self.resource)


@dataclass(frozen=True, slots=True)
class WrittenDenial:
    """One deny rule of a document, and the workloads that it is about."""

    source: Source[PermissionMatrix]
    index: int
    rule: DenyRule
    subjects: tuple[str, ...]  # SPIFFE IDs and patterns
    resource_id: str

    @property
    def place(self) -> str:
        """Return `path:line:column`."""
        return self.source.locate("deny", self.index)

    @property
    def line(self) -> str:
        """Return `file:line`."""
        return self.source.rule_place("deny", self.index)


class Survey:
    """A policy that compiles."""

    def __init__(self, documents: PolicyDocuments, policy: Policy) -> None:
        self.documents = documents
        self.policy = policy
        self._ids: dict[str, str] = {}

    @property
    def names(self) -> Names:
        """What names mean in this policy."""
        return self.policy.names

    @cached_property
    def cells(self) -> tuple[WrittenCell, ...]:
        """Every cell of every document."""
        return tuple(self._cells())

    @cached_property
    def denials(self) -> tuple[WrittenDenial, ...]:
        """Every deny rule of every document."""
        return tuple(
            WrittenDenial(source, index, rule, self.subjects(source, rule.subject), self.resolve(rule.resource))
            for source in self.documents.of(PermissionMatrix)
            for index, rule in enumerate(source.model.deny)
        )

    @cached_property
    def workloads(self) -> frozenset[str]:
        """The SPIFFE IDs that are a subject or a resource of some cell, and the patterns that are a subject."""
        subjects = {subject for cell in self.cells for subject in cell.subjects}
        return frozenset(subjects | {cell.resource_id for cell in self.cells})

    def resolve(self, name: str) -> str:
        """Return the SPIFFE ID of a name of this policy, or its pattern."""
        if name not in self._ids:
            self._ids[name] = self.names.resolve_subject(name).uri
        return self._ids[name]

    def subjects(self, source: Source[PermissionMatrix], subject: str) -> tuple[str, ...]:
        """Return the SPIFFE IDs and patterns that a subject of a document stands for, each once."""
        if not subject.startswith(GROUP_SIGN):
            return (self.resolve(subject),)
        members = source.model.groups[subject.removeprefix(GROUP_SIGN)]
        return tuple(dict.fromkeys(map(self.resolve, members)))

    def denial_of(self, subject: str, resource: str, action: str) -> Rule | None:
        """Return the deny rule that applies to a call, None when there is none."""
        return self.policy.matrix.denial((subject, resource, action))

    def denials_when(self, subject: str, resource: str, action: str) -> tuple[Rule, ...]:
        """Return the deny rules with conditions that are about a call."""
        return tuple(denial.rule for denial in self.policy.matrix.denials_when((subject, resource, action)))

    def sorted_names(self, workloads: Iterable[str]) -> list[str]:
        """Return the names of SPIFFE IDs, in alphabetical order."""
        return sorted(map(self.names.name_of, workloads))

    def _cells(self) -> Iterator[WrittenCell]:
        for source in self.documents.of(PermissionMatrix):
            for subject, row in source.model.matrix.items():
                subjects = self.subjects(source, subject)
                for resource, cell in row.items():
                    yield WrittenCell(source, subject, resource, cell, subjects, self.resolve(resource))


def survey(directory: Path) -> Survey:
    """Load and compile a policy directory. Raises PolicyError with all problems."""
    with collection_paused():
        documents = load_policy(directory)
        return Survey(documents, compile_policy(documents))
