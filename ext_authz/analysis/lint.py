"""What a policy says that its authors can hardly mean, or should look at twice.

1. A finding never changes what a policy allows: whoever wants that to stop a change runs `policy lint` in CI.
2. A rule's id, once released, keeps its meaning.
3. Each rule is a function of the survey and reads every cell at most a few times: 100,000 cells take seconds.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import permutations
from typing import NamedTuple

from ext_authz.analysis.finding import Finding, Level
from ext_authz.analysis.looser import is_looser
from ext_authz.analysis.openings import ever_open
from ext_authz.analysis.survey import Survey, WrittenCell, WrittenDenial
from ext_authz.documents.models import (
    ActionRegistry,
    Delegation,
    DelegationMode,
    IdentityProviders,
    PermissionMatrix,
    TimeWindows,
)
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import GROUP_SIGN
from ext_authz.identity.patterns import WILDCARD, covers, meet
from ext_authz.policy.engine import EVERY_ACTION
from ext_authz.policy.windows import Times

# Resources of one subject, and actions of one cell: more than a reviewer keeps in mind.
WIDE_ROW_RESOURCES = 25
WIDE_CELL_ACTIONS = 10
# Names shown in a sentence.
_SHOWN_NAMES = 3

# (place, sentence, fix)
_Found = Iterator[tuple[str, str, str]]


class LintRule(NamedTuple):
    """One thing to look for."""

    level: Level
    find: Callable[[Survey], _Found]


def lint(survey: Survey, ignored: Collection[str] = ()) -> list[Finding]:
    """Return the findings of every rule that is not ignored, in the order of their places."""
    findings = [
        Finding(name, rule.level, *found)
        for name, rule in RULES.items()
        if name not in ignored
        for found in rule.find(survey)
    ]
    return sorted(findings, key=_order)


def _order(finding: Finding) -> tuple[str, int, int, str]:
    path, line, column = finding.place.rsplit(":", 2)
    return path, int(line), int(column), finding.rule


def _cell_denied(survey: Survey) -> _Found:
    for cell in survey.cells:
        denials = _denials_of(survey, cell)
        if cell.subjects and len(denials) == len(set(cell.cell.actions)):
            rule = next(iter(denials.values()))
            yield cell.place, f"nothing of this cell is ever allowed, {rule} denies it", "remove the cell or the denial"


def _grant_denied(survey: Survey) -> _Found:
    for cell in survey.cells:
        denials = _denials_of(survey, cell)
        if len(denials) < len(set(cell.cell.actions)):
            for action, rule in denials.items():
                sentence = f"{quoted(action)} is granted here and never allowed, {rule} denies it"
                yield cell.place, sentence, "remove the action or the denial"


def _denials_of(survey: Survey, cell: WrittenCell) -> Mapping[str, str]:
    """Return the actions of a cell that are denied to all its subjects, each with the place of a deny rule."""
    if not survey.policy.matrix.denials:
        return {}
    denied = {}
    for action in dict.fromkeys(cell.cell.actions):
        rules = [survey.denial_of(subject, cell.resource_id, action) for subject in cell.subjects]
        if rules and rules[0] is not None and None not in rules:
            denied[action] = rules[0].where
    return denied


def _grant_elsewhere(survey: Survey) -> _Found:
    elsewhere = {
        name: action.resources
        for name, action in survey.policy.registry.actions.items()
        if action.resources is not None
    }
    for cell in survey.cells:
        for action in dict.fromkeys(cell.cell.actions):
            resources = elsewhere.get(action)
            if resources is not None and cell.resource_id not in {each.uri for each in resources}:
                known = _some(survey.sorted_names(each.uri for each in resources))
                sentence = (
                    f"no request to {quoted(cell.resource)} can be {quoted(action)}, which counts at {known} only"
                )
                yield cell.place, sentence, "remove it, or add the workload to the action's `resources`"


def _grant_twice(survey: Survey) -> _Found:
    first: dict[tuple[str, str, str], WrittenCell] = {}
    for cell in survey.cells:
        actions = cell.cell.actions
        for action in dict.fromkeys(actions):
            if actions.count(action) > 1:
                yield cell.place, f"{quoted(action)} stands twice in this cell", "write it once"
        keys = [(subject, cell.resource_id, action) for subject in cell.subjects for action in dict.fromkeys(actions)]
        others = {first[key].place: first[key] for key in keys if key in first}
        same = [other for other in others.values() if _asks_alike(cell, other)]
        if keys and len(same) == len(others) > 0 and all(key in first for key in keys):
            yield cell.place, f"all of this cell is granted by {same[0].line} too", "remove one of the two"
        for key in keys:
            first.setdefault(key, cell)


def _asks_alike(one: WrittenCell, other: WrittenCell) -> bool:
    left, right = (each.cell.model_copy(update={"actions": []}) for each in (one, other))
    return left == right


def _grant_looser(survey: Survey) -> _Found:
    usual = _usual(survey)
    by_pair: dict[tuple[str, str], list[WrittenCell]] = {}
    for cell in survey.cells:
        for subject in cell.subjects:
            by_pair.setdefault((subject, cell.resource_id), []).append(cell)
    told = set()
    for subject, resource in by_pair:
        cells = [cell for each in survey.policy.matrix.about(subject) for cell in by_pair.get((each, resource), ())]
        for looser, stricter in permutations(cells, 2):
            shared = [action for action in stricter.cell.actions if action in looser.cell.actions]
            pair = looser.place, stricter.place
            if shared and pair not in told and is_looser(looser.cell, stricter.cell, usual):
                told.add(pair)
                sentence = (
                    f"{quoted(looser.subject)} gets {_some(shared)} here and is asked less than in {stricter.line}"
                )
                yield looser.place, sentence, "ask the same in both cells, or take one of them away"


def _usual(survey: Survey) -> DelegationMode:
    """Return what a cell asks of delegation that says nothing about it."""
    delegation = survey.policy.delegation
    return "required" if delegation is not None and delegation.required else "optional"


def _deny_unmatched(survey: Survey) -> _Found:
    granted: dict[str, dict[str, set[str]]] = {}  # resource -> subject -> actions
    for subject, resource, action in survey.policy.matrix.grants:
        granted.setdefault(resource, {}).setdefault(subject, set()).add(action)
    for denial in survey.denials:
        row = granted.get(denial.resource_id, {})
        if not any(_matches(survey, subject, denial.rule.action, row) for subject in denial.subjects):
            yield (
                denial.place,
                "no grant is denied by this rule today",
                "keep it against later grants, or write an invariant, which covers other agents in between too",
            )


def _matches(survey: Survey, subject: str, action: str, row: Mapping[str, Collection[str]]) -> bool:
    """Whether some workload that the subject stands for is granted the action; `row` has actions by subject."""
    if WILDCARD in subject:
        found = [actions for granted, actions in row.items() if meet(subject, granted) is not None]
    else:
        found = [row[each] for each in survey.policy.matrix.about(subject) if each in row]
    return any(action in (EVERY_ACTION, *actions) for actions in found)


def _deny_covered(survey: Survey) -> _Found:
    by_resource: dict[str, list[WrittenDenial]] = {}
    for denial in survey.denials:
        by_resource.setdefault(denial.resource_id, []).append(denial)
    for denials in by_resource.values():
        for index, denial in enumerate(denials):
            others = (
                other for at, other in enumerate(denials) if at != index and _covers(other, denial, later=at > index)
            )
            other = next(others, None)
            if other is not None:
                yield denial.place, f"{other.line} denies all of this already", "remove one of the two"


def _covers(one: WrittenDenial, other: WrittenDenial, *, later: bool) -> bool:
    """Whether `one` denies all that `other` does; of two that deny the same, the first covers the second."""
    if one.rule.when is not None and one.rule.when != other.rule.when:
        return False
    if one.rule.action not in (EVERY_ACTION, other.rule.action) or not _all_covered(other.subjects, one.subjects):
        return False
    same = (
        one.rule.action == other.rule.action
        and one.rule.when == other.rule.when
        and set(one.subjects) == set(other.subjects)
    )
    return not (same and later)


def _all_covered(subjects: Iterable[str], others: Collection[str]) -> bool:
    patterns = [other for other in others if WILDCARD in other]
    return all(subject in others or any(covers(pattern, subject) for pattern in patterns) for subject in subjects)


def _action_unused(survey: Survey) -> _Found:
    used = {cell_action for cell in survey.cells for cell_action in cell.cell.actions if cell.subjects}
    for source in survey.documents.of(ActionRegistry):
        for action in source.model.actions:
            if action not in used and not source.is_preset:
                yield source.locate_key("actions", action), f"nobody may use {quoted(action)}", "grant it, or remove it"


def _action_unused_here(survey: Survey) -> _Found:
    used = {(cell.resource_id, action) for cell in survey.cells if cell.subjects for action in cell.cell.actions}
    actions = {action for _, action in used}
    for source in survey.documents.of(ActionRegistry):
        for action, entry in source.model.actions.items():
            for index, resource in enumerate(entry.resources or ()):
                if action in actions and (survey.resolve(resource), action) not in used:
                    place = source.locate("actions", action, "resources", index)
                    sentence = f"nobody may use {quoted(action)} at {quoted(resource)}"
                    yield place, sentence, "grant it, or remove the workload from `resources`"


def _asserted_granted(survey: Survey) -> _Found:
    where: dict[str, set[str]] = {}
    for cell in survey.cells:
        for action in cell.cell.actions:
            where.setdefault(action, set()).add(cell.resource_id)
    for source in survey.documents.of(ActionRegistry):
        for action, entry in source.model.actions.items():
            if entry.asserted and action in where:
                known = _some(survey.sorted_names(where[action]))
                sentence = f"{quoted(action)} is the caller's word and granted at {known}"
                fix = "give it routes, or make sure that the agent does only what `x-authz-action` says"
                yield source.locate_key("actions", action), sentence, fix


def _group_unused(survey: Survey) -> _Found:
    for source in survey.documents.of(PermissionMatrix):
        model = source.model
        used = {*model.matrix, *(rule.subject for rule in model.deny)}
        used |= {name for invariant in model.invariants for name in (invariant.from_, invariant.must_not_reach)}
        for group in model.groups:
            if f"{GROUP_SIGN}{group}" not in used:
                yield source.locate_key("groups", group), f"group {quoted(group)} is used nowhere", "remove it"


def _group_empty(survey: Survey) -> _Found:
    for source in survey.documents.of(PermissionMatrix):
        for group, members in source.model.groups.items():
            if not members:
                place = source.locate_key("groups", group)
                yield (
                    place,
                    f"group {quoted(group)} has no members: what names it means nobody",
                    "add members, or remove it",
                )


def _name_unknown(survey: Survey) -> _Found:
    known = set(map(survey.names.name_of, survey.workloads))
    for source in survey.documents.of(PermissionMatrix):
        for steps, name in _guarding_names(source.model):
            if name.startswith(GROUP_SIGN) or _is_known(survey, survey.resolve(name)):
                continue
            sentence = f"no cell has anything to do with {quoted(name)}{suggestion(name, known)}"
            yield (
                source.locate(*steps),
                sentence.rstrip("?"),
                "correct the name: what guards a name that nobody has guards nothing",
            )


def _is_known(survey: Survey, uri: str) -> bool:
    if WILDCARD in uri:
        return any(meet(uri, each) is not None for each in survey.workloads)
    return any(each in survey.workloads for each in survey.policy.matrix.about(uri))


def _subject_wildcard(survey: Survey) -> _Found:
    for source in survey.documents.of(PermissionMatrix):
        model = source.model
        places = [(source.locate_key("matrix", subject), subject) for subject in model.matrix if WILDCARD in subject]
        places += [
            (source.locate("groups", group, index), member)
            for group, members in model.groups.items()
            for index, member in enumerate(members)
            if WILDCARD in member
        ]
        places += [
            (source.locate("deny", index, "subject"), rule.subject)
            for index, rule in enumerate(model.deny)
            if WILDCARD in rule.subject
        ]
        for place, subject in places:
            sentence = f"{quoted(subject)} stands for every workload that fits it, also for those to come"
            yield place, sentence, "name the workloads, or keep it where each of them is meant"


def _guarding_names(model: PermissionMatrix) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the names of denials and invariants: a slip in one takes the guard away without an error."""
    for index, rule in enumerate(model.deny):
        yield ("deny", index, "subject"), rule.subject
        yield ("deny", index, "resource"), rule.resource
    for index, invariant in enumerate(model.invariants):
        yield ("invariants", index, "from"), invariant.from_
        yield ("invariants", index, "must_not_reach"), invariant.must_not_reach


