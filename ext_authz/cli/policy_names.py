"""Names of workloads and actions on the command line: what the policy does not know is a slip, never an empty answer."""

from collections.abc import Collection

from ext_authz.documents.problems import suggestion
from ext_authz.errors import ConfigurationError
from ext_authz.identity.names import Names
from ext_authz.identity.patterns import covers
from ext_authz.identity.spiffe_id import SpiffeIdError


def chosen_workload(option: str, name: str | None, names: Names, known: Collection[str]) -> str | None:
    """Return the SPIFFE ID or pattern that a name means, None for none. Raises ConfigurationError.

    `known` are SPIFFE IDs and patterns; what fits one of these is known too.
    """
    if name is None:
        return None
    try:
        uri = names.resolve_subject(name).uri
    except SpiffeIdError as error:
        raise ConfigurationError([f"{option}: `{name}` names no workload: {error}"]) from None
    if uri not in known and not any(covers(each, uri) for each in known):
        near = suggestion(name, map(names.name_of, known))
        raise ConfigurationError([f"{option}: the policy has nothing about `{name}`{near}"])
    return uri


def chosen_action(option: str, name: str | None, known: Collection[str]) -> None:
    """Check that an action is registered. Raises ConfigurationError."""
    if name is not None and name not in known:
        raise ConfigurationError([f"{option}: unknown action `{name}`{suggestion(name, known)}"])
