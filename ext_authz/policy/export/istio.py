"""The matrix as Istio policies: STRICT mTLS, and for each workload that is called one ALLOW and at most one DENY policy.

A workload without any permission gets an ALLOW policy without rules, which denies every call.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from ext_authz.identity.patterns import Subject, SubjectPattern
from ext_authz.policy.engine import EVERY_ACTION
from ext_authz.policy.export.model import (
    Calls,
    Exported,
    ExportError,
    Operation,
    by_name,
    notes_on,
    with_comments,
    without_wildcards,
)
from ext_authz.policy.export.placement import Place, Placement

API_VERSION = "security.istio.io/v1"
# One whole segment of a path, from Istio 1.22 on.
_ANY_SEGMENT = "{*}"
# Any number of segments, none included.
_TAIL = "{**}"


def to_istio(calls: Calls, placement: Placement) -> Exported:
    """Return the policies as YAML documents. Raises ExportError for a workload that is nowhere."""
    places = placement.of(calls.resources)
    documents = [_strict(namespace) for namespace in sorted({place.namespace for place in places.values()})]
    for resource, place in places.items():
        own = without_wildcards(calls).to(resource)
        documents.append(_policy(place, placement, "ALLOW", _allowed(own)))
        denied = list(_denied(own))
        if denied:
            documents.append(_policy(place, placement, "DENY", denied))
    notes = (*notes_on(without_wildcards(calls), "Istio"), *_verbs_of(calls), *_wildcards_of(calls))
    title = "Istio 1.22 or newer. A second fence in front of ext_authz, not in place of it."
    return Exported(with_comments([yaml.safe_dump_all(documents, sort_keys=False)], title, notes), notes)


def _strict(namespace: str) -> dict[str, Any]:
    """Without mTLS there is no principal."""
    return {
        "apiVersion": API_VERSION,
        "kind": "PeerAuthentication",
        "metadata": {"name": "ext-authz-strict", "namespace": namespace},
        "spec": {"mtls": {"mode": "STRICT"}},
    }


def _policy(place: Place, placement: Placement, action: str, rules: Iterable[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": placement.selector(place), "action": action}
    found = list(rules)
    return {
        "apiVersion": API_VERSION,
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"{place.service_account}-{action.lower()}", "namespace": place.namespace},
        "spec": {**spec, "rules": found} if found else spec,
    }


def _allowed(calls: Calls) -> Iterator[dict[str, Any]]:
    for subject in by_name({call.subject for call in calls.permissions}):
        operations = {each for call in calls.permissions if call.subject == subject for each in call.operations}
        if to := _to(operations):
            yield {**_from(subject), "to": to}


def _denied(calls: Calls) -> Iterator[dict[str, Any]]:
    for call in calls.prohibitions:
        if call.action == EVERY_ACTION:
            yield _from(call.subject)
        elif to := _to(call.operations):
            yield {**_from(call.subject), "to": to}


def _from(subject: Subject) -> dict[str, Any]:
    return {"from": [{"source": {"principals": [subject.uri.removeprefix("spiffe://")]}}]}


def _to(operations: Iterable[Operation]) -> list[dict[str, Any]]:
    """Return one operation for each method: those of one entry are combined freely. Verbs are left out."""
    paths: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for operation in sorted(operations, key=lambda each: (each.method, _path(each))):
        if not operation.verb:
            verbs = tuple(sorted({other.verb for other in operation.besides}))
            paths.setdefault((operation.method, verbs), []).append(_path(operation))
    return [
        {"operation": {"methods": [method], "paths": found, **_not_paths(verbs)}}
        for (method, verbs), found in paths.items()
    ]


def _not_paths(verbs: tuple[str, ...]) -> dict[str, list[str]]:
    endings = [f"*{colon}{verb}" for verb in verbs for colon in (":", "%3A", "%3a")]
    return {"notPaths": endings} if endings else {}


def _path(operation: Operation) -> str:
    literal = "".join(segment or "" for segment in operation.segments)
    if "*" in literal:  # at the end or the beginning of a path it stands for anything
        raise ExportError([f"{operation.method} route with `*` in its path: Istio reads it as a wildcard"])
    tail = (_ANY_SEGMENT, _TAIL) if operation.has_tail else ()
    segments = (_ANY_SEGMENT if segment is None else segment for segment in operation.segments)
    return "/" + "/".join((*segments, *tail))


def _verbs_of(calls: Calls) -> Iterator[str]:
    for call in without_wildcards(calls).permissions:
        if any(operation.verb for operation in call.operations):
            yield f"{call.name}: Istio cannot match a parameter with a verb behind it, so those routes are denied"


def _wildcards_of(calls: Calls) -> Iterator[str]:
    """Say what is left out because a principal of Istio has `*` at its beginning or end alone, where it is any number of segments."""
    for call in calls.permissions:
        if isinstance(call.subject, SubjectPattern):
            yield f"{call.name}: Istio has no wildcard for one segment of a principal, so it denies this"
    for denial in calls.prohibitions:
        if isinstance(denial.subject, SubjectPattern):
            yield (
                f"{denial.rule.text} ({denial.rule.where}): Istio has no wildcard for one segment of a principal; "
                "no permission here allows it either"
            )
