"""Subjects with wildcards: a SPIFFE ID in which some whole segments of the path are `*`.

1. `*` stands for exactly one segment, whatever it is. No workload's own ID holds one, so a text with `*` is a pattern.
2. Patterns of one shape (number of segments, places of `*`) are told apart by a dictionary: an ID with `*` at those places is
   the key. So what fits is found in as many look-ups as there are shapes, however many patterns there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

WILDCARD = "*"
_ANY_SEGMENT = "a"  # stands in for a wildcard while the rest is checked: no longer than it


@dataclass(frozen=True, slots=True)
class SubjectPattern:
    """The workloads whose IDs differ at most where `*` stands here. Build it with `parse`."""

    uri: str
    trust_domain: str
    path: str  # with the leading slash

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE ID in which at least one whole segment is `*`. Raises SpiffeIdError."""
        parts = text.split("/")  # the scheme, nothing, the trust domain, and the segments
        literal = parts[:3] + [_ANY_SEGMENT if part == WILDCARD else part for part in parts[3:]]
        if any(WILDCARD in part for part in literal):
            raise SpiffeIdError("`*` stands for one whole segment of a path")
        if literal == parts:
            raise SpiffeIdError("a pattern has a segment that is `*`")
        checked = SpiffeId.parse_workload("/".join(literal))
        return cls(text, checked.trust_domain, "/" + "/".join(parts[3:]))

    def __str__(self) -> str:
        return self.uri


Subject = SpiffeId | SubjectPattern


class Shape(NamedTuple):
    """Where the wildcards of a pattern stand. In order: fewer of them first, then those further left."""

    wildcards: int
    places: tuple[int, ...]  # among the parts of the URI between slashes
    length: int  # parts in all

    @classmethod
    def of(cls, pattern: str) -> Self:
        """Return the shape of a pattern's URI."""
        parts = pattern.split("/")
        places = tuple(place for place, part in enumerate(parts) if part == WILDCARD)
        return cls(len(places), places, len(parts))


@dataclass(frozen=True, slots=True)
class Patterns:
    """The URIs of patterns, to be found by what fits them."""

    uris: frozenset[str] = frozenset()
    shapes: tuple[Shape, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(sorted(set(map(Shape.of, self.uris)))))

    @classmethod
    def among(cls, subjects: Iterable[str]) -> Self:
        """Return the patterns that are among these URIs."""
        return cls(frozenset(subject for subject in subjects if WILDCARD in subject))

    def covering(self, subject: str) -> list[str]:
        """Return the patterns that stand for a workload, or for all that another one does, without itself; by their shapes."""
        parts = subject.split("/")
        found = []
        for _, places, length in self.shapes:
            if length == len(parts):
                masked = parts.copy()
                for place in places:
                    masked[place] = WILDCARD
                pattern = "/".join(masked)
                if pattern in self.uris and pattern != subject:
                    found.append(pattern)
        return found


def covers(one: str, other: str) -> bool:
    """Whether a subject stands for every workload that another stands for. Both are URIs."""
    if WILDCARD not in one:
        return one == other
    pairs = _paired(one, other)
    return bool(pairs) and all(left in (WILDCARD, right) for left, right in pairs)


def meet(one: str, other: str) -> str | None:
    """Return the subject that stands for the workloads which both stand for; None where there are none. All are URIs."""
    if WILDCARD not in one and WILDCARD not in other:
        return one if one == other else None
    pairs = _paired(one, other)
    if not pairs or any(left != right and WILDCARD not in (left, right) for left, right in pairs):
        return None
    return "/".join(right if left == WILDCARD else left for left, right in pairs)


def _paired(one: str, other: str) -> list[tuple[str, str]]:
    left, right = one.split("/"), other.split("/")
    return list(zip(left, right, strict=True)) if len(left) == len(right) else []
