"""What counts on some resources, or on all of them."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from ext_authz.identity.spiffe_id import SpiffeId

TargetT = TypeVar("TargetT")

# None: every resource.
Resources = frozenset[SpiffeId] | None


class ByResource(Generic[TargetT]):
    """Targets by the resources on which they count, found in time that does not grow with their number."""

    __slots__ = ("_targets",)

    def __init__(self) -> None:
        self._targets: dict[SpiffeId | None, list[TargetT]] = {}

    def add(self, resources: Resources, target: TargetT) -> None:
        """Let a target count on resources."""
        for resource in (None,) if resources is None else resources:
            self._targets.setdefault(resource, []).append(target)

    def sharing(self, resources: Resources) -> Iterator[TargetT]:
        """Yield the targets that count on some of these resources, one perhaps several times."""
        wanted = self._targets if resources is None else (None, *resources)
        for resource in wanted:
            yield from self._targets.get(resource, ())

    def find(self, resource: SpiffeId) -> TargetT | None:
        """Return the first target that counts on a resource."""
        targets = self._targets.get(resource) or self._targets.get(None)
        return targets[0] if targets else None


def share(one: Resources, other: Resources) -> bool:
    """Whether some resource is in both."""
    return one is None or other is None or not one.isdisjoint(other)
