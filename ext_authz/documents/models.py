"""The kinds of policy document of this release, as authors write them.

1. A key or kind that a model does not name is an error, also one that a later release will know.
2. Models check shape; what names mean is checked where they are compiled.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

# An action's name, as it stands in matrices, headers and audit records. 64 characters, as DNS labels have.
ACTION_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
# The same, or "*": every action.
DENIED_ACTION_PATTERN = r"^(?:[a-z0-9][a-z0-9._-]{0,63}|\*)$"
# "METHOD /path": split when it is compiled.
HTTP_ROUTE_PATTERN = r"^[A-Z]{1,20} /[^ ]*$"

# A name as section "Names" of the policy reference defines it: plain, path, or SPIFFE ID.
Name = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
ActionName = Annotated[str, StringConstraints(pattern=ACTION_NAME_PATTERN)]
Actions = Annotated[list[ActionName], Field(min_length=1)]
DeniedAction = Annotated[str, StringConstraints(pattern=DENIED_ACTION_PATTERN)]
HttpRoute = Annotated[str, StringConstraints(pattern=HTTP_ROUTE_PATTERN, max_length=2048)]


# A tool of MCP: what its specification recommends (2025-11-25, "Tool Names"), and what servers use beyond it.
TOOL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,127}$"
# A JSON-RPC method, as MCP and A2A write theirs.
RPC_METHOD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_./$-]{0,127}$"
# "package.Service/Method" of gRPC.
GRPC_METHOD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*$"
# Where JSON-RPC is spoken.
ENDPOINT_PATTERN = r"^POST /[^ ]*$"
# What the paths of A2A's HTTP+JSON binding begin with.
BASE_PATH_PATTERN = r"^/[^ ]*$"

# Registries of this package, by the names of their files in `presets`.
Preset = Literal["openai", "mcp", "a2a", "agent-protocol", "vector-stores"]
Tool = Annotated[str, StringConstraints(pattern=TOOL_PATTERN)]
RpcMethod = Annotated[str, StringConstraints(pattern=RPC_METHOD_PATTERN)]
GrpcMethod = Annotated[str, StringConstraints(pattern=GRPC_METHOD_PATTERN, max_length=512)]
EndpointRoute = Annotated[str, StringConstraints(pattern=ENDPOINT_PATTERN, max_length=2048)]
BasePath = Annotated[str, StringConstraints(pattern=BASE_PATH_PATTERN, max_length=2048)]

# A scope of a delegation chain: what `tokens/claims.py` reads.
SCOPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
# A span of time: 30m, 90s, 1h.
DURATION_PATTERN = r"^[1-9][0-9]{0,5}[smh]$"
# So many calls a second, minute or hour: 10/min.
RATE_PATTERN = r"^[1-9][0-9]{0,5}/(?:s|min|h)$"
# On whose behalf an issuer may start chains: a whole `sub`, or its beginning and a star.
SUBJECTS_PATTERN = r"^[!-)+-~]*\*?$"

# RFC 9110 section 5.6.2: a token. RFC 3339 section 5.6: date-time.
METHOD_PATTERN = r"^[A-Z]{1,20}$"
HEADER_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"
MOMENT_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)$"

Scope = Annotated[str, StringConstraints(pattern=SCOPE_PATTERN)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN)]
RateText = Annotated[str, StringConstraints(pattern=RATE_PATTERN)]
DelegationMode = Literal["required", "optional", "forbidden"]
AccessTokenMode = Literal["required", "optional", "forbidden"]

# An issuer of access tokens, compared letter by letter: OpenID Connect Discovery 1.0 section 3 knows no query and no fragment.
ISSUER_PATTERN = r"^https?://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?$"
# For whom a token of an issuer counts: `{sub}` once, and what makes it one of this issuer's.
ON_BEHALF_OF_PATTERN = r"^[!-z|~]{0,64}\{sub\}[!-z|~]{0,64}$"
# A scope as an issuer names it (RFC 6749 section 3.3).
FOREIGN_SCOPE_PATTERN = r"^[!#-\[\]-~]{1,255}$"
# An audience or a client: what a URL, an id or a name can be.
OAUTH_NAME_PATTERN = r"^[!-~](?:[ -~]{0,253}[!-~])?$"

IssuerUrl = Annotated[str, StringConstraints(pattern=ISSUER_PATTERN, max_length=1024)]
ForeignScope = Annotated[str, StringConstraints(pattern=FOREIGN_SCOPE_PATTERN)]
OAuthName = Annotated[str, StringConstraints(pattern=OAUTH_NAME_PATTERN)]

# A window's name: as an action's.
WINDOW_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
# The clock on the wall, in 24 hours; a window may end at 24:00 but not begin there.
START_PATTERN = r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$"
END_PATTERN = r"^(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"

# A condition in CEL: characters. Longer ones are not understood by those who review them.
MAX_EXPRESSION_CHARACTERS = 1024
Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]

WindowName = Annotated[str, StringConstraints(pattern=WINDOW_NAME_PATTERN)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Model(BaseModel):
    """Strict and frozen: nothing is converted, nothing unknown is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cell(Model):
    """What one subject may ask of one resource."""

    actions: Actions
    delegation: DelegationMode | None = None  # absent: what the Delegation document says
    scopes: list[Scope] = []  # needed in chain and access token beside the action's own
    max_hops: Annotated[int, Field(ge=1, le=6)] | None = None  # workload-to-workload calls in the chain
    during: Annotated[list[WindowName], Field(min_length=1)] | None = None  # at least one of these windows is open
    not_during: Annotated[list[WindowName], Field(min_length=1)] | None = None  # none of these is
    access_token: AccessTokenMode | None = None  # absent: what the action says
    rate: RateText | None = None  # of each subject; absent: no limit
    when: Expression | None = None  # and this is true


