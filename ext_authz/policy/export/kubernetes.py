"""The matrix as objects that know pods and ports alone: NetworkPolicies, CiliumNetworkPolicies, and who gets which SVID.

1. These tell who may connect to whom, never what they may ask: the actions of a call are ext_authz's.
2. A cell whose subject has wildcards is an error: nobody can say here which pods that is. A deny rule with wildcards has already
   taken back what it covers.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from ext_authz.identity.patterns import SubjectPattern
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.export.model import Calls, Exported, ExportError, by_name, with_comments
from ext_authz.policy.export.placement import Place, Placement

# Set by Kubernetes on every namespace.
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_CILIUM_NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"
_ONLY_WHO = "which actions a caller may ask for, and under which conditions: ext_authz checks them"

_Edges = Mapping[SpiffeId, list[SpiffeId]]


def to_network_policies(calls: Calls, placement: Placement, port: int) -> Exported:
    """Return one NetworkPolicy for each workload: only those that may call it reach its sidecar, and only there."""
    _check_subjects(calls)
    places = placement.of(calls.workloads)

    def policy(place: Place, callers: list[Place]) -> dict[str, Any]:
        peers = [
            {
                "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: caller.namespace}},
                "podSelector": placement.selector(caller),
            }
            for caller in callers
        ]
        rules = [{"from": peers, "ports": [{"protocol": "TCP", "port": port}]}] if peers else []
        spec = {"podSelector": placement.selector(place), "policyTypes": ["Ingress"], "ingress": rules}
        return _object("networking.k8s.io/v1", "NetworkPolicy", place, spec)

    documents = [
        policy(places[each], [places[caller] for caller in callers]) for each, callers in _edges(calls).items()
    ]
    return _exported(documents, "NetworkPolicies: ingress to every workload of the matrix.")


def to_cilium(calls: Calls, placement: Placement, port: int) -> Exported:
    """Return one CiliumNetworkPolicy for each workload, layers 3 and 4: between sidecars Cilium sees ciphertext."""
    _check_subjects(calls)
    places = placement.of(calls.workloads)

    def policy(place: Place, callers: list[Place]) -> dict[str, Any]:
        peers = [
            {"matchLabels": {_CILIUM_NAMESPACE_LABEL: caller.namespace, **placement.selector(caller)["matchLabels"]}}
            for caller in callers
        ]
        ports = [{"ports": [{"port": str(port), "protocol": "TCP"}]}]
        # An ingress section with one empty rule selects nobody and still turns default deny on.
        rules: list[dict[str, Any]] = [{"fromEndpoints": peers, "toPorts": ports}] if peers else [{}]
        return _object(
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            place,
            {"endpointSelector": placement.selector(place), "ingress": rules},
        )

    documents = [
        policy(places[each], [places[caller] for caller in callers]) for each, callers in _edges(calls).items()
    ]
    return _exported(documents, "CiliumNetworkPolicies: ingress to every workload of the matrix, layers 3 and 4.")


def to_cluster_spiffe_ids(calls: Calls, placement: Placement, class_name: str, container: str) -> Exported:
    """Return one ClusterSPIFFEID for each workload; only the sidecar's container gets the SVID."""
    _check_subjects(calls)
    places = placement.of(calls.workloads)
    documents = [
        {
            "apiVersion": "spire.spiffe.io/v1alpha1",
            "kind": "ClusterSPIFFEID",
            "metadata": {"name": f"{place.namespace}-{place.service_account}"},
            "spec": {
                "className": class_name,
                "spiffeIDTemplate": workload.uri,
                "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: place.namespace}},
                "podSelector": placement.selector(place),
                "workloadSelectorTemplates": [
                    f"k8s:ns:{place.namespace}",
                    f"k8s:sa:{place.service_account}",
                    f"k8s:container-name:{container}",
                ],
            },
        }
        for workload, place in places.items()
    ]
    return _exported(documents, "ClusterSPIFFEIDs: the identity of every workload of the matrix.", ())


def _check_subjects(calls: Calls) -> None:
    """Raise ExportError with every permission whose subject has wildcards."""
    problems = [
        f"{call.name}: `{call.subject}` stands for workloads that are written nowhere, and which pods these are is not known here"
        for call in calls.permissions
        if isinstance(call.subject, SubjectPattern)
    ]
    if problems:
        raise ExportError(problems)


def _edges(calls: Calls) -> _Edges:
    """Return for every workload who may call it with at least one action."""
    callers: dict[SpiffeId, set[SpiffeId]] = {workload: set() for workload in calls.workloads}
    for call in calls.permissions:
        if isinstance(call.subject, SpiffeId):
            callers[call.resource].add(call.subject)
    return {workload: by_name(found) for workload, found in callers.items()}


def _object(api_version: str, kind: str, place: Place, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": f"ext-authz-{place.service_account}", "namespace": place.namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def _exported(documents: list[dict[str, Any]], title: str, notes: tuple[str, ...] = (_ONLY_WHO,)) -> Exported:
    return Exported(with_comments([yaml.safe_dump_all(documents, sort_keys=False)], title, notes), notes)
