"""HTTP routes: a method and a path pattern, matched in time that does not grow with the number of routes.

1. `{name}` stands for exactly one segment, `{name}:verb` for one that ends in `:verb`, `**` at the end for one or more;
   everything else is compared byte for byte.
2. Two routes that fit one request on one resource are an error when they belong to different actions; the one exception is
   rule 3.
3. Where `{name}` and `{name}:verb` end two routes that fit, the one with the verb counts.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from ext_authz.action.by_resource import ByResource, Resources
from ext_authz.attributes.path import parse_target
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId

TargetT = TypeVar("TargetT")

_PARAMETER = re.compile(r"\{[a-z][a-z0-9_]*\}(:[A-Za-z][A-Za-z0-9_-]*)?")
_TAIL_SIGN = "**"
# The keys of branches for patterns: no segment of a request can hold a brace.
_ANY = "{}"
_VERB = "{}:"  # with the verb behind it
_TAIL = "{**}"
# A colon may come encoded, and some applications decode before they look for the verb.
_ENCODED_COLON = re.compile("%3a", re.IGNORECASE)


class RouteError(ValueError):
    """The text is no route."""


@dataclass(slots=True)
class _Node(Generic[TargetT]):
    branches: dict[str, "_Node[TargetT]"] = field(default_factory=dict)
    ends: ByResource[TargetT] = field(default_factory=ByResource)


class RouteTable(Generic[TargetT]):
    """Routes compiled to a tree with one level for the method and one for each segment."""

    __slots__ = ("_literal", "_root")

    def __init__(self) -> None:
        self._root: _Node[TargetT] = _Node()
        self._literal: dict[tuple[str, str], _Node[TargetT]] = {}  # routes without patterns

    def add(self, route: str, resources: Resources, target: TargetT) -> list[TargetT]:
        """Add `METHOD /path` and return the targets whose routes could fit the same request. Raises RouteError."""
        method, *steps = _steps(route)
        methods = self._root.branches
        node = methods.setdefault(method, _Node())
        rivals = [rival for other in _overlapping(node, steps) for rival in other.ends.sharing(resources)]
        for step in steps:
            node = node.branches.setdefault(step, _Node())
        node.ends.add(resources, target)
        if not any(step.startswith("{") for step in steps):
            self._literal[(method, "/" + "/".join(steps))] = node
        return list(dict.fromkeys(rivals))

    def find(self, method: str, path: str, resource: SpiffeId) -> TargetT | None:
        """Return the target of the one route that fits, or None."""
        literal = self._literal.get((method, path))
        if literal is not None and (target := literal.ends.find(resource)) is not None:
            return target
        root = self._root.branches.get(method)
        return _find(root, path, resource) if root is not None and path.startswith("/") else None


def _find(root: _Node[TargetT], path: str, resource: SpiffeId) -> TargetT | None:
    """Return the target of the route below `root` that fits, found one level at a time."""
    *inner, last = path.split("/")[1:]
    nodes = [root]
    tails: list[_Node[TargetT]] = []
    for step in inner:
        below = []
        for node in nodes:
            branches = node.branches
            if step in branches:
                below.append(branches[step])
            if step and _ANY in branches:
                below.append(branches[_ANY])
            if step and _TAIL in branches:
                tails.append(branches[_TAIL])
        if not below:
            return _target((), tails, resource)
        nodes = below
    if last:
        tails += [node.branches[_TAIL] for node in nodes if _TAIL in node.branches]
    return _target(_ends(nodes, last), tails, resource)


def _ends(nodes: Sequence[_Node[TargetT]], last: str) -> Iterator[_Node[TargetT]]:
    """Yield the branches that `last` may take, parameters without a verb behind the others: rule 3."""
    for key in (last, *_verbs(last)) if ":" in last or "%" in last else (last,):
        for node in nodes:
            if key in node.branches:
                yield node.branches[key]
    if last:
        for node in nodes:
            if _ANY in node.branches:
                yield node.branches[_ANY]


def _target(exact: Iterable[_Node[TargetT]], tails: Iterable[_Node[TargetT]], resource: SpiffeId) -> TargetT | None:
    for node in chain(exact, tails):
        target = node.ends.find(resource)
        if target is not None:
            return target
    return None


def _verbs(segment: str) -> tuple[str, ...]:
    """Return the key of the branch for segments that end as this one: none where nothing stands before the colon."""
    if "%" in segment:
        segment = _ENCODED_COLON.sub(":", segment)
    name, colon, verb = segment.rpartition(":")
    return (f"{_VERB}{verb}",) if colon and name else ()


def _overlapping(node: _Node[TargetT], steps: list[str]) -> Iterator[_Node[TargetT]]:
    """Yield the ends of all routes below `node` that could fit the same request as `steps`."""
    if not steps:
        yield node
        return
    step, rest = steps[0], steps[1:]
    if step and _TAIL in node.branches:
        yield node.branches[_TAIL]
    if step == _TAIL:
        for key, branch in node.branches.items():
            if key not in ("", _TAIL):
                yield from _all_below(branch)
        return
    for key in _meeting(node.branches, step, is_last=not rest):
        yield from _overlapping(node.branches[key], rest)


def _all_below(node: _Node[TargetT]) -> Iterator[_Node[TargetT]]:
    pending = [node]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node.branches.values())


def _meeting(branches: dict[str, _Node[TargetT]], step: str, *, is_last: bool) -> list[str]:
    """Return the keys of the branches that some segment could take together with `step`; `**` apart."""
    if step == _ANY:
        # At the end of both routes a verb counts before a parameter: rule 3.
        return [key for key in branches if key not in ("", _TAIL) and not (is_last and key.startswith(_VERB))]
    if step.startswith(_VERB):
        return [key for key in branches if key == step or step in _verbs(key)]
    keys = (step, *([_ANY] if step else []), *(_verbs(step) if is_last else ()))
    return [key for key in keys if key in branches]


def _steps(route: str) -> list[str]:
    method, _, path = route.partition(" ")
    if "?" in path:
        raise RouteError("a route has no query")
    *inner, last = path.split("/")
    segments = [*inner, "x" if last == _TAIL_SIGN else last]
    parameters = [_PARAMETER.fullmatch(segment) for segment in segments]
    literal = "/".join("x" if match else segment for segment, match in zip(segments, parameters, strict=True))
    if "{" in literal or "}" in literal or any(match and match[1] for match in parameters[:-1]):
        raise RouteError(
            "a parameter is one whole segment, a name in lower case: {id}; the last may have a verb: {id}:cancel"
        )
    if not {"*", _TAIL_SIGN}.isdisjoint(segments):
        raise RouteError(
            "`*` is no wildcard: write {name} for one segment, or `**` as the last segment for all that follow"
        )
    try:
        parse_target(literal)
    except Refusal as refusal:
        raise RouteError(f"no request can have this path: {refusal.detail}") from None
    steps = [
        segment if match is None else f"{_ANY}{match[1] or ''}"
        for segment, match in zip(segments, parameters, strict=True)
    ]
    if last == _TAIL_SIGN:
        steps[-1] = _TAIL
    return [method, *steps[1:]]
