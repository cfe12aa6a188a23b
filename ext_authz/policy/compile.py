"""Policy documents to what the decision uses: once at load, with every problem at once."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ext_authz.action.registry import Registry, compile_registry
from ext_authz.documents.loader import PolicyDocuments, Source, load_policy
from ext_authz.documents.models import Cell, DelegationMode, DenyRule, PermissionMatrix
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.errors import PolicyError
from ext_authz.identity.names import Names, check_names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.engine import EVERY_ACTION, Key, Matrix
from ext_authz.policy.limits import CallLimits, compile_limits
from ext_authz.policy.rates import CellRate, Rate
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.compile import DelegationPolicy, compile_delegation
from ext_authz.tokens.keys import KeySet, KeySource

GROUP_SIGN = "@"
# Stands in for a trust domain that is missing or wrong, so that the rest of the policy can be checked too (RFC 2606).
NO_TRUST_DOMAIN = "missing.invalid"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy directory, compiled."""

    names: Names
    registry: Registry
    matrix: Matrix
    delegation: DelegationPolicy | None  # None: no chain can be verified
    digest: str  # SHA-256 of the files, hexadecimal
    limits: CallLimits | None = None  # None: only cells limit how often

    @property
    def key_sources(self) -> frozenset[KeySource]:
        """The addresses that keys are fetched from."""
        return frozenset(self.delegation.sources.values() if self.delegation else ())

    def with_keys(self, found: Mapping[KeySource, KeySet]) -> "Policy":
        """Return this policy with the keys that its addresses hold now."""
        return replace(self, delegation=self.delegation.with_keys(found)) if self.delegation else self

    @property
    def grant_count(self) -> int:
        """Number of (subject, resource, action) triples that some cell grants."""
        return len(self.matrix.grants)


def load(directory: Path) -> Policy:
    """Read and compile a policy directory. Raises PolicyError with all problems."""
    return compile_policy(load_policy(directory))


def compile_policy(documents: PolicyDocuments) -> Policy:
    """Compile policy documents. Raises PolicyError with all problems."""
    problems: list[str] = []
    names = _names(documents, problems)
    registry = compile_registry(documents, names, problems)
    delegation = compile_delegation(documents, names, problems)
    usual: DelegationMode = "required" if delegation is not None and delegation.required else "optional"
    matrix = _MatrixCompiler(names, registry, usual, problems)
    for source in documents.of(PermissionMatrix):
        matrix.add(source)
    compiled = Matrix({key: tuple(found) for key, found in matrix.grants.items()}, matrix.denials)
    limits = compile_limits(documents, names, compiled, problems)
    if problems:
        raise PolicyError(problems)
    digest = documents.digest
    if delegation is not None:
        digest = hashlib.sha256(f"{digest} {delegation.digest}".encode()).hexdigest()
    return Policy(names, registry, compiled, delegation, digest, limits)


def _names(documents: PolicyDocuments, problems: list[str]) -> Names:
    """Find the one trust domain and `id_path` of the directory."""
    found: dict[str, tuple[str, Source[PermissionMatrix]]] = {}
    for source in documents.of(PermissionMatrix):
        for key in ("trust_domain", "id_path"):
            value = getattr(source.model, key)
            if value is not None and found.setdefault(key, (value, source))[0] != value:
                first, where = found[key]
                problems.append(f"{source.locate(key)}: {key} differs from {quoted(first)} in {where.line(key)}")
    if "trust_domain" not in found:
        problems.append(f"{documents.directory}:1:1: no PermissionMatrix document names the `trust_domain`")
    names = Names(NO_TRUST_DOMAIN)
    for key, (value, source) in found.items():
        candidate = replace(names, **{key: value})
        try:
            check_names(candidate)
        except SpiffeIdError as error:
            problems.append(f"{source.locate(key)}: {key} {quoted(value)}: {error}")
        else:
            names = candidate
    return names