def _delegation_unsaid(survey: Survey) -> _Found:
    if survey.policy.delegation is None or survey.policy.delegation.required:
        return
    for cell in survey.cells:
        if cell.cell.delegation is None:
            sentence = "a caller that leaves its chain out acts on its own authority here"
            yield cell.place, sentence, "say `delegation: required`, or `optional` if that is meant"


def _delegation_optional(survey: Survey) -> _Found:
    if survey.policy.delegation is None:
        return
    for cell in survey.cells:
        if cell.cell.delegation == "optional":
            sentence = "a caller that leaves its chain out is asked for no scopes"
            yield cell.place, sentence, "say `delegation: required` unless the agent itself may do this"


def _issuer_unlimited(survey: Survey) -> _Found:
    for source in survey.documents.of(Delegation):
        for index, issuer in enumerate(source.model.root_issuers):
            missing = [
                key
                for key, unlimited in (("subjects", issuer.subjects == "*"), ("scopes", issuer.scopes is None))
                if unlimited
            ]
            if missing:
                keys = " and ".join(f"`{key}`" for key in missing)
                sentence = f"{quoted(issuer.id)} may start chains without a limit on {keys}"
                yield source.locate("root_issuers", index), sentence, f"write its {keys}"


def _provider_unbound(survey: Survey) -> _Found:
    for source in survey.documents.of(IdentityProviders):
        for index, provider in enumerate(source.model.providers):
            if provider.clients is None:
                sentence = f"whoever gets hold of an access token of {quoted(provider.issuer)} may show it"
                yield source.locate("providers", index), sentence, "write its `clients`"


