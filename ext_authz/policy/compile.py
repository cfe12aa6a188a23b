"""Policy documents to what the decision uses: once at load, with every problem at once."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ext_authz.action.compile import compile_registry
from ext_authz.action.registry import Registry
from ext_authz.documents.loader import PolicyDocuments, Source, load_policy
from ext_authz.documents.models import Cell, DelegationMode, DenyRule, PermissionMatrix
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.errors import PolicyError
from ext_authz.garbage import collection_paused
from ext_authz.identity.names import GROUP_SIGN, NO_TRUST_DOMAIN, Names, check_names
from ext_authz.identity.patterns import WILDCARD, Shape, Subject, SubjectPattern
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.conditions import Condition, ConditionCompiler
from ext_authz.policy.egress import Egress, compile_egress
from ext_authz.policy.engine import EVERY_ACTION, Key, Matrix
from ext_authz.policy.expression import ExpressionError
from ext_authz.policy.federation import Federation, compile_federation
from ext_authz.policy.invariants import check_invariants
from ext_authz.policy.limits import CallLimits, compile_limits
from ext_authz.policy.rates import CellRate, Rate
from ext_authz.policy.verdict import Denial, Grant, Rule
from ext_authz.policy.windows import Times, Windows, compile_windows, named_windows
from ext_authz.tokens.compile import DelegationPolicy, compile_delegation
from ext_authz.tokens.key_files import Stamps
from ext_authz.tokens.keys import KeySet, KeySource
from ext_authz.tokens.providers import ProviderPolicy, compile_providers

# Grants that the cells of groups may stand for, members times actions: some 60 MB. A hundred workloads that two hundred
# members of a group may ask for ten things each are fewer; a file of 10 kB could ask for millions.
MAX_GROUP_GRANTS = 250_000
# Combinations of places at which subjects have wildcards, each a look-up a decision: an ID of Kubernetes has four segments,
# of which two vary.
MAX_SHAPES = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy directory, compiled."""

    names: Names
    registry: Registry
    matrix: Matrix
    delegation: DelegationPolicy | None  # None: no chain can be verified
    digest: str  # SHA-256 of the files, hexadecimal
    windows: Windows = field(default_factory=Windows)
    requires_timestamp: bool = False
    providers: ProviderPolicy | None = None  # None: no access token can be verified
    limits: CallLimits | None = None  # None: only cells limit how often
    federation: Federation = field(default_factory=Federation)
    egress: Egress = field(default_factory=Egress)

    @property
    def key_sources(self) -> frozenset[KeySource]:
        """The addresses that keys are fetched from."""
        documents = (self.delegation, self.providers)
        return frozenset(source for document in documents if document for source in document.sources.values())

    @property
    def watched_files(self) -> Stamps:
        """The files and directories that it was read from outside of its own directory, as they were then."""
        documents = (self.delegation, self.providers)
        return {path: stamp for document in documents if document for path, stamp in document.watched.items()}

    def with_keys(self, found: Mapping[KeySource, KeySet]) -> "Policy":
        """Return this policy with the keys that its addresses hold now."""
        return replace(
            self,
            delegation=self.delegation and self.delegation.with_keys(found),
            providers=self.providers and self.providers.with_keys(found),
        )

    @property
    def grant_count(self) -> int:
        """Number of (subject, resource, action) triples that some cell grants."""
        return len(self.matrix.grants)

    @property
    def denial_count(self) -> int:
        """Number of (subject, resource, action) triples that some deny rule names."""
        return len(self.matrix.denials.keys() | self.matrix.conditional.keys())


def load(directory: Path) -> Policy:
    """Read and compile a policy directory. Raises PolicyError with all problems."""
    with collection_paused():
        return compile_policy(load_policy(directory))


def compile_policy(documents: PolicyDocuments) -> Policy:
    """Compile policy documents. Raises PolicyError with all problems."""
    problems: list[str] = []
    names = _names(documents, problems)
    registry = compile_registry(documents, names, problems)
    delegation = compile_delegation(documents, names, problems)
    providers = compile_providers(documents, names, problems)
    usual: DelegationMode | None = None  # without a Delegation document
    if delegation is not None:
        usual = "required" if delegation.required else "optional"
    windows = compile_windows(documents, problems)
    federation = compile_federation(documents, names, registry.actions, problems)
    matrix = _MatrixCompiler(_Vocabulary(names, registry, windows, federation, usual), problems)
    for source in documents.of(PermissionMatrix):
        matrix.add(source)
    # Taken out one by one: the largest part of a policy is never there twice.
    grants = {key: tuple(matrix.grants.pop(key)) for key in tuple(matrix.grants)}
    conditional = {key: tuple(found) for key, found in matrix.conditional.items()}
    compiled = Matrix(grants, matrix.denials, conditional)
    check_invariants(documents, names, compiled, problems)
    limits = compile_limits(documents, names, compiled, problems)
    egress = compile_egress(documents, names, problems)
    if problems:
        raise PolicyError(problems)
    requires_timestamp = any(source.model.require_timestamp for source in documents.of(PermissionMatrix))
    digest = documents.digest
    for keys in (delegation, providers):
        if keys is not None:
            digest = hashlib.sha256(f"{digest} {keys.digest}".encode()).hexdigest()
    return Policy(
        names=names,
        registry=registry,
        matrix=compiled,
        delegation=delegation,
        digest=digest,
        windows=windows,
        requires_timestamp=requires_timestamp,
        providers=providers,
        limits=limits,
        federation=federation,
        egress=egress,
    )


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


