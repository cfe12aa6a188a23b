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


# A scope of a delegation chain: what `tokens/claims.py` reads.
SCOPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
# A span of time: 30m, 90s, 1h.
DURATION_PATTERN = r"^[1-9][0-9]{0,5}[smh]$"
# So many calls a second, minute or hour: 10/min.
RATE_PATTERN = r"^[1-9][0-9]{0,5}/(?:s|min|h)$"
# On whose behalf an issuer may start chains: a whole `sub`, or its beginning and a star.
SUBJECTS_PATTERN = r"^[!-)+-~]*\*?$"

Scope = Annotated[str, StringConstraints(pattern=SCOPE_PATTERN)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN)]
RateText = Annotated[str, StringConstraints(pattern=RATE_PATTERN)]
DelegationMode = Literal["required", "optional", "forbidden"]


class Model(BaseModel):
    """Strict and frozen: nothing is converted, nothing unknown is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cell(Model):
    """What one subject may ask of one resource."""

    actions: Annotated[list[ActionName], Field(min_length=1)]
    delegation: DelegationMode | None = None  # absent: what the Delegation document says
    scopes: list[Scope] = []  # needed in the chain beside the action's own
    max_hops: Annotated[int, Field(ge=1, le=6)] | None = None  # workload-to-workload calls in the chain
    rate: RateText | None = None  # of each subject; absent: no limit


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
    scope: Scope | None = None  # needed in a delegation chain; absent: the action's name
    screen: Literal["body", "headers"] = "body"  # "headers": the body is not read, as for uploads and streams


class ActionRegistry(Model):
    """The canonical actions; what is not registered is denied."""

    kind: Literal["ActionRegistry"]
    version: Literal[1] = 1
    actions: Annotated[dict[ActionName, ActionEntry], Field(min_length=1)]


class RootIssuer(Model):
    """Who may start delegation chains, and for whom and what."""

    id: Name
    subjects: Annotated[str, StringConstraints(pattern=SUBJECTS_PATTERN, min_length=1, max_length=256)] = "*"
    scopes: Annotated[list[Scope], Field(min_length=1)] | None = None  # absent: any


def _long_issuer(issuer: Any) -> Any:
    """Turn the short form `platform/sts` into the long one."""
    return {"id": issuer} if isinstance(issuer, str) else issuer


class Delegation(Model):
    """Whose delegation chains count."""

    kind: Literal["Delegation"]
    version: Literal[1] = 1
    root_issuers: Annotated[list[Annotated[RootIssuer, BeforeValidator(_long_issuer)]], Field(min_length=1)]
    minters: list[Name] = []  # may sign links for others
    required: bool = True  # unless a cell says otherwise
    max_ttl: Duration = "30m"
    max_depth: Annotated[int, Field(ge=0, le=5)] = 5
    keys: dict[Name, str] = {}  # issuer -> JWK set, a file beside the documents
    bundles: dict[str, str] = {}  # trust domain -> PEM certificates, a file beside the documents or an absolute path


class Limits(Model):
    """How often callers may call."""

    kind: Literal["Limits"]
    version: Literal[1] = 1
    callers: dict[Name, RateText] = {}  # allowed calls of each; `default` for those without a line
    unknown_callers: RateText | None = None  # requests of each caller without any grant
    failed_verifications: RateText | None = None  # tokens of each caller that did not hold


PolicyModel = PermissionMatrix | ActionRegistry | Delegation | Limits

POLICY_KINDS: dict[str, type[PolicyModel]] = {
    "Delegation": Delegation,
    "Limits": Limits,
    "PermissionMatrix": PermissionMatrix,
    "ActionRegistry": ActionRegistry,
}

# Kinds and keys of later releases. Writing one now is an error that says so, not a typing mistake.
PLANNED_KINDS = frozenset(
    {
        "EgressAllowlist",
        "IdentityProviders",
        "InjectionGuard",
        "TestSuite",
        "TimeWindows",
        "TrustDomains",
    }
)
PLANNED_KEYS = frozenset(
    {
        *("access_token", "during", "not_during", "when"),  # of a cell
        *("invariants", "mode"),  # of a document
        *("a2a", "budget", "endpoints", "grpc", "mcp", "presets"),  # of an ActionRegistry
    }
)
