"""What would have allowed a request: the nearest grants, what a cell asks that is missing, the cell that one would write.

A way is told for every stage that refuses, not for the first alone. None of them is advice: the denial may be right.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from ext_authz.decision.explain import Explanation, Step
from ext_authz.errors import Reason
from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import Key
from ext_authz.policy.verdict import Grant
from ext_authz.review.rules import grants_of

# Grants of one kind that are named; more of them help nobody.
MAX_NEAREST = 5

# What YAML takes for this very text, whoever reads it.
_PLAIN = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z][A-Za-z0-9._/-]*")


class Way(NamedTuple):
    """One thing that would have to differ."""

    text: str
    yaml: str = ""  # a document to paste


def ways_to_allow(explanation: Explanation, policy: Policy) -> tuple[Way, ...]:
    """Return what would have to differ for the request to be allowed; nothing for one that is."""
    refusing = [step for step in explanation.steps if step.reason not in (None, Reason.ALLOWED)]
    return tuple(way for step in refusing for way in _WAYS.get(step.reason, _by_sentence)(step, explanation, policy))


def _by_sentence(step: Step, _: Explanation, __: Policy) -> Iterator[Way]:
    reason = step.reason or Reason.INTERNAL_ERROR
    yield Way(f"{step.stage}: {reason.meaning.sentence}")


def _without_the_rule(step: Step, explanation: Explanation, policy: Policy) -> Iterator[Way]:
    rule = step.rule
    where = f"{rule.where} ({rule.text})" if rule else "the deny rule"
    yield Way(f"policy: {where} denies this, whatever is granted: it would have to go")
    if not explanation.grants and explanation.action is not None:
        yield from _with_a_cell(step, explanation, policy)


def _with_a_cell(_: Step, explanation: Explanation, policy: Policy) -> Iterator[Way]:
    if explanation.identity is None or explanation.action is None:
        return
    key = (explanation.identity.subject.uri, explanation.identity.resource.uri, explanation.action.name)
    name = policy.names.name_of
    nearest = {
        f"{name(key[0])} may ask {name(key[1])} for": _nearest(policy, key, (0, 1), lambda found: found[2]),
        f"{key[2]} of {name(key[1])} is granted to": _nearest(policy, key, (1, 2), lambda found: name(found[0])),
        f"{name(key[0])} may ask for {key[2]} at": _nearest(policy, key, (0, 2), lambda found: name(found[1])),
    }
    for words, found in nearest.items():
        if found:
            yield Way(f"policy: {words} {_listed(found)}")
    if explanation.identity.subject.trust_domain == policy.names.trust_domain:
        yield Way("policy: this document would grant it", cell_document(name(key[0]), name(key[1]), key[2]))


def _nearest(policy: Policy, key: Key, same: tuple[int, int], shown: Callable[[Key], str]) -> dict[str, Grant]:
    """Return the grants that share two parts with the key, by the third. A pattern shares the subjects that fit it."""
    parts = (policy.matrix.about(key[0]), (key[1],), (key[2],))
    return {shown(found): grant for found, grant in grants_of(policy) if all(found[at] in parts[at] for at in same)}


def _listed(found: Mapping[str, Grant]) -> str:
    shown = [f"{name} ({grant.rule.where})" for name, grant in list(found.items())[:MAX_NEAREST]]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def _as_cells_ask(step: Step, explanation: Explanation, _: Policy) -> Iterator[Way]:
    """Say of each cell what it asks, and what is missing."""
    if step.rule is not None and step.rule.denies:
        yield Way(f"{step.stage}: {step.rule.where} ({step.rule.text}) allows no call at this time")
        return
    action, delegation = explanation.action, explanation.delegation
    for grant, reason in explanation.grants:
        where = f"constraints: {grant.rule.where} ({grant.rule.text})"
        if reason is Reason.TOKEN_MISSING and action is not None:
            hops = f" and at most {grant.max_hops} hops" if grant.max_hops is not None else ""
            yield Way(f"{where} asks for a chain with {_words({action.scope, *grant.scopes})}{hops}")
        elif reason is Reason.TOKEN_SCOPE and action is not None and delegation is not None:
            yield Way(f"{where}: the chain lacks {_words({action.scope, *grant.scopes} - delegation.scopes)}")
        elif reason is Reason.HOPS_EXCEEDED and delegation is not None:
            yield Way(f"{where} allows {grant.max_hops} hops, the chain has {delegation.hops}")
        elif reason is not Reason.ALLOWED:
            yield Way(f"{where}: {reason.meaning.sentence}")


def _words(scopes: Iterable[str]) -> str:
    return "scope " + " ".join(sorted(scopes))


def _with_a_route(_: Step, explanation: Explanation, policy: Policy) -> Iterator[Way]:
    attributes, identity = explanation.decision.attributes, explanation.identity
    yield Way(
        f"action: `{attributes.method} {attributes.path}` fits no route: register one, or call one that is registered"
    )
    if identity is None:
        return
    parties = (identity.subject.uri, identity.resource.uri, "")
    found = _nearest(policy, parties, (0, 1), lambda key: key[2])
    if found:
        names = policy.names.name_of
        yield Way(f"action: {names(parties[0])} may ask {names(parties[1])} for {_listed(found)}")


_WAYS: dict[Reason | None, Callable[[Step, Explanation, Policy], Iterator[Way]]] = {
    Reason.DENIED_BY_RULE: _without_the_rule,
    Reason.NOT_IN_MATRIX: _with_a_cell,
    Reason.ACTION_UNREGISTERED: _with_a_route,
    Reason.TOKEN_MISSING: _as_cells_ask,
    Reason.TOKEN_SCOPE: _as_cells_ask,
    Reason.HOPS_EXCEEDED: _as_cells_ask,
    Reason.TOKEN_FORBIDDEN: _as_cells_ask,
    Reason.OIDC_MISSING: _as_cells_ask,
    Reason.OIDC_SCOPE: _as_cells_ask,
    Reason.OUTSIDE_WINDOW: _as_cells_ask,
}


def cell_document(subject: str, resource: str, action: str) -> str:
    """Return a document that grants one action, to be pasted behind `---` into any file of a policy."""
    return f"kind: PermissionMatrix\nmatrix:\n  {_key(subject)}:\n    {_key(resource)}: [{_key(action)}]\n"


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)