class _Vocabulary(NamedTuple):
    """What the documents of other kinds say that cells and deny rules build on."""

    names: Names
    registry: Registry
    windows: Windows
    federation: Federation
    usual: DelegationMode | None  # None: there is no Delegation document


class _MatrixCompiler:
    """Collects grants and denials of all PermissionMatrix documents."""

    def __init__(self, vocabulary: _Vocabulary, problems: list[str]) -> None:
        self.grants: dict[Key, list[Grant]] = {}
        self.denials: dict[Key, Rule] = {}
        self.conditional: dict[Key, list[Denial]] = {}
        self._conditions = ConditionCompiler()
        self._names, self._registry, self._windows, self._federation, self._usual = vocabulary
        self._problems = problems
        self._group_grants = 0
        # Each name is read once, and each set kept once: a large matrix has few of them, and many cells.
        self._known: dict[str, SpiffeId] = {}
        self._subjects: dict[str, Subject] = {}
        self._shapes: set[Shape] = set()
        self._scopes: dict[frozenset[str], frozenset[str]] = {}

    def add(self, source: Source[PermissionMatrix]) -> None:
        groups = {name: list(self._group(source, name)) for name in source.model.groups}
        for subject, row in source.model.matrix.items():
            subjects = self._members(subject, groups, partial(source.locate_key, "matrix", subject))
            for resource, cell in row.items():
                self._add_cell(source, (subject, resource), subjects, cell)
        for index, denial in enumerate(source.model.deny):
            self._add_denial(source, index, denial, groups)

    def _group(self, source: Source[PermissionMatrix], name: str) -> Iterator[Subject]:
        for index, member in enumerate(source.model.groups[name]):
            workload = self._resolve_subject(member, partial(source.locate, "groups", name, index))
            if workload is not None:
                yield workload

    def _members(self, subject: str, groups: dict[str, list[Subject]], here: Callable[[], str]) -> list[Subject]:
        if not subject.startswith(GROUP_SIGN):
            workload = self._resolve_subject(subject, here)
            return [] if workload is None else [workload]
        name = subject.removeprefix(GROUP_SIGN)
        if name not in groups:
            self._problems.append(f"{here()}: unknown group {quoted(name)}{suggestion(name, groups)}")
        return groups.get(name, [])

    def _resolve_subject(self, name: str, here: Callable[[], str]) -> Subject | None:
        known = self._subjects.get(name)
        if known is not None:
            return known
        try:
            subject = self._subjects.setdefault(name, self._names.resolve_subject(name))
        except SpiffeIdError as error:
            self._problems.append(f"{here()}: {quoted(name)} names no workload: {error}")
            return None
        if isinstance(subject, SubjectPattern):
            self._count_shape(subject, here)
        return subject

    def _count_shape(self, pattern: SubjectPattern, here: Callable[[], str]) -> None:
        """Count the places of wildcards; tell once when there are too many."""
        before = len(self._shapes)
        self._shapes.add(Shape.of(pattern.uri))
        if before == MAX_SHAPES < len(self._shapes):
            self._problems.append(
                f"{here()}: subjects of a policy have `*` in at most {MAX_SHAPES} combinations of places"
            )

    def _resolve(self, name: str, here: Callable[[], str]) -> SpiffeId | None:
        known = self._known.get(name)
        if known is not None:
            return known
        if WILDCARD in name:
            self._problems.append(f"{here()}: {quoted(name)} names no workload: `*` stands in subjects alone")
            return None
        try:
            return self._known.setdefault(name, self._names.resolve(name))
        except SpiffeIdError as error:
            self._problems.append(f"{here()}: {quoted(name)} names no workload: {error}")
            return None

    def _add_cell(
        self, source: Source[PermissionMatrix], cell_name: tuple[str, str], subjects: list[Subject], cell: Cell
    ) -> None:
        steps = ("matrix", *cell_name)
        resource = self._resolve(cell_name[1], partial(source.locate_key, *steps))
        where = source.rule_place(*steps)
        times = self._times(source, steps, cell)
        when = self._condition(cell.when, partial(source.locate, *steps, "when"), in_deny_rule=False)
        if cell.delegation == "required" and self._usual is None:
            here = source.locate(*steps, "delegation")
            self._problems.append(f"{here}: no chain can be verified: add a Delegation document that says whose count")
        if cell_name[0].startswith(GROUP_SIGN) and not self._expand(
            source.locate_key(*steps), len(subjects) * len(cell.actions)
        ):
            return
        scopes = self._scopes.setdefault(frozenset(cell.scopes), frozenset(cell.scopes))
        rate = _cell_rate(cell_name, cell)
        for index, action in enumerate(cell.actions):
            objections = [(each, self._federation.objection(each, action)) for each in subjects]
            if action not in self._registry.actions or any(objection for _, objection in objections):
                # The place of a short cell's action, else of the long form's.
                place = max(source.places.find((*steps, index)), source.places.find((*steps, "actions", index)))
                here = f"{source.path}:{place.line}:{place.column}"
                self._check_action(action, here)
                self._problems.extend(
                    f"{here}: {quoted(subject.uri)} cannot be granted this: {objection}"
                    for subject, objection in objections
                    if objection
                )
            rule = Rule(where, f"{cell_name[0]} -> {cell_name[1]}: {action}")
            registered = self._registry.actions.get(action)
            grant = Grant(
                rule=rule,
                delegation=cell.delegation or self._usual or "optional",
                scopes=scopes,
                max_hops=cell.max_hops,
                times=times,
                rate=rate,
                when=when,
                access_token=cell.access_token or (registered.access_token if registered else None),
            )
            for subject in subjects:
                if resource is not None:
                    self.grants.setdefault((subject.uri, resource.uri, action), []).append(grant)

    def _expand(self, here: str, grants: int) -> bool:
        """Count what a group's cell stands for; tell once when that is too much in all."""
        before = self._group_grants
        self._group_grants += grants
        if before <= MAX_GROUP_GRANTS < self._group_grants:
            self._problems.append(
                f"{here}: groups stand for more than {MAX_GROUP_GRANTS} grants: name fewer members or actions"
            )
        return self._group_grants <= MAX_GROUP_GRANTS

    def _times(self, source: Source[PermissionMatrix], steps: tuple[str, ...], cell: Cell) -> Times | None:
        if cell.during is None and cell.not_during is None:
            return None
        during, not_during = (
            named_windows(
                names,
                [source.locate(*steps, key, index) for index in range(len(names))],
                self._windows,
                self._problems,
            )
            for key, names in (("during", cell.during or ()), ("not_during", cell.not_during or ()))
        )
        return Times(tuple(during), tuple(not_during)) if during or not_during else None

    def _add_denial(
        self, source: Source[PermissionMatrix], index: int, denial: DenyRule, groups: dict[str, list[Subject]]
    ) -> None:
        steps = ("deny", index)
        subjects = self._members(denial.subject, groups, partial(source.locate, *steps, "subject"))
        resource = self._resolve(denial.resource, partial(source.locate, *steps, "resource"))
        if denial.action != EVERY_ACTION:
            self._check_action(denial.action, source.locate(*steps, "action"))
        when = self._condition(denial.when, partial(source.locate, *steps, "when"), in_deny_rule=True)
        because = f" when {denial.when}" if denial.when else ""
        because += f" because {denial.because}" if denial.because else ""
        rule = Rule(
            source.rule_place(*steps),
            f"deny {denial.subject} -> {denial.resource}: {denial.action}{because}",
            denies=True,
        )
        for subject in subjects:
            if resource is None:
                continue
            key = (subject.uri, resource.uri, denial.action)
            if denial.when is None:
                self.denials.setdefault(key, rule)
            elif when is not None:
                self.conditional.setdefault(key, []).append(Denial(rule, when))

    def _condition(self, text: str | None, here: Callable[[], str], *, in_deny_rule: bool) -> Condition | None:
        """Return the condition of a text; None with a problem, which keeps the policy from being used."""
        try:
            return None if text is None else self._conditions.compile(text, in_deny_rule=in_deny_rule)
        except ExpressionError as error:
            self._problems.append(f"{here()}: `when`: {error}")
            return None

    def _check_action(self, action: str, here: str) -> None:
        if action not in self._registry.actions:
            known = self._registry.actions
            self._problems.append(f"{here}: unknown action {quoted(action)}{suggestion(action, known)}")


def _cell_rate(cell_name: tuple[str, str], cell: Cell) -> CellRate | None:
    if cell.rate is None:
        return None
    actions = ", ".join(sorted(cell.actions))
    return CellRate(f"{cell_name[0]} -> {cell_name[1]}: {actions}: {cell.rate}", Rate.parse(cell.rate))