def _window_never_open(survey: Survey) -> _Found:
    windows = survey.policy.windows
    known: dict[Times, bool] = {}
    for cell in survey.cells:
        if cell.cell.during is None and cell.cell.not_during is None and not windows.closed:
            continue
        named = (
            tuple(windows.named[name] for name in names or ()) for names in (cell.cell.during, cell.cell.not_during)
        )
        times = Times(*named)
        if times not in known:
            known[times] = ever_open(times, windows.closed)
        if not known[times]:
            sentence = "this cell never counts: whenever its windows are open, others forbid it"
            yield cell.place, sentence, "remove the cell, or change `during`, `not_during` or `closed`"


def _window_unused(survey: Survey) -> _Found:
    used = {name for cell in survey.cells for name in (*(cell.cell.during or ()), *(cell.cell.not_during or ()))}
    documents = survey.documents.of(TimeWindows)
    used |= {name for source in documents for name in source.model.closed}
    for source in documents:
        for name in source.model.windows:
            if name not in used:
                yield source.locate_key("windows", name), f"window {quoted(name)} is used nowhere", "remove it"


def _row_wide(survey: Survey) -> _Found:
    for source in survey.documents.of(PermissionMatrix):
        for subject, row in source.model.matrix.items():
            if len(row) > WIDE_ROW_RESOURCES:
                sentence = f"{quoted(subject)} may call {len(row)} workloads"
                yield source.locate_key("matrix", subject), sentence, "narrow the row to what the agent needs"