class _MatrixCompiler:
    """Collects grants and denials of all PermissionMatrix documents."""

    def __init__(self, names: Names, registry: Registry, usual: DelegationMode, problems: list[str]) -> None:
        self.grants: dict[Key, list[Grant]] = {}
        self.denials: dict[Key, Rule] = {}
        self._names = names
        self._registry = registry
        self._usual = usual
        self._problems = problems

    def add(self, source: Source[PermissionMatrix]) -> None:
        groups = {name: list(self._group(source, name)) for name in source.model.groups}
        for subject, row in source.model.matrix.items():
            subjects = self._members(subject, groups, source.locate_key("matrix", subject))
            for resource, cell in row.items():
                self._add_cell(source, (subject, resource), subjects, cell)
        for index, denial in enumerate(source.model.deny):
            self._add_denial(source, index, denial, groups)

    def _group(self, source: Source[PermissionMatrix], name: str) -> Iterator[SpiffeId]:
        for index, member in enumerate(source.model.groups[name]):
            workload = self._resolve(member, source.locate("groups", name, index))
            if workload is not None:
                yield workload

    def _members(self, subject: str, groups: dict[str, list[SpiffeId]], here: str) -> list[SpiffeId]:
        if not subject.startswith(GROUP_SIGN):
            workload = self._resolve(subject, here)
            return [] if workload is None else [workload]
        name = subject.removeprefix(GROUP_SIGN)
        if name not in groups:
            self._problems.append(f"{here}: unknown group {quoted(name)}{suggestion(name, groups)}")
        return groups.get(name, [])

    def _resolve(self, name: str, here: str) -> SpiffeId | None:
        try:
            return self._names.resolve(name)
        except SpiffeIdError as error:
            self._problems.append(f"{here}: {quoted(name)} names no workload: {error}")
            return None

    def _add_cell(
        self, source: Source[PermissionMatrix], cell_name: tuple[str, str], subjects: list[SpiffeId], cell: Cell
    ) -> None:
        steps = ("matrix", *cell_name)
        resource = self._resolve(cell_name[1], source.locate_key(*steps))
        where = source.rule_place(*steps)
        rate = _cell_rate(cell_name, cell)
        for index, action in enumerate(cell.actions):
            # The place of a short cell's action, else of the long form's.
            place = max(source.places.find((*steps, index)), source.places.find((*steps, "actions", index)))
            self._check_action(action, f"{source.path}:{place.line}:{place.column}")
            rule = Rule(where, f"{cell_name[0]} -> {cell_name[1]}: {action}")
            grant = Grant(rule, cell.delegation or self._usual, frozenset(cell.scopes), cell.max_hops, rate)
            for subject in subjects:
                if resource is not None:
                    self.grants.setdefault((subject.uri, resource.uri, action), []).append(grant)

    def _add_denial(
        self, source: Source[PermissionMatrix], index: int, denial: DenyRule, groups: dict[str, list[SpiffeId]]
    ) -> None:
        steps = ("deny", index)
        subjects = self._members(denial.subject, groups, source.locate(*steps, "subject"))
        resource = self._resolve(denial.resource, source.locate(*steps, "resource"))
        if denial.action != EVERY_ACTION:
            self._check_action(denial.action, source.locate(*steps, "action"))
        because = f" because {denial.because}" if denial.because else ""
        rule = Rule(source.rule_place(*steps), f"deny {denial.subject} -> {denial.resource}: {denial.action}{because}")
        for subject in subjects:
            if resource is not None:
                self.denials.setdefault((subject.uri, resource.uri, denial.action), rule)

    def _check_action(self, action: str, here: str) -> None:
        if action not in self._registry.actions:
            known = self._registry.actions
            self._problems.append(f"{here}: unknown action {quoted(action)}{suggestion(action, known)}")


def _cell_rate(cell_name: tuple[str, str], cell: Cell) -> CellRate | None:
    if cell.rate is None:
        return None
    actions = ", ".join(sorted(cell.actions))
    return CellRate(f"{cell_name[0]} -> {cell_name[1]}: {actions}: {cell.rate}", Rate.parse(cell.rate))
