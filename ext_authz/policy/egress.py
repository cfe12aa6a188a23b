"""EgressAllowlist documents to look-ups: which hosts a workload may call through its outbound sidecar.

1. What no entry lists is denied; one entry that fits is enough.
2. `*.example.com` stands for one label or more below example.com: never for example.com, never for an address.
3. Where several entries fit, the request is screened unless all of them say that it is not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ext_authz.action.routes import RouteError, RouteTable
from ext_authz.attributes.authority import AuthorityError, is_address, parse_host
from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import EgressAllowlist, EgressEntry
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import GROUP_SIGN, Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.verdict import Rule

# Look-ups that all entries together may stand for, subjects times hosts times ports times methods: some 30 MB.
MAX_EGRESS_LOOKUPS = 100_000

WILDCARD = "*."
# The paths of an entry are the same for all its methods; a route has one.
_METHOD = "GET"


class OutboundCall(NamedTuple):
    """A call that a workload wants to make through its outbound sidecar."""

    subject: SpiffeId
    host: str = ""  # empty: what it calls is not known
    port: int = 0

    @property
    def target(self) -> str:
        """Host and port, as records name them."""
        return f"{self.host}:{self.port}" if self.host else ""


class Outlet(NamedTuple):
    """One entry that lets a workload call a host, and what it asks beside host, port and method."""

    rule: Rule
    paths: RouteTable[bool] | None  # None: any
    is_screened: bool

    def fits(self, path: str, subject: SpiffeId) -> bool:
        """Whether a path is one of the entry's."""
        return self.paths is None or self.paths.find(_METHOD, path, subject) is not None


class OutletKey(NamedTuple):
    """What is looked up: SPIFFE ID of the caller, host or wildcard, port, method."""

    subject: str
    host: str
    port: int
    method: str


@dataclass(frozen=True, slots=True)
class Egress:
    """All entries of a policy."""

    outlets: Mapping[OutletKey, tuple[Outlet, ...]] = field(default_factory=dict)

    def find(self, call: OutboundCall, method: str, path: str) -> Outlet | None:
        """Return the entry that lets a workload call this, None when there is none."""
        found = None
        for outlet in self._fitting(call, method, path) if self.outlets else ():
            if outlet.is_screened:
                return outlet
            found = found or outlet
        return found

    def _fitting(self, call: OutboundCall, method: str, path: str) -> Iterator[Outlet]:
        for host in _covering(call.host):
            for outlet in self.outlets.get(OutletKey(call.subject.uri, host, call.port, method), ()):
                if outlet.fits(path, call.subject):
                    yield outlet


def compile_egress(documents: PolicyDocuments, names: Names, problems: list[str]) -> Egress:
    """Compile all EgressAllowlist documents; add what is wrong to `problems`."""
    sources = documents.of(EgressAllowlist)
    if not sources:
        return Egress()
    compiler = _Compiler(names, problems)
    for source in sources:
        compiler.add(source)
    return Egress({key: tuple(outlets) for key, outlets in compiler.outlets.items()})


def _covering(host: str) -> Iterator[str]:
    """Yield what may stand in an entry for a host: itself, then the wildcards above it, the nearest first."""
    yield host
    if is_address(host):
        return
    _, dot, above = host.partition(".")
    while dot:
        yield WILDCARD + above
        _, dot, above = above.partition(".")


