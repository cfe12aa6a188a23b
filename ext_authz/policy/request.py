"""The question that the policy engine answers, in AuthZEN's four parts."""

from typing import NamedTuple

from ext_authz.identity.spiffe_id import SpiffeId


class Context(NamedTuple):
    """Verified facts beside subject, action and resource."""

    now: float  # seconds since 1970


class AuthorizationRequest(NamedTuple):
    """The question whether `subject` may do `action` on `resource`, given `context`."""

    subject: SpiffeId
    action: str
    resource: SpiffeId
    context: Context
