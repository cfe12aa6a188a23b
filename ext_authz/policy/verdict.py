"""What the policy engine says about one request."""

from typing import NamedTuple

from ext_authz.errors import Reason


class Rule(NamedTuple):
    """One rule of a policy document, and where it stands."""

    where: str  # path:line
    text: str  # for people: `planner-agent -> retrieval-agent: search`


class Verdict(NamedTuple):
    """`Reason.ALLOWED`, or the reason why not, and the rule that decided; no rule when none matched."""

    reason: Reason
    rule: Rule | None