class _Compiler:
    """Collects the entries of all EgressAllowlist documents."""

    def __init__(self, names: Names, problems: list[str]) -> None:
        self.outlets: dict[OutletKey, list[Outlet]] = {}
        self._names = names
        self._problems = problems
        self._lookups = 0

    def add(self, source: Source[EgressAllowlist]) -> None:
        groups = {name: list(self._group(source, name)) for name in source.model.groups}
        for name, entries in source.model.egress.items():
            subjects = self._subjects(source, name, groups)
            for index, entry in enumerate(entries):
                self._add_entry(source, ("egress", name, index), subjects, entry)

    def _group(self, source: Source[EgressAllowlist], name: str) -> Iterator[SpiffeId]:
        for index, member in enumerate(source.model.groups[name]):
            yield from self._workload(member, partial(source.locate, "groups", name, index))

    def _subjects(
        self, source: Source[EgressAllowlist], name: str, groups: Mapping[str, list[SpiffeId]]
    ) -> list[SpiffeId]:
        here = partial(source.locate_key, "egress", name)
        if not name.startswith(GROUP_SIGN):
            return list(self._workload(name, here))
        group = name.removeprefix(GROUP_SIGN)
        if group not in groups:
            self._problems.append(f"{here()}: unknown group {quoted(group)}{suggestion(group, groups)}")
        return groups.get(group, [])

    def _workload(self, name: str, here: Callable[[], str]) -> Iterator[SpiffeId]:
        try:
            yield self._names.resolve(name)
        except SpiffeIdError as error:
            self._problems.append(f"{here()}: {quoted(name)} names no workload: {error}")

    def _add_entry(
        self,
        source: Source[EgressAllowlist],
        steps: tuple[str | int, ...],
        subjects: list[SpiffeId],
        entry: EgressEntry,
    ) -> None:
        hosts = list(self._hosts(source, (*steps, "hosts"), entry.hosts))
        paths = self._paths(source, (*steps, "paths"), entry.paths)
        self._lookups += len(subjects) * len(hosts) * len(entry.ports) * len(entry.methods)
        if self._lookups > MAX_EGRESS_LOOKUPS:
            self._problems.append(
                f"{source.locate(*steps)}: the entries up to here stand for more than {MAX_EGRESS_LOOKUPS} "
                "combinations of caller, host, port and method"
            )
            return
        where = source.rule_place(*steps)
        for host in hosts:
            outlet = Outlet(Rule(where, f"{steps[1]} -> {host}"), paths, entry.screen != "nothing")
            for key in _keys(subjects, host, entry):
                self.outlets.setdefault(key, []).append(outlet)

    def _hosts(
        self, source: Source[EgressAllowlist], steps: tuple[str | int, ...], written: Iterable[str]
    ) -> Iterator[str]:
        for index, text in enumerate(written):
            try:
                yield _host(text)
            except AuthorityError as error:
                self._problems.append(f"{source.locate(*steps, index)}: {quoted(text)} is no host: {error}")

    def _paths(
        self, source: Source[EgressAllowlist], steps: tuple[str | int, ...], written: Iterable[str] | None
    ) -> RouteTable[bool] | None:
        if written is None:
            return None
        table: RouteTable[bool] = RouteTable()
        for index, path in enumerate(written):
            try:
                table.add(f"{_METHOD} {path}", None, target=True)
            except RouteError as error:
                self._problems.append(f"{source.locate(*steps, index)}: {quoted(path)}: {error}")
        return table


def _host(text: str) -> str:
    """Read a host of an entry, which may be a wildcard. Raises AuthorityError."""
    if not text.startswith(WILDCARD):
        if "*" in text:
            raise AuthorityError("a wildcard stands alone before the first dot: *.example.com")
        if ":" in text and not text.startswith("["):
            raise AuthorityError("ports stand in `ports`, an IPv6 address in brackets")
        return parse_host(text)
    above = parse_host(text.removeprefix(WILDCARD))
    if is_address(above):
        raise AuthorityError("nothing is below an address")
    if "." not in above:
        raise AuthorityError("a wildcard below a single label is nearly everybody: name two labels or more")
    return WILDCARD + above


def _keys(subjects: Iterable[SpiffeId], host: str, entry: EgressEntry) -> Iterator[OutletKey]:
    for subject in dict.fromkeys(subjects):
        for port in dict.fromkeys(entry.ports):
            for method in dict.fromkeys(entry.methods):
                yield OutletKey(subject.uri, host, port, method)
