"""The Limits document to what the decision uses: once at load, with every problem at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import Limits
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.engine import Matrix
from ext_authz.policy.rates import Rate

# Stands in `callers` for every caller that has no line of its own.
DEFAULT_CALLER = "default"


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What a policy says about how often, beside its cells. None: no limit."""

    usual: Rate | None = None  # of a caller that has none of its own
    callers: Mapping[str, Rate] = field(default_factory=dict)  # by SPIFFE ID
    unknown_callers: Rate | None = None
    failed_verifications: Rate | None = None

    def of(self, caller: SpiffeId) -> Rate | None:
        """Return how often a caller may call in all."""
        return self.callers.get(caller.uri, self.usual)


def compile_limits(documents: PolicyDocuments, names: Names, matrix: Matrix, problems: list[str]) -> CallLimits | None:
    """Compile the Limits document, if there is one; add what is wrong to `problems`."""
    sources = documents.of(Limits)
    problems.extend(
        f"{source.locate('kind')}: a policy has one Limits document, the first is in {sources[0].path}"
        for source in sources[1:]
    )
    if not sources:
        return None
    model = sources[0].model
    usual = model.callers.get(DEFAULT_CALLER)
    return CallLimits(
        usual=None if usual is None else Rate.parse(usual),
        callers=_callers(sources[0], names, matrix, problems),
        unknown_callers=None if model.unknown_callers is None else Rate.parse(model.unknown_callers),
        failed_verifications=None if model.failed_verifications is None else Rate.parse(model.failed_verifications),
    )


def _callers(source: Source[Limits], names: Names, matrix: Matrix, problems: list[str]) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for name, text in source.model.callers.items():
        if name == DEFAULT_CALLER:
            continue
        here = source.locate_key("callers", name)
        try:
            caller = names.resolve(name).uri
        except SpiffeIdError as error:
            problems.append(f"{here}: {quoted(name)} names no workload: {error}")
            continue
        if not matrix.knows(caller):
            known = matrix.subjects - matrix.patterns.uris
            likely = suggestion(name, {subject.rpartition("/")[2] for subject in known})
            problems.append(f"{here}: no cell grants {quoted(name)} anything, so this would limit nobody{likely}")
        if caller in found:
            problems.append(f"{here}: {quoted(name)} names a workload that stands here already")
        found[caller] = Rate.parse(text)
    return found
