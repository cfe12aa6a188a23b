"""The matrix as a Rego v1 module with the same verdicts.

1. Reason and rule are those of our engine, for every input; a property test holds both against each other.
2. A grant that Rego cannot check makes the whole export fail: a module that allows more would be worse than none.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ext_authz.policy.compile import Policy
from ext_authz.policy.export.model import Exported, ExportError, beyond_matrix
from ext_authz.policy.verdict import Grant

_CHECKED = frozenset({"rule", "delegation", "scopes", "max_hops"})

# The words of the reasons are ours (docs/reasons.md). `delegation` is null, or holds `scopes` and `hops` of a verified chain.
_RULES = """\
# input: {"subject": SPIFFE ID, "resource": SPIFFE ID, "action": name,
#         "delegation": null or {"scopes": [scope], "hops": number}}
# Ask for data.ext_authz.decision: {"allow": boolean, "reason": reason code, "rule": file:line or ""}

decision := {"allow": reason == "allowed", "reason": reason, "rule": rule}

delegation := object.get(input, "delegation", null)

matching := [grant |
	some subject in subjects
	some grant in object.get(grants, [subject, input.resource, input.action], [])
]

denying := [where |
	some subject in subjects
	denials_here := object.get(denials, [subject, input.resource], {})
	where := object.get(denials_here, input.action, object.get(denials_here, "*", ""))
	where != ""
]

default denied_by := ""

denied_by := denying[0]

needed(grant) := {object.get(scopes, input.action, input.action)} | {scope | some scope in grant.scopes}

unmet(grant) := "token_missing" if {
	delegation == null
	grant.delegation == "required"
} else := "" if {
	delegation == null
} else := "token_forbidden" if {
	grant.delegation == "forbidden"
} else := "token_scope" if {
	count(needed(grant) - {scope | some scope in delegation.scopes}) > 0
} else := "hops_exceeded" if {
	delegation.hops > grant.max_hops
} else := ""

satisfied := [grant | some grant in matching; unmet(grant) == ""]

default reason := "not_in_matrix"

reason := "denied_by_rule" if {
	denied_by != ""
} else := "allowed" if {
	count(satisfied) > 0
} else := unmet(matching[0])

default rule := ""

rule := denied_by if {
	denied_by != ""
} else := satisfied[0].rule if {
	count(satisfied) > 0
} else := matching[0].rule
"""
_NAMED = "# Whose rules count for the caller.\nsubjects := [input.subject]"
# A segment of a SPIFFE ID is neither `.` nor `..`; the backslashes are those of Rego's raw strings.
_FITTING = """\
# Whose rules count for the caller: its own, and those of every subject with `*` that it fits. A shape is where `*` stands
# among the parts between slashes, and how many parts there are.
segment := `(?:[A-Za-z0-9_-]|\\.[A-Za-z0-9_-]|\\.\\.[A-Za-z0-9._-])[A-Za-z0-9._-]*`

default is_spiffe_id := false

is_spiffe_id := regex.match(concat("", ["^spiffe://[a-z0-9._-]+(?:/", segment, ")+$"]), input.subject)

parts := split(input.subject, "/")

masked(place, shape) := "*" if {
	place in shape.places
} else := parts[place]

with_wildcards(shape) := concat("/", segments) if {
	segments := [part |
		some place in numbers.range(0, count(parts) - 1)
		part := masked(place, shape)
	]
}

fitting := [subject |
	is_spiffe_id
	some shape in shapes
	count(parts) == shape.length
	subject := with_wildcards(shape)
]

subjects := array.concat([subject | some subject in [input.subject]; is_spiffe_id], fitting)"""
# Hops of a grant without `max_hops`: more than any chain can have.
_ANY_HOPS = 1_000_000


def to_rego(policy: Policy) -> Exported:
    """Return the module. Raises ExportError when a grant asks for what Rego cannot see."""
    problems = sorted({problem for grants in policy.matrix.grants.values() for problem in _problems(grants)})
    problems += [f"Rego cannot check: {each}" for each in beyond_matrix(policy)]
    if problems:
        raise ExportError(problems)
    grants: dict[str, Any] = {}
    for (subject, resource, action), found in sorted(policy.matrix.grants.items(), key=lambda item: item[0]):
        grants.setdefault(subject, {}).setdefault(resource, {})[action] = [_members(grant) for grant in found]
    denials: dict[str, Any] = {}
    for (subject, resource, action), rule in sorted(policy.matrix.denials.items(), key=lambda item: item[0]):
        denials.setdefault(subject, {}).setdefault(resource, {})[action] = rule.where
    scopes = {name: action.scope for name, action in sorted(policy.registry.actions.items())}
    parts = [
        f"# Made by `ext-authz policy export rego` from a policy with the digest {policy.digest}.",
        "# Who calls, which action a request is and whose chain holds must be verified before this is asked.",
        "package ext_authz",
        "import rego.v1",
        *_subjects(policy),
        _RULES.rstrip(),
        _assigned("grants", grants),
        _assigned("denials", denials),
        _assigned("scopes", scopes),
    ]
    return Exported("\n\n".join(parts) + "\n", ())


def _subjects(policy: Policy) -> Iterator[str]:
    shapes = policy.matrix.patterns.shapes
    if not shapes:
        yield _NAMED
        return
    yield _FITTING
    yield _assigned("shapes", [{"places": shape.places, "length": shape.length} for shape in shapes])


def _problems(grants: tuple[Grant, ...]) -> Iterator[str]:
    for grant in grants:
        asked: Mapping[str, object] = grant._asdict()
        for name, value in asked.items():
            if name not in _CHECKED and value != Grant._field_defaults.get(name):
                yield f"{grant.rule.where}: {grant.rule.text}: Rego cannot check `{name}`"


def _members(grant: Grant) -> dict[str, Any]:
    return {
        "rule": grant.rule.where,
        "delegation": grant.delegation,
        "scopes": sorted(grant.scopes),
        "max_hops": _ANY_HOPS if grant.max_hops is None else grant.max_hops,
    }


def _assigned(name: str, value: Any) -> str:
    """Write a document; JSON is Rego, but for the escapes of characters that no name of ours has."""
    return f"{name} := {json.dumps(value, indent=1)}"
