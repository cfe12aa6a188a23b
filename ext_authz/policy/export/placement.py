"""Where workloads run in Kubernetes, as far as their SPIFFE IDs say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.export.model import ExportError

# The path that SPIRE's controller manager and Istio give: /ns/NAMESPACE/sa/SERVICE_ACCOUNT.
_PATH = re.compile(r"/ns/([^/]+)/sa/([^/]+)")
# RFC 1123 section 2.1, as Kubernetes wants the names of namespaces and the values of selectors here.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Place(NamedTuple):
    """A namespace and a service account in it."""

    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class Placement:
    """How SPIFFE IDs become pods. `namespace` is for IDs that name none: their last segment is the service account."""

    namespace: str | None = None
    label: str = "app.kubernetes.io/name"  # whose value on the pods is the service account's name

    def of(self, workloads: Iterable[SpiffeId]) -> dict[SpiffeId, Place]:
        """Return where workloads run. Raises ExportError with all that are nowhere."""
        places: dict[SpiffeId, Place] = {}
        problems = []
        for workload in workloads:
            place = self._place(workload)
            if isinstance(place, str):
                problems.append(f"`{workload}`: {place}")
            elif place in places.values():
                problems.append(f"`{workload}`: another workload of the policy runs in the same place")
            else:
                places[workload] = place
        if problems:
            raise ExportError(problems)
        return places

    def _place(self, workload: SpiffeId) -> Place | str:
        match = _PATH.fullmatch(workload.path)
        if match is None and self.namespace is None:
            return "its path is not /ns/NAMESPACE/sa/NAME: give the namespace with --namespace"
        place = Place(*match.groups()) if match else Place(self.namespace or "", workload.path.rpartition("/")[2])
        if not all(map(_LABEL.fullmatch, place)):
            return "namespace and name have lower-case letters, digits and dashes in Kubernetes, at most 63"
        return place

    def selector(self, place: Place) -> dict[str, dict[str, str]]:
        """Return the label selector of a workload's pods."""
        return {"matchLabels": {self.label: place.service_account}}
