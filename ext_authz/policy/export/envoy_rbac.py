"""The matrix as Envoy RBAC filters of one workload's inbound listener: first what is denied, then all that is allowed."""

import re
from typing import Any

import yaml

from ext_authz.identity.patterns import WILDCARD, Subject, SubjectPattern
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.engine import EVERY_ACTION
from ext_authz.policy.export.model import (
    Calls,
    Exported,
    Operation,
    Permission,
    Prohibition,
    notes_on,
    with_comments,
)

_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_ANY_SEGMENT = "[^/]+"
_TAIL = "/[^/]+(?:/.*)?"
# A segment of a SPIFFE ID, as `identity/spiffe_id.py` reads it: neither `.` nor `..`. RE2 has no lookahead.
_ID_SEGMENT = r"(?:[A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*"


def to_envoy_rbac(calls: Calls, resource: SpiffeId) -> Exported:
    """Return the `http_filters` entries for the sidecar of `resource`, to stand behind ext_authz."""
    own = calls.to(resource)
    denied = {f"{index}": _policy(call) for index, call in enumerate(own.prohibitions) if _is_told(call)}
    allowed = {f"{index}": _policy(call) for index, call in enumerate(own.permissions) if _is_told(call)}
    filters = [_filter("DENY", denied)] if denied else []
    filters.append(_filter("ALLOW", allowed))
    notes = tuple(notes_on(own, "RBAC"))
    title = f"http_filters of the inbound sidecar of {resource}: behind ext_authz, not in place of it."
    return Exported(with_comments([yaml.safe_dump(filters, sort_keys=False)], title, notes), notes)


def _is_told(call: Permission | Prohibition) -> bool:
    return bool(call.operations) or (isinstance(call, Prohibition) and call.action == EVERY_ACTION)


def _filter(action: str, policies: dict[str, Any]) -> dict[str, Any]:
    """Return an RBAC filter; one that allows and has no policies matches nothing, and so denies everything."""
    return {
        "name": f"envoy.filters.http.rbac.{action.lower()}",
        "typed_config": {
            "@type": _TYPE,
            "rules_stat_prefix": f"matrix_{action.lower()}_",
            "rules": {"action": action, "policies": policies},
        },
    }


def _policy(call: Permission | Prohibition) -> dict[str, Any]:
    permissions: list[dict[str, Any]] = [_permission(each) for each in call.operations]
    if isinstance(call, Prohibition) and call.action == EVERY_ACTION:
        permissions = [{"any": True}]
    return {
        "permissions": permissions,
        "principals": [{"authenticated": {"principal_name": _principal(call.subject)}}],
    }


def _principal(subject: Subject) -> dict[str, Any]:
    """Match a caller's ID; Envoy wants the whole of it to fit a pattern."""
    if not isinstance(subject, SubjectPattern):
        return {"exact": subject.uri}
    parts = subject.uri.split("/")
    return _regex("/".join(_ID_SEGMENT if part == WILDCARD else re.escape(part) for part in parts))


def _permission(operation: Operation) -> dict[str, Any]:
    method = {"header": {"name": ":method", "string_match": {"exact": operation.method}}}
    rules: list[dict[str, Any]] = [method, {"url_path": {"path": _path(operation)}}]
    rules += [{"not_rule": {"url_path": {"path": _path(other)}}} for other in operation.besides]
    return {"and_rules": {"rules": rules}}


def _path(operation: Operation) -> dict[str, Any]:
    if None not in operation.segments and not operation.has_tail:
        return {"exact": "/" + "/".join(segment or "" for segment in operation.segments)}
    pattern = "".join("/" + (_ANY_SEGMENT if each is None else re.escape(each)) for each in operation.segments)
    return _regex(pattern + (_TAIL if operation.has_tail else "") + (_verb(operation.verb) if operation.verb else ""))


def _verb(verb: str) -> str:
    """Match the end of a segment: a colon, which may come encoded, and a verb."""
    return f"(?::|%3[aA]){re.escape(verb)}"


def _regex(pattern: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": pattern}}
