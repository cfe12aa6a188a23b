"""The names of workloads that stand in a policy, as they are written: who else is named in a test is a mistake, or a stranger."""

from collections.abc import Iterator

from ext_authz.documents.loader import PolicyDocuments
from ext_authz.documents.models import ActionRegistry, Delegation, IdentityProviders, PermissionMatrix


def names_written(documents: PolicyDocuments) -> Iterator[str]:
    """Yield the names, groups among them, some more than once."""
    for matrix in documents.of(PermissionMatrix):
        yield from _of_matrix(matrix.model)
    for registry in documents.of(ActionRegistry):
        for entry in registry.model.actions.values():
            yield from entry.resources or ()
    for delegation in documents.of(Delegation):
        yield from (issuer.id for issuer in delegation.model.root_issuers)
        yield from delegation.model.minters
    for providers in documents.of(IdentityProviders):
        for provider in providers.model.providers:
            yield from (name for names in (provider.clients or {}).values() for name in names)


def _of_matrix(matrix: PermissionMatrix) -> Iterator[str]:
    for members in matrix.groups.values():
        yield from members
    for subject, row in matrix.matrix.items():
        yield subject
        yield from row
    for denial in matrix.deny:
        yield from (denial.subject, denial.resource)
    for invariant in matrix.invariants:
        yield from (invariant.from_, invariant.must_not_reach)
