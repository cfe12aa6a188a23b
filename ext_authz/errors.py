"""What can go wrong, whose fault it is, and the stable code that says so.

    ExtAuthzError
    ├── NotAllowed
    │   ├── Refusal           the caller is at fault: a 4xx `deny`
    │   │   ├── InsufficientScope
    │   │   └── RateExceeded  it calls too often: a 429 that says when to try again
    │   └── Undecided         we are at fault: a 503 `error`
    └── ConfigurationError    the operator or policy author is at fault: nothing is served with it
        ├── PolicyError
        └── SettingsError

1. A reason code, once released, keeps its name and its statuses.
2. The reason goes to callers, metrics and audit; the detail is a sentence for people.
3. A detail holds only values that passed a parser of ours: never a token, a body, a header as it came, or a rule.
"""

import re
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What became of a request."""

    ALLOW = "allow"
    DENY = "deny"  # decided: no
    ERROR = "error"  # could not decide


class RpcCode(IntEnum):
    """The gRPC status codes that we answer with (google.rpc.Code)."""

    OK = 0
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Meaning(NamedTuple):
    """What a reason code stands for."""

    outcome: Outcome
    http_status: int
    rpc_code: RpcCode
    sentence: str  # for people, with the way out


class Reason(StrEnum):
    """Every reason code that a decision of this release can carry."""

    ALLOWED = "allowed"
    IDENTITY_MISSING = "identity_missing"
    IDENTITY_INVALID = "identity_invalid"
    IDENTITY_MISMATCH = "identity_mismatch"
    TOKEN_MISSING = "token_missing"  # noqa: S105
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105
    TOKEN_SIGNATURE = "token_signature"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105
    TOKEN_ISSUER = "token_issuer"  # noqa: S105
    TOKEN_KEY = "token_key"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    TOKEN_CHAIN = "token_chain"  # noqa: S105
    TOKEN_AUDIENCE = "token_audience"  # noqa: S105
    TOKEN_PRESENTER = "token_presenter"  # noqa: S105
    TOKEN_REPLAYED = "token_replayed"  # noqa: S105
    TOKEN_SCOPE = "token_scope"  # noqa: S105
    TOKEN_FORBIDDEN = "token_forbidden"  # noqa: S105
    HOPS_EXCEEDED = "hops_exceeded"
    OIDC_MISSING = "oidc_missing"
    OIDC_MALFORMED = "oidc_malformed"
    OIDC_SIGNATURE = "oidc_signature"
    OIDC_EXPIRED = "oidc_expired"
    OIDC_ISSUER = "oidc_issuer"
    OIDC_AUDIENCE = "oidc_audience"
    OIDC_LIFETIME = "oidc_lifetime"
    OIDC_BINDING = "oidc_binding"
    OIDC_SCOPE = "oidc_scope"
    OIDC_SUBJECT = "oidc_subject"
    REVOKED = "revoked"
    TRUST_DOMAIN = "trust_domain"
    RESOURCE_MISMATCH = "resource_mismatch"
    ACTION_UNREGISTERED = "action_unregistered"
    ACTION_MISMATCH = "action_mismatch"
    NOT_IN_MATRIX = "not_in_matrix"
    DENIED_BY_RULE = "denied_by_rule"
    OUTSIDE_WINDOW = "outside_window"
    CONDITION_FALSE = "condition_false"
    TIMESTAMP_STALE = "timestamp_stale"
    EGRESS_DENIED = "egress_denied"
    INJECTION_DETECTED = "injection_detected"
    REQUEST_MALFORMED = "request_malformed"
    HEADER_AMBIGUOUS = "header_ambiguous"
    PATH_AMBIGUOUS = "path_ambiguous"
    BODY_MALFORMED = "body_malformed"
    BODY_DUPLICATE_KEY = "body_duplicate_key"
    BODY_BATCH = "body_batch"
    BODY_TRAILING = "body_trailing"
    BODY_ENCODING = "body_encoding"
    BODY_MISSING = "body_missing"
    BODY_PARTIAL = "body_partial"
    BODY_TOO_LARGE = "body_too_large"
    BODY_CONTENT_TYPE = "body_content_type"
    RATE_EXCEEDED = "rate_exceeded"
    INTERNAL_ERROR = "internal_error"
    CONDITION_ERROR = "condition_error"
    KEYS_UNAVAILABLE = "keys_unavailable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    DEADLINE = "deadline"

    @property
    def meaning(self) -> Meaning:
        """Outcome, statuses and sentence of this code."""
        return MEANINGS[self]


def _allow(sentence: str) -> Meaning:
    return Meaning(Outcome.ALLOW, 200, RpcCode.OK, sentence)


def _unauthenticated(sentence: str) -> Meaning:
    return Meaning(Outcome.DENY, 401, RpcCode.UNAUTHENTICATED, sentence)


def _forbidden(sentence: str) -> Meaning:
    return Meaning(Outcome.DENY, 403, RpcCode.PERMISSION_DENIED, sentence)


def _bad_request(sentence: str) -> Meaning:
    return Meaning(Outcome.DENY, 400, RpcCode.INVALID_ARGUMENT, sentence)


def _bad_body(http_status: int, sentence: str) -> Meaning:
    return Meaning(Outcome.DENY, http_status, RpcCode.OUT_OF_RANGE, sentence)


def _too_often(sentence: str) -> Meaning:
    return Meaning(Outcome.DENY, 429, RpcCode.RESOURCE_EXHAUSTED, sentence)


def _error(sentence: str) -> Meaning:
    return Meaning(Outcome.ERROR, 503, RpcCode.UNAVAILABLE, sentence)


# fmt: off
MEANINGS = {
    Reason.ALLOWED: _allow("a rule grants this call"),
    Reason.IDENTITY_MISSING: _unauthenticated("the caller showed no verified SPIFFE identity; call through a sidecar with an X.509-SVID"),
    Reason.IDENTITY_INVALID: _unauthenticated("the caller's identity does not follow the SPIFFE or XFCC rules"),
    Reason.IDENTITY_MISMATCH: _unauthenticated("the sources of the caller's identity contradict each other"),
    Reason.TOKEN_MISSING: _unauthenticated("this call needs a delegation chain in x-delegation-token"),
    Reason.TOKEN_MALFORMED: _unauthenticated("the delegation token does not follow its format"),
    Reason.TOKEN_SIGNATURE: _unauthenticated("a signature of the delegation chain does not hold"),
    Reason.TOKEN_EXPIRED: _unauthenticated("the delegation chain has expired; ask for a new one"),
    Reason.TOKEN_NOT_YET_VALID: _unauthenticated("the delegation chain is not valid yet; check the clock of its issuer"),
    Reason.TOKEN_ISSUER: _unauthenticated("the delegation chain begins with an issuer that may not start one"),
    Reason.TOKEN_KEY: _unauthenticated("a key of the delegation chain is unknown or does not count"),
    Reason.TOKEN_REVOKED: _unauthenticated("the delegation chain or the access token was revoked"),
    Reason.TOKEN_CHAIN: _forbidden("the delegation chain does not shrink from link to link, or its links do not belong together"),
    Reason.TOKEN_AUDIENCE: _forbidden("the delegation chain was made for another workload"),
    Reason.TOKEN_PRESENTER: _forbidden("the delegation chain was made for another caller"),
    Reason.TOKEN_REPLAYED: _unauthenticated("the delegation chain may be used once, and was"),
    Reason.TOKEN_SCOPE: _forbidden("the delegation chain lacks a scope that this call needs"),
    Reason.TOKEN_FORBIDDEN: _forbidden("this call must not carry such a token; the caller acts on its own authority"),
    Reason.HOPS_EXCEEDED: _forbidden("the delegation chain is longer than the rule allows"),
    Reason.OIDC_MISSING: _unauthenticated("this call needs an access token in authorization"),
    Reason.OIDC_MALFORMED: _unauthenticated("authorization does not hold an access token of the form that is read here"),
    Reason.OIDC_SIGNATURE: _unauthenticated("the signature of the access token does not hold, or its key is unknown"),
    Reason.OIDC_EXPIRED: _unauthenticated("the access token has expired or is not valid yet; get a new one"),
    Reason.OIDC_ISSUER: _unauthenticated("the access token comes from an issuer whose tokens do not count here"),
    Reason.OIDC_AUDIENCE: _unauthenticated("the access token was made for another audience"),
    Reason.OIDC_LIFETIME: _unauthenticated("the access token lives longer than is allowed; ask for a shorter one"),
    Reason.OIDC_BINDING: _unauthenticated("the access token was made for another caller, or is bound to another key"),
    Reason.OIDC_SCOPE: _forbidden("the access token lacks a scope that this call needs"),
    Reason.OIDC_SUBJECT: _forbidden("the access token is for somebody else than the delegation chain, or another acts with it"),
    Reason.REVOKED: _forbidden("the caller or its session is in quarantine"),
    Reason.TRUST_DOMAIN: _forbidden("the caller belongs to another trust domain"),
    Reason.RESOURCE_MISMATCH: _forbidden("x-target-resource does not name the workload that this request reaches"),
    Reason.ACTION_UNREGISTERED: _forbidden("the request is no registered action; register its route or assert a registered one in x-agent-action"),
    Reason.ACTION_MISMATCH: _forbidden("x-agent-action differs from what the request is"),
    Reason.NOT_IN_MATRIX: _forbidden("no rule grants this action on this resource to the caller"),
    Reason.DENIED_BY_RULE: _forbidden("a rule denies this action on this resource to the caller"),
    Reason.OUTSIDE_WINDOW: _forbidden("this call is not allowed at this time"),
    Reason.CONDITION_FALSE: _forbidden("the condition of the rule that would allow this call does not hold"),
    Reason.TIMESTAMP_STALE: _forbidden("x-request-timestamp is too old or lies ahead; send the time of this request"),
    Reason.EGRESS_DENIED: _forbidden("no rule lets this workload call out"),
    Reason.INJECTION_DETECTED: _bad_request("the request carries text that tries to instruct the agent"),
    Reason.REQUEST_MALFORMED: _bad_request("the request breaks the request contract"),
    Reason.HEADER_AMBIGUOUS: _bad_request("a header that must stand once stands more than once"),
    Reason.PATH_AMBIGUOUS: _bad_request("the path can be read in more than one way; send it normalised"),
    Reason.BODY_MALFORMED: _bad_request("the body is not valid JSON"),
    Reason.BODY_DUPLICATE_KEY: _bad_request("a JSON object in the body has the same key twice"),
    Reason.BODY_BATCH: _bad_request("the body holds several JSON-RPC messages; send one a request"),
    Reason.BODY_TRAILING: _bad_request("data follows the JSON value in the body"),
    Reason.BODY_ENCODING: _bad_request("the body is encoded in a way that cannot be screened; send it uncompressed in UTF-8"),
    Reason.BODY_MISSING: _bad_body(411, "the body did not reach the authorization server; send content-length: 0 with an empty body"),
    Reason.BODY_PARTIAL: _bad_body(413, "the body reached the authorization server cut short"),
    Reason.BODY_TOO_LARGE: _bad_body(413, "the body is larger than the authorization server reads"),
    Reason.BODY_CONTENT_TYPE: _bad_body(415, "a JSON-RPC call has the content type application/json"),
    Reason.RATE_EXCEEDED: _too_often("more calls than the rate of this call allows; try again after the seconds in retry-after"),
    Reason.INTERNAL_ERROR: _error("the authorization server failed; nothing was decided"),
    Reason.CONDITION_ERROR: _error("a condition of the policy could not be evaluated; nothing was decided"),
    Reason.KEYS_UNAVAILABLE: _error("a token came and cannot be verified here; send none where none is needed"),
    Reason.AUDIT_UNAVAILABLE: _error("the decision could not be recorded, so it was withdrawn"),
    Reason.STORE_UNAVAILABLE: _error("the control store cannot be used, and this call needs it"),
    Reason.DEADLINE: _error("the time for this decision ran out"),
}
# fmt: on


class ExtAuthzError(Exception):
    """The root of all errors raised by this package."""


class NotAllowed(ExtAuthzError):
    """A stage ends the decision; `reason` says how, `detail` tells people more."""

    retry_after_seconds = 0  # 0: trying again is no cure

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail or reason.meaning.sentence


class Refusal(NotAllowed):
    """The caller is at fault: a 4xx `deny`."""


class InsufficientScope(Refusal):
    """The access token lacks some of `scopes`, which the call needs (RFC 6750 section 3.1)."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(Reason.OIDC_SCOPE)
        self.scopes = tuple(scopes)


class RateExceeded(Refusal):
    """The caller calls too often; the same call may pass in `wait_ns` nanoseconds."""

    def __init__(self, wait_ns: int, detail: str = "") -> None:
        super().__init__(Reason.RATE_EXCEEDED, detail)
        self.retry_after_seconds = max(1, -(-wait_ns // 1_000_000_000))


class Undecided(NotAllowed):
    """We are at fault: a 503 `error`."""


class ConfigurationError(ExtAuthzError):
    """Nothing may be served with this configuration; `problems` lists everything that is wrong, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class PolicyError(ConfigurationError):
    """The policy documents: each problem begins with `path:line:column: `, and they come in that order."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(sorted(problems, key=_place))


class SettingsError(ConfigurationError):
    """Flags, environment variables or the settings file."""


# The path ends at the first colon with two numbers behind it.
_PLACE = re.compile(r"(.*?):([0-9]+):([0-9]+): ", re.DOTALL)


def _place(problem: str) -> tuple[str, int, int]:
    match = _PLACE.match(problem)
    return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)
