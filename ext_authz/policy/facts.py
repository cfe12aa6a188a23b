"""What is verified about a request once its tokens are: what constraints and conditions look at."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ext_authz.policy.request import AuthorizationRequest
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation


class Facts(NamedTuple):
    """The verified facts, and apart from them what the caller only says."""

    request: AuthorizationRequest
    scope: str  # the action's own
    delegation: Delegation | None
    access_token: AccessToken | None = None
    has_authorization: bool = False  # whether the header came, verified or not
    asserted: Mapping[str, str] = MappingProxyType({})  # headers of the request, as they came
    policy_digest: str = ""
