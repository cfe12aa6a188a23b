"""`ext-authz policy export`: a policy in the languages of others."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.documents.loader import load_policy
from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeIdError
from ext_authz.policy.compile import Policy, compile_policy
from ext_authz.policy.export.envoy_rbac import to_envoy_rbac
from ext_authz.policy.export.istio import to_istio
from ext_authz.policy.export.kubernetes import to_cilium, to_cluster_spiffe_ids, to_network_policies
from ext_authz.policy.export.model import Calls, Exported, ExportError, calls_of
from ext_authz.policy.export.placement import Placement
from ext_authz.policy.export.rego import to_rego


class Format(StrEnum):
    """What a policy can be exported to."""

    REGO = "rego"
    ISTIO = "istio"
    ENVOY_RBAC = "envoy-rbac"
    NETWORK_POLICY = "network-policy"
    CILIUM = "cilium"
    SPIRE = "spire"


def export(
    format_: Annotated[
        Format, typer.Argument(metavar="FORMAT", help="rego, istio, envoy-rbac, network-policy, cilium or spire.")
    ],
    directory: Annotated[Path, typer.Argument(help="Directory of policy documents.")],
    *,
    resource: Annotated[
        str | None, typer.Option(metavar="NAME", help="envoy-rbac: whose inbound sidecar the filters are for.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Namespace of workloads whose SPIFFE ID names none.")
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="KEY", help="Label of pods whose value is their service account's name.")
    ] = "app.kubernetes.io/name",
    port: Annotated[int, typer.Option(help="Port of the inbound sidecars.", min=1, max=65535)] = 8443,
    class_name: Annotated[
        str, typer.Option(metavar="NAME", help="spire: class of the controller manager, NAMESPACE-RELEASE.")
    ] = "spire-mgmt-spire",
    container: Annotated[str, typer.Option(metavar="NAME", help="spire: container that gets the SVID.")] = "envoy",
) -> None:
    """Print a policy as Rego, Istio policies, Envoy RBAC filters, network policies, or SPIRE registrations.

    Example: ext-authz policy export rego policies/default

    Example: ext-authz policy export envoy-rbac policies/default --resource database-agent

    Example: ext-authz policy export istio policies/default --namespace agents

    What the format cannot say stands in comments at the top that begin with NOT EXPRESSED, and their number on standard
    error. Exits with 1 when the policy cannot be said in that format at all.
    """
    with exit_on_configuration_error():
        documents = load_policy(directory)
        policy = compile_policy(documents)
        calls, placement = calls_of(documents, policy), Placement(namespace, label)
        try:
            exported = _exported(format_, policy, calls, placement, (resource, port, class_name, container))
        except ExportError as error:
            for problem in error.problems:
                typer.echo(problem, err=True)
            raise typer.Exit(NO) from None
    typer.echo(exported.text, nl=False)
    if exported.notes:
        typer.echo(f"{len(exported.notes)} not expressed: see the comments at the top", err=True)


def _exported(
    format_: Format, policy: Policy, calls: Calls, placement: Placement, flags: tuple[str | None, int, str, str]
) -> Exported:
    resource, port, class_name, container = flags
    match format_:
        case Format.REGO:
            return to_rego(policy)
        case Format.ISTIO:
            return to_istio(calls, placement)
        case Format.ENVOY_RBAC:
            if resource is None:
                raise ConfigurationError(["--resource: name the workload whose sidecar the filters are for"])
            try:
                return to_envoy_rbac(calls, policy.names.resolve(resource))
            except SpiffeIdError as error:
                raise ConfigurationError([f"--resource: `{resource}` names no workload: {error}"]) from None
        case Format.NETWORK_POLICY:
            return to_network_policies(calls, placement, port)
        case Format.CILIUM:
            return to_cilium(calls, placement, port)
        case Format.SPIRE:
            return to_cluster_spiffe_ids(calls, placement, class_name, container)
