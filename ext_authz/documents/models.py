"""The kinds of policy document of this release, as authors write them.

1. A key or kind that a model does not name is an error, also one that a later release will know.
2. Models check shape; what names mean is checked where they are compiled.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

# An action's name, as it stands in matrices, headers and audit records. 64 characters, as DNS labels have.
ACTION_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
# The same, or "*": every action.
DENIED_ACTION_PATTERN = r"^(?:[a-z0-9][a-z0-9._-]{0,63}|\*)$"
# "METHOD /path": split when it is compiled.
HTTP_ROUTE_PATTERN = r"^[A-Z]{1,20} /[^ ]*$"

# A name as section "Names" of the policy reference defines it: plain, path, or SPIFFE ID.
Name = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
ActionName = Annotated[str, StringConstraints(pattern=ACTION_NAME_PATTERN)]
DeniedAction = Annotated[str, StringConstraints(pattern=DENIED_ACTION_PATTERN)]
HttpRoute = Annotated[str, StringConstraints(pattern=HTTP_ROUTE_PATTERN, max_length=2048)]


class Model(BaseModel):
    """Strict and frozen: nothing is converted, nothing unknown is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cell(Model):
    """What one subject may ask of one resource."""

    actions: Annotated[list[ActionName], Field(min_length=1)]


def _long_form(cell: Any) -> Any:
    """Turn the short form `[read, write]` into the long one."""
    return {"actions": cell} if isinstance(cell, list) else cell


class DenyRule(Model):
    """A call that no grant can allow."""

    subject: Name
    resource: Name
    action: DeniedAction
    because: Annotated[str, StringConstraints(max_length=500)] = ""


class PermissionMatrix(Model):
    """Who may ask whom to do what; nothing else is allowed."""

    kind: Literal["PermissionMatrix"]
    version: Literal[1] = 1
    trust_domain: str | None = None
    id_path: str | None = None
    groups: dict[str, list[Name]] = {}
    matrix: dict[Name, dict[Name, Annotated[Cell, BeforeValidator(_long_form)]]] = {}
    deny: list[DenyRule] = []


class ActionEntry(Model):
    """How a request is recognised as an action."""

    http: list[HttpRoute] = []
    asserted: bool = False  # x-agent-action may name it where no route fits
    resources: Annotated[list[Name], Field(min_length=1)] | None = None  # absent: on every resource
    screen: Literal["body", "headers"] = "body"  # "headers": the body is not read, as for uploads and streams


class ActionRegistry(Model):
    """The canonical actions; what is not registered is denied."""

    kind: Literal["ActionRegistry"]
    version: Literal[1] = 1
    actions: Annotated[dict[ActionName, ActionEntry], Field(min_length=1)]


PolicyModel = PermissionMatrix | ActionRegistry

POLICY_KINDS: dict[str, type[PermissionMatrix] | type[ActionRegistry]] = {
    "PermissionMatrix": PermissionMatrix,
    "ActionRegistry": ActionRegistry,
}

# Kinds and keys of later releases. Writing one now is an error that says so, not a typing mistake.
PLANNED_KINDS = frozenset(
    {
        "Delegation",
        "EgressAllowlist",
        "IdentityProviders",
        "InjectionGuard",
        "Limits",
        "TestSuite",
        "TimeWindows",
        "TrustDomains",
    }
)
PLANNED_KEYS = frozenset(
    {
        *("access_token", "delegation", "during", "max_hops", "not_during", "rate", "scopes", "when"),  # of a cell
        *("invariants", "mode"),  # of a document
        *("a2a", "budget", "endpoints", "grpc", "mcp", "presets", "scope"),  # of an ActionRegistry
    }
)