# Short cells with at most so many actions are made once for all places where they stand: a large matrix says the same few
# lists again and again.
SHARED_CELL_ACTIONS = 16


@lru_cache(maxsize=1024)
def _short_cell(actions: tuple[str, ...]) -> Cell:
    return Cell(actions=list(actions))


def _long_form(cell: Any) -> Any:
    """Turn the short form `[read, write]` into the long one."""
    if not isinstance(cell, list):
        return cell
    if len(cell) <= SHARED_CELL_ACTIONS and all(isinstance(action, str) for action in cell):
        try:
            return _short_cell(tuple(cell))
        except ValidationError:
            pass  # told with its place by whoever validates the long form
    return {"actions": cell}


class DenyRule(Model):
    """A call that no grant can allow."""

    subject: Name
    resource: Name
    action: DeniedAction
    when: Expression | None = None  # absent: always
    because: Annotated[str, StringConstraints(max_length=500)] = ""


class Invariant(Model):
    """A reach that no grants, together, may bring about."""

    from_: Annotated[Name, Field(alias="from")]
    must_not_reach: Name


class PermissionMatrix(Model):
    """Who may ask whom to do what; nothing else is allowed."""

    kind: Literal["PermissionMatrix"]
    version: Literal[1] = 1
    trust_domain: str | None = None
    id_path: str | None = None
    require_timestamp: bool = False  # true in any document: every request needs x-request-timestamp
    groups: dict[str, list[Name]] = {}
    matrix: dict[
        Name, dict[Name, Annotated[Cell, BeforeValidator(_long_form, json_schema_input_type=Actions | Cell)]]
    ] = {}
    deny: list[DenyRule] = []
    invariants: list[Invariant] = []


class McpCalls(Model):
    """Calls to an MCP endpoint."""

    tools: list[Tool] = []  # of tools/call
    methods: list[RpcMethod] = []  # any other method, notifications included
    responses: bool = False  # answers to what the server asked the client


class ActionEntry(Model):
    """How a request is recognised as an action."""

    http: list[HttpRoute] = []
    grpc: list[GrpcMethod] = []
    mcp: McpCalls | None = None
    a2a: list[RpcMethod] = []
    asserted: bool = False  # x-agent-action may name it where no route fits
    resources: Annotated[list[Name], Field(min_length=1)] | None = None  # absent: on every resource
    scope: Scope | None = None  # needed in a delegation chain; absent: the action's name
    screen: Literal["body", "headers"] = "body"  # "headers": the body is not read, as for uploads and streams
    access_token: Literal["required", "optional"] | None = None  # absent: `authorization` is not looked at


class A2aEndpoints(Model):
    """Where A2A is spoken, in each of its bindings."""

    jsonrpc: list[EndpointRoute] = []
    http: list[BasePath] = []  # HTTP+JSON
    grpc: bool = False


def _long_endpoints(endpoints: Any) -> Any:
    """Turn the short form `["POST /a2a"]` into the long one."""
    return {"jsonrpc": endpoints} if isinstance(endpoints, list) else endpoints


class Endpoints(Model):
    """Where the body says which action a request is."""

    mcp: list[EndpointRoute] = []
    a2a: Annotated[A2aEndpoints, BeforeValidator(_long_endpoints)] = A2aEndpoints()
    resources: Annotated[list[Name], Field(min_length=1)] | None = None  # absent: on every resource


class ActionRegistry(Model):
    """The canonical actions; what is not registered is denied."""

    kind: Literal["ActionRegistry"]
    version: Literal[1] = 1
    presets: list[Preset] = []
    endpoints: Endpoints | None = None
    actions: Annotated[dict[ActionName, ActionEntry], Field(min_length=1)] = {}


