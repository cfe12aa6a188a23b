"""HTTP routes: a method and a path pattern, matched in time that does not grow with the number of routes.

1. `{name}` stands for exactly one segment; everything else is compared byte for byte.
2. Two routes that fit one request on one resource are an error when they belong to different actions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ext_authz.attributes.path import parse_target
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId

TargetT = TypeVar("TargetT")

# None: every resource.
Resources = frozenset[SpiffeId] | None

_PARAMETER = re.compile(r"\{[a-z][a-z0-9_]*\}")
_ANY = "{}"  # the key of a parameter's branch: no literal segment can hold a brace


class RouteError(ValueError):
    """The text is no route."""


@dataclass(slots=True)
class _Node(Generic[TargetT]):
    branches: dict[str, "_Node[TargetT]"] = field(default_factory=dict)
    ends: list[tuple[Resources, TargetT]] = field(default_factory=list)


class RouteTable(Generic[TargetT]):
    """Routes compiled to a tree with one level for the method and one for each segment."""

    __slots__ = ("_literal", "_root")

    def __init__(self) -> None:
        self._root: _Node[TargetT] = _Node()
        self._literal: dict[tuple[str, str], list[tuple[Resources, TargetT]]] = {}  # routes without parameters

    def add(self, route: str, resources: Resources, target: TargetT) -> list[TargetT]:
        """Add `METHOD /path` and return the targets whose routes could fit the same request. Raises RouteError."""
        steps = _steps(route)
        rivals = [rival for others, rival in self._overlapping(self._root, steps) if _share(resources, others)]
        node = self._root
        for step in steps:
            node = node.branches.setdefault(step, _Node())
        node.ends.append((resources, target))
        if _ANY not in steps:
            self._literal[(steps[0], "/" + "/".join(steps[1:]))] = node.ends
        return rivals

    def find(self, method: str, path: str, resource: SpiffeId) -> TargetT | None:
        """Return the target of the one route that fits, or None."""
        for resources, target in self._literal.get((method, path), ()):
            if resources is None or resource in resources:
                return target
        return self._find_in_tree(method, path, resource)

    def _find_in_tree(self, method: str, path: str, resource: SpiffeId) -> TargetT | None:
        nodes = [self._root]
        for step in (method, *path.split("/")[1:]):
            nodes = [
                node.branches[key]
                for node in nodes
                for key in ((step, _ANY) if step and node is not self._root else (step,))
                if key in node.branches
            ]
        for node in nodes:
            for resources, target in node.ends:
                if resources is None or resource in resources:
                    return target
        return None

    def _overlapping(self, node: _Node[TargetT], steps: list[str]) -> Iterator[tuple[Resources, TargetT]]:
        if not steps:
            yield from node.ends
            return
        step, *rest = steps
        for key, branch in node.branches.items():
            if step == key or (node is not self._root and step and key and _ANY in (step, key)):
                yield from self._overlapping(branch, rest)


def _steps(route: str) -> list[str]:
    method, _, path = route.partition(" ")
    if "?" in path:
        raise RouteError("a route has no query")
    segments = path.split("/")
    parameters = [_PARAMETER.fullmatch(segment) is not None for segment in segments]
    literal = "/".join("x" if parameter else segment for segment, parameter in zip(segments, parameters, strict=True))
    if "{" in literal or "}" in literal:
        raise RouteError("a parameter is one whole segment, a name in lower case: {id}")
    if not {"*", "**"}.isdisjoint(segments):
        raise RouteError("`*` is no wildcard: write {name}, which stands for one segment")
    try:
        parse_target(literal)
    except Refusal as refusal:
        raise RouteError(f"no request can have this path: {refusal.detail}") from None
    return [
        method,
        *(_ANY if parameter else segment for segment, parameter in zip(segments[1:], parameters[1:], strict=True)),
    ]


def _share(one: Resources, other: Resources) -> bool:
    return one is None or other is None or not one.isdisjoint(other)
