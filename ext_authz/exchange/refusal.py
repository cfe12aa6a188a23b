"""How an exchange is refused: the codes of RFC 6749 section 5.2 and RFC 8693 section 2.2.2, and a sentence for people.

A sentence never repeats what the client sent, and never what a token says.
"""

from enum import StrEnum

from ext_authz.errors import ExtAuthzError, NotAllowed, Reason, Refusal


class ErrorCode(StrEnum):
    """What `error` says; part of the contract with clients."""

    INVALID_REQUEST = "invalid_request"  # RFC 8693: also for every subject token that does not hold
    INVALID_CLIENT = "invalid_client"
    INVALID_SCOPE = "invalid_scope"
    INVALID_TARGET = "invalid_target"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    TEMPORARILY_UNAVAILABLE = "temporarily_unavailable"
    SERVER_ERROR = "server_error"


# RFC 6749 section 5.2: 400, and 401 for a client that is not known. Our own faults are 5xx, as everywhere.
_STATUS = {
    ErrorCode.INVALID_CLIENT: 401,
    ErrorCode.TEMPORARILY_UNAVAILABLE: 503,
    ErrorCode.SERVER_ERROR: 500,
}


class ExchangeRefusal(ExtAuthzError):
    """No token is issued. `http_status` overrides the usual one of the code; `reason` is why a token does not hold."""

    def __init__(
        self, code: ErrorCode, detail: str, http_status: int | None = None, reason: Reason | None = None
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.reason = reason
        self.http_status = http_status or _STATUS.get(code, 400)


def invalid_request(detail: str) -> ExchangeRefusal:
    """Return the refusal of a request that cannot be read, or whose token does not hold."""
    return ExchangeRefusal(ErrorCode.INVALID_REQUEST, detail)


def unavailable(detail: str) -> ExchangeRefusal:
    """Return the refusal of a request that somebody may repeat later: we are at fault."""
    return ExchangeRefusal(ErrorCode.TEMPORARILY_UNAVAILABLE, detail)


def bad_subject_token(refusal: NotAllowed) -> ExchangeRefusal:
    """Return the refusal of a subject token that does not hold, or cannot be verified now."""
    code = ErrorCode.INVALID_REQUEST if isinstance(refusal, Refusal) else ErrorCode.TEMPORARILY_UNAVAILABLE
    return ExchangeRefusal(code, refusal.detail, reason=refusal.reason)
