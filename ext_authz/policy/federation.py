"""Other trust domains: whose callers are asked about at all, and for what at most.

1. A caller of a trust domain that is not listed is refused before anything else is asked about it.
2. To be listed grants nothing: the matrix does, by the caller's full SPIFFE ID.
3. A grant beyond what is listed is an error when the policy is loaded.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import TrustDomain, TrustDomains
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names, check_names
from ext_authz.identity.patterns import Subject
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError


@dataclass(frozen=True, slots=True)
class Partner:
    """What callers of one other trust domain may be granted."""

    subjects: frozenset[SpiffeId] | None  # None: any
    actions: frozenset[str] | None  # None: any

    def admits(self, subject: Subject) -> bool:
        """Whether this caller of the trust domain is asked about; of a pattern, whether all that fit it are."""
        return self.subjects is None or subject in self.subjects


@dataclass(frozen=True, slots=True)
class Federation:
    """The policy's own trust domain, and the others that it lists."""

    trust_domain: str = ""  # none: nobody is asked about
    partners: Mapping[str, Partner] = field(default_factory=dict)

    def admits(self, subject: SpiffeId) -> bool:
        """Whether a caller is asked about."""
        if subject.trust_domain == self.trust_domain:
            return True
        partner = self.partners.get(subject.trust_domain)
        return partner is not None and partner.admits(subject)

    def objection(self, subject: Subject, action: str) -> str | None:
        """Say why a grant to this subject would never count, None when it does."""
        if subject.trust_domain == self.trust_domain:
            return None
        partner = self.partners.get(subject.trust_domain)
        if partner is None:
            return f"no TrustDomains document lists {quoted(subject.trust_domain)}"
        if not partner.admits(subject):
            return f"the `subjects` of {quoted(subject.trust_domain)} leave out {quoted(subject.path)}"
        if partner.actions is not None and action not in partner.actions:
            return f"the `actions` of {quoted(subject.trust_domain)} leave out {quoted(action)}"
        return None


def compile_federation(
    documents: PolicyDocuments, names: Names, actions: Collection[str], problems: list[str]
) -> Federation:
    """Compile all TrustDomains documents; add what is wrong to `problems`. `actions` are those that are registered."""
    partners: dict[str, Partner] = {}
    places: dict[str, str] = {}
    for source in documents.of(TrustDomains):
        for trust_domain, entry in source.model.trust_domains.items():
            steps = ("trust_domains", trust_domain)
            here = source.locate_key(*steps)
            first = places.setdefault(trust_domain, source.line(*steps))
            if trust_domain in partners:
                problems.append(f"{here}: {quoted(trust_domain)} stands twice, first in {first}")
            elif trust_domain == names.trust_domain:
                problems.append(f"{here}: {quoted(trust_domain)} is the policy's own trust domain")
            else:
                partners[trust_domain] = _partner(source, trust_domain, entry, problems)
            problems.extend(
                f"{source.locate(*steps, 'actions', index)}: unknown action {quoted(action)}{suggestion(action, actions)}"
                for index, action in enumerate(entry.actions or ())
                if action not in actions
            )
    return Federation(names.trust_domain, partners)


def _partner(source: Source[TrustDomains], trust_domain: str, entry: TrustDomain, problems: list[str]) -> Partner:
    actions = None if entry.actions is None else frozenset(entry.actions)
    names = Names(trust_domain)
    try:
        check_names(names)
    except SpiffeIdError as error:
        here = source.locate_key("trust_domains", trust_domain)
        problems.append(f"{here}: {quoted(trust_domain)} is no trust domain: {error}")
        return Partner(frozenset(), actions)
    if entry.subjects is None:
        return Partner(None, actions)
    return Partner(frozenset(_subjects(source, names, entry.subjects, problems)), actions)


def _subjects(
    source: Source[TrustDomains], names: Names, written: Collection[str], problems: list[str]
) -> Iterator[SpiffeId]:
    for index, name in enumerate(written):
        here = source.locate("trust_domains", names.trust_domain, "subjects", index)
        try:
            subject = names.resolve(name)
        except SpiffeIdError as error:
            problems.append(f"{here}: {quoted(name)} names no workload: {error}")
            continue
        if subject.trust_domain != names.trust_domain:
            problems.append(f"{here}: {quoted(name)} belongs to another trust domain")
        yield subject
