"""Paths to routes: which segments are names and which are values.

1. A segment that looks like an identifier is a value.
2. So is one that takes more than MAX_NAMES forms where everything before it is the same.
3. The same observations give the same routes, in whatever order they came.
4. Routes that one request could fit belong to one action.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# Different names that one place of a path has in an API that people wrote.
MAX_NAMES = 12

# Characters of an action's name.
MAX_NAME_CHARACTERS = 64

VALUE = "{}"
TAIL = "**"  # at the end of a registered route: one segment or more
# Numbers; UUIDs; long hexadecimal; and what is long and has digits among its letters, as generated names have.
_IDENTIFIER = re.compile(
    r"[0-9]+|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=.*[0-9])[0-9a-fA-F]{8,}|(?=.*[0-9])[A-Za-z0-9_-]{16,}"
)

Segments = tuple[str, ...]


class Seen(NamedTuple):
    """A request that no route of a policy fits, and the name that a decision gave it, if there was one."""

    method: str
    path: str
    name: str


def new_actions(
    requests: Iterable[tuple[str, str, str]], entries: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return action and route for requests of method, path and name, in their order.

    `entries` are the registered actions: no new action takes the name of one, and no new route fits a request of one.
    """
    seen = [Seen(*request) for request in requests]
    taken = [_steps(route) for entry in entries.values() for route in entry.get("http", ())]
    taken += [_steps(f"POST /{method}") for entry in entries.values() for method in entry.get("grpc", ())]
    found = templates(each.path for each in seen)
    steps = [_clear_of(taken, (each.method, *found[each.path]), each) for each in seen]
    first = _first_of_overlapping(steps)
    return [
        (each.name or _new_name(first[own], entries), route_of(own[0], own[1:]))
        for each, own in zip(seen, steps, strict=True)
    ]


def templates(paths: Iterable[str]) -> dict[str, Segments]:
    """Return for each path its segments, with VALUE in place of values."""
    without = {path: _without_identifiers(path) for path in set(paths)}
    crowded = _crowded(without.values())
    return {path: tuple(_generalised(segments, crowded)) for path, segments in without.items()}


def route_of(method: str, segments: Segments) -> str:
    """Write segments as a route: values become parameters that are named after what stands before them."""
    written: list[str] = []
    used: set[str] = set()
    for index, segment in enumerate(segments):
        if segment != VALUE:
            written.append(segment)
            continue
        name = _parameter(segments[index - 1] if index else "")
        while name in used:
            name += "_"
        used.add(name)
        written.append(f"{{{name}}}")
    return f"{method} /{'/'.join(written)}"


def _new_name(steps: Segments, entries: Mapping[str, object]) -> str:
    """Name an action after the words of its path and its method: records.id.get."""
    method, *segments = steps
    words = ["id" if each == VALUE else re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-") for each in segments]
    name = ".".join([*(word for word in words if word), method.lower()])[-MAX_NAME_CHARACTERS:].lstrip("._-")
    while name in entries:
        name = f"new.{name}"[:MAX_NAME_CHARACTERS]
    return name


def _steps(route: str) -> Segments:
    """Read a route back: its method and its segments."""
    method, _, path = route.partition(" ")
    return method, *(VALUE if each.startswith("{") else each for each in path.split("/")[1:])


def _clear_of(taken: Iterable[Segments], steps: Segments, seen: Seen) -> Segments:
    """Return the steps of a new route, or those of the path itself where the route would fit requests of another action."""
    return _steps(f"{seen.method} {seen.path}") if any(_overlap(steps, other) for other in taken) else steps


def _first_of_overlapping(found: Iterable[Segments]) -> dict[Segments, Segments]:
    """Return for each route the most general one that it overlaps with: two actions must not fit one request."""
    groups: list[list[Segments]] = []
    for steps in sorted(set(found), key=lambda each: (-each.count(VALUE), each)):
        joined = [group for group in groups if any(_overlap(steps, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(each for group in joined for each in group), steps])
    return {steps: min(group, key=lambda each: (-each.count(VALUE), each)) for group in groups for steps in group}


def _overlap(one: Segments, other: Segments) -> bool:
    """Whether one request can fit both."""
    if other[-1] == TAIL:
        return len(one) >= len(other) and _overlap(one[: len(other) - 1], other[:-1])
    return len(one) == len(other) and all(
        left == right or (VALUE in (left, right) and bool(left) and bool(right))
        for left, right in zip(one, other, strict=True)
    )


def _without_identifiers(path: str) -> Segments:
    return tuple(VALUE if _IDENTIFIER.fullmatch(each) else each for each in path.split("/")[1:])


def _crowded(paths: Iterable[Segments]) -> set[Segments]:
    """Return the beginnings behind which too many different names stand."""
    following: dict[Segments, set[str]] = {}
    for segments in paths:
        for index, segment in enumerate(segments):
            following.setdefault(segments[:index], set()).add(segment)
    return {beginning for beginning, names in following.items() if len(names - {VALUE, ""}) > MAX_NAMES}


def _generalised(segments: Segments, crowded: set[Segments]) -> Iterator[str]:
    for index, segment in enumerate(segments):
        yield VALUE if segment and segments[:index] in crowded else segment


def _parameter(before: str) -> str:
    """Name a parameter after the segment before it: records/{record}."""
    word = re.sub(r"[^a-z0-9]+", "_", before.lower()).strip("_").removesuffix("s")
    return word if re.fullmatch(r"[a-z][a-z0-9_]*", word) else "id"