def _cell_wide(survey: Survey) -> _Found:
    for cell in survey.cells:
        if len(cell.cell.actions) > WIDE_CELL_ACTIONS:
            sentence = f"{quoted(cell.subject)} may do {len(cell.cell.actions)} things at {quoted(cell.resource)}"
            yield cell.place, sentence, "narrow the cell to what the agent needs"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(map(quoted, names[:_SHOWN_NAMES]))
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"


RULES: Mapping[str, LintRule] = {
    "cell-denied": LintRule(Level.ERROR, _cell_denied),
    "grant-elsewhere": LintRule(Level.ERROR, _grant_elsewhere),
    "window-never-open": LintRule(Level.ERROR, _window_never_open),
    "grant-denied": LintRule(Level.WARNING, _grant_denied),
    "grant-twice": LintRule(Level.WARNING, _grant_twice),
    "grant-looser": LintRule(Level.WARNING, _grant_looser),
    "deny-covered": LintRule(Level.WARNING, _deny_covered),
    "name-unknown": LintRule(Level.WARNING, _name_unknown),
    "action-unused": LintRule(Level.WARNING, _action_unused),
    "action-unused-here": LintRule(Level.WARNING, _action_unused_here),
    "group-unused": LintRule(Level.WARNING, _group_unused),
    "group-empty": LintRule(Level.WARNING, _group_empty),
    "window-unused": LintRule(Level.WARNING, _window_unused),
    "delegation-unsaid": LintRule(Level.WARNING, _delegation_unsaid),
    "issuer-unlimited": LintRule(Level.WARNING, _issuer_unlimited),
    "provider-unbound": LintRule(Level.WARNING, _provider_unbound),
    "subject-wildcard": LintRule(Level.WARNING, _subject_wildcard),
    "row-wide": LintRule(Level.WARNING, _row_wide),
    "cell-wide": LintRule(Level.WARNING, _cell_wide),
    "deny-unmatched": LintRule(Level.NOTE, _deny_unmatched),
    "delegation-optional": LintRule(Level.NOTE, _delegation_optional),
    "asserted-granted": LintRule(Level.NOTE, _asserted_granted),
}