class RootIssuer(Model):
    """Who may start delegation chains, and for whom and what."""

    id: Name
    subjects: Annotated[str, StringConstraints(pattern=SUBJECTS_PATTERN, min_length=1, max_length=256)] = "*"
    scopes: Annotated[list[Scope], Field(min_length=1)] | None = None  # absent: any
    targets: Annotated[list[Name], Field(min_length=1)] | None = None  # workloads that may be called; absent: any


def _long_issuer(issuer: Any) -> Any:
    """Turn the short form `platform/sts` into the long one."""
    return {"id": issuer} if isinstance(issuer, str) else issuer


class Delegation(Model):
    """Whose delegation chains count."""

    kind: Literal["Delegation"]
    version: Literal[1] = 1
    root_issuers: Annotated[
        list[Annotated[RootIssuer, BeforeValidator(_long_issuer, json_schema_input_type=Name | RootIssuer)]],
        Field(min_length=1),
    ]
    minters: list[Name] = []  # may sign links for others
    required: bool = True  # unless a cell says otherwise
    max_ttl: Duration = "30m"
    max_depth: Annotated[int, Field(ge=0, le=5)] = 5
    keys: dict[Name, str] = {}  # issuer -> JWK set, a file beside the documents or an https:// address
    key_directory: Annotated[str, StringConstraints(min_length=1)] | None = None  # JWK sets that name their issuer
    max_stale: Duration = "1h"  # how long keys from an address count after it was last heard of
    bundles: dict[str, str] = {}  # trust domain -> PEM certificates, a file beside the documents or an absolute path


def _as_list(value: Any) -> Any:
    """Turn one text into a list of it."""
    return [value] if isinstance(value, str) else value


class IdentityProvider(Model):
    """An issuer of access tokens, and what its tokens count for."""

    issuer: IssuerUrl
    audience: Annotated[
        list[OAuthName],
        Field(min_length=1),
        BeforeValidator(_as_list, json_schema_input_type=OAuthName | Annotated[list[OAuthName], Field(min_length=1)]),
    ]
    keys: Annotated[str, StringConstraints(min_length=1)] | None = None  # absent: what the issuer's metadata names
    max_stale: Duration = "1h"  # how long keys from an address count after it was last heard of
    token_types: Annotated[list[Literal["at+jwt", "JWT"]], Field(min_length=1)] = ["at+jwt"]
    max_ttl: Duration = "15m"
    clients: (
        Annotated[
            dict[
                OAuthName,
                Annotated[
                    list[Name],
                    Field(min_length=1),
                    BeforeValidator(_as_list, json_schema_input_type=Name | Annotated[list[Name], Field(min_length=1)]),
                ],
            ],
            Field(min_length=1),
        ]
        | None
    ) = None  # `azp` or `client_id` -> who may show its tokens; absent: everybody
    on_behalf_of: Annotated[str, StringConstraints(pattern=ON_BEHALF_OF_PATTERN)] = "user:{sub}"
    scope_claim: Literal["scope", "scp"] = "scope"
    scopes: Annotated[dict[ForeignScope, Annotated[list[Scope], Field(min_length=1)]], Field(min_length=1)] | None = (
        None  # a scope of the issuer -> scopes of ours; absent: they are the same
    )


class IdentityProviders(Model):
    """Whose access tokens count."""

    kind: Literal["IdentityProviders"]
    version: Literal[1] = 1
    providers: Annotated[list[IdentityProvider], Field(min_length=1, max_length=32)]


class SuiteDelegation(Model):
    """The authority of a delegation chain, taken for verified: tests of a policy are not tests of signatures."""

    on_behalf_of: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    session_id: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    scopes: list[Scope] = []
    hops: Annotated[int, Field(ge=1, le=6)] = 1
    actors: Annotated[list[Name], Field(min_length=1)] | None = None  # absent: the caller alone
    root_issuer: Name | None = None  # absent: the first of the Delegation document


class SuiteAccessToken(Model):
    """The authority of an access token, taken for verified."""

    on_behalf_of: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    scopes: list[Scope] = []
    issuer: IssuerUrl | None = None  # absent: the first of the IdentityProviders document


class SuiteRequest(Model):
    """A request in the words of policy authors; `defaults` may hold any part of it."""

    from_: Annotated[Name | None, Field(alias="from")] = None
    to: Name | None = None
    action: ActionName | None = None
    method: Annotated[str, StringConstraints(pattern=METHOD_PATTERN)] | None = None
    path: Annotated[str, StringConstraints(min_length=1, max_length=8192)] | None = None
    query: dict[str, str] = {}
    headers: dict[Annotated[str, StringConstraints(pattern=HEADER_PATTERN)], str] = {}
    body: Any = None  # a text as it is, anything else as JSON
    at: Annotated[str, StringConstraints(pattern=MOMENT_PATTERN)] | None = None
    delegation: SuiteDelegation | None = None
    access_token: SuiteAccessToken | None = None


