"""What the policy engine says about one request."""

from typing import NamedTuple

from ext_authz.documents.models import AccessTokenMode, DelegationMode
from ext_authz.errors import Reason
from ext_authz.policy.conditions import Condition
from ext_authz.policy.rates import CellRate
from ext_authz.policy.windows import Times

_ASKING = frozenset({"required", "optional"})


class Rule(NamedTuple):
    """One rule of a policy document, and where it stands."""

    where: str  # path:line
    text: str  # for people: `planner-agent -> retrieval-agent: search`
    denies: bool = False  # else it grants


class Grant(NamedTuple):
    """One cell that allows an action, and what it asks beside that."""

    rule: Rule
    delegation: DelegationMode
    scopes: frozenset[str]  # beside the action's own
    max_hops: int | None
    times: Times | None = None  # None: always
    access_token: AccessTokenMode | None = None  # None: `authorization` is not looked at
    rate: CellRate | None = None  # None: as often as it likes
    when: Condition | None = None  # None: always

    @property
    def asks_for_access_token(self) -> bool:
        """Whether an access token that comes is verified for this grant."""
        return self.access_token in _ASKING


class Denial(NamedTuple):
    """One deny rule that depends on more than who asks whom to do what."""

    rule: Rule
    when: Condition


class Verdict(NamedTuple):
    """`Reason.ALLOWED`, or the reason why not, and the rule that decided; no rule when none matched."""

    reason: Reason
    rule: Rule | None
    grants: tuple[Grant, ...] = ()  # one that is satisfied is enough
    denials: tuple[Denial, ...] = ()  # one that applies is too much