ExpectedOutcome = Literal["allow", "deny", "error"]


class Expectation(Model):
    """What a test expects of the decision."""

    outcome: ExpectedOutcome
    reason: str | None = None
    rule: str | None = None


def _long_expectation(expectation: Any) -> Any:
    """Turn the short form `allow` into the long one."""
    return {"outcome": expectation} if isinstance(expectation, str) else expectation


class PolicyTest(Model):
    """One request and the decision on it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    request: SuiteRequest = SuiteRequest()
    expect: Annotated[
        Expectation, BeforeValidator(_long_expectation, json_schema_input_type=ExpectedOutcome | Expectation)
    ]


class TestSuite(Model):
    """Tests of the policy beside which it stands. It never changes a decision."""

    __test__ = False  # pytest takes every class of such a name for its own

    kind: Literal["TestSuite"]
    version: Literal[1] = 1
    defaults: SuiteRequest = SuiteRequest()
    tests: Annotated[list[PolicyTest], Field(min_length=1)]


class Window(Model):
    """A span of time that comes again every week."""

    days: Annotated[list[Weekday], Field(min_length=1)] | None = None  # on which it starts; absent: every day
    start: Annotated[str, StringConstraints(pattern=START_PATTERN), Field(alias="from")]
    to: Annotated[str, StringConstraints(pattern=END_PATTERN)]
    timezone: str | None = None  # absent: that of the document


class TimeWindows(Model):
    """Named spans of time, and when nobody may call."""

    kind: Literal["TimeWindows"]
    version: Literal[1] = 1
    timezone: str = "UTC"  # of windows that name none
    windows: dict[WindowName, Window] = {}
    closed: list[WindowName] = []  # no calls at all in these


class Limits(Model):
    """How often callers may call."""

    kind: Literal["Limits"]
    version: Literal[1] = 1
    callers: dict[Name, RateText] = {}  # allowed calls of each; `default` for those without a line
    unknown_callers: RateText | None = None  # requests of each caller without any grant
    failed_verifications: RateText | None = None  # tokens of each caller that did not hold


class TrustDomain(Model):
    """What callers of another trust domain may be granted."""

    subjects: Annotated[list[Name], Field(min_length=1)] | None = None  # paths in it; absent: any
    actions: Annotated[list[ActionName], Field(min_length=1)] | None = None  # absent: any


class TrustDomains(Model):
    """The other trust domains whose callers the matrix may name."""

    kind: Literal["TrustDomains"]
    version: Literal[1] = 1
    trust_domains: Annotated[dict[Name, TrustDomain], Field(min_length=1)]


# A path of an outbound call, with the patterns of routes.
OUTBOUND_PATH_PATTERN = r"^/[!-~]*$"


class EgressEntry(Model):
    """Hosts that a workload may call, and how."""

    hosts: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=260)]], Field(min_length=1)]
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)] = [443]
    methods: Annotated[list[Annotated[str, StringConstraints(pattern=METHOD_PATTERN)]], Field(min_length=1)]
    paths: (
        Annotated[
            list[Annotated[str, StringConstraints(pattern=OUTBOUND_PATH_PATTERN, max_length=2048)]],
            Field(min_length=1),
        ]
        | None
    ) = None  # absent: any
    screen: Literal["headers", "nothing"] = "headers"  # prompt header, path and query


class EgressAllowlist(Model):
    """Which hosts workloads may call through their outbound sidecars; nothing else is allowed."""

    kind: Literal["EgressAllowlist"]
    version: Literal[1] = 1
    groups: dict[str, list[Name]] = {}
    egress: Annotated[dict[Name, Annotated[list[EgressEntry], Field(min_length=1)]], Field(min_length=1)]


PolicyModel = (
    PermissionMatrix
    | ActionRegistry
    | Delegation
    | EgressAllowlist
    | IdentityProviders
    | Limits
    | TimeWindows
    | TrustDomains
    | TestSuite
)

POLICY_KINDS: dict[str, type[PolicyModel]] = {
    "TimeWindows": TimeWindows,
    "TrustDomains": TrustDomains,
    "Delegation": Delegation,
    "EgressAllowlist": EgressAllowlist,
    "IdentityProviders": IdentityProviders,
    "Limits": Limits,
    "TestSuite": TestSuite,
    "PermissionMatrix": PermissionMatrix,
    "ActionRegistry": ActionRegistry,
}

# Kinds and keys of later releases. Writing one now is an error that says so, not a typing mistake.
PLANNED_KINDS = frozenset(
    {
        "InjectionGuard",
    }
)
PLANNED_KEYS = frozenset(
    {
        "mode",  # of a document
        "budget",  # of an action
    }
)
