"""Conditions in CEL: compiled at load, evaluated on verified facts.

1. A condition is true, false, or one of two kinds of not known: a fact that it needs is missing, or it failed.
2. What the caller only asserts is seen by the conditions of deny rules alone.
3. The CEL library is imported when a policy has a condition, and not before.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Protocol

from ext_authz.attributes.request import AGENT_ACTION, AI_PROMPT, CONTENT_TYPE, REQUEST_TIMESTAMP, TARGET_RESOURCE
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.expression import ExpressionError, Path, Vocabulary, named_facts
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

# The headers that `asserted.headers` may name: kept, at most once each, and no secret.
ASSERTED_HEADERS = frozenset({AGENT_ACTION, TARGET_RESOURCE, REQUEST_TIMESTAMP, AI_PROMPT, CONTENT_TYPE})

Getter = Callable[[Facts], Any]  # None: the fact is not there


def _of_chain(getter: Callable[[Delegation], Any]) -> Getter:
    return lambda facts: None if facts.delegation is None else getter(facts.delegation)


def _of_access_token(getter: Callable[[AccessToken], Any]) -> Getter:
    return lambda facts: None if facts.access_token is None else getter(facts.access_token)


def _of_workload(getter: Callable[[Facts], SpiffeId]) -> dict[str, Getter]:
    return {
        "id": lambda facts: getter(facts).uri,
        "trust_domain": lambda facts: getter(facts).trust_domain,
        "path": lambda facts: getter(facts).path,
    }


# Every fact that a condition may name, and where it is found.
_GETTERS: Mapping[str, Mapping[str, Getter]] = {
    "subject": _of_workload(lambda facts: facts.request.subject),
    "resource": _of_workload(lambda facts: facts.request.resource),
    "action": {"name": lambda facts: facts.request.action, "scope": lambda facts: facts.scope},
    "delegation": {
        "present": lambda facts: facts.delegation is not None,
        "sub": _of_chain(lambda chain: chain.on_behalf_of),
        "session_id": _of_chain(lambda chain: chain.session_id),
        "scopes": _of_chain(lambda chain: sorted(chain.scopes)),
        "actors": _of_chain(lambda chain: [actor.uri for actor in chain.actors]),
        "depth": _of_chain(lambda chain: chain.depth),
        "hops": _of_chain(lambda chain: chain.hops),
        "root_issuer": _of_chain(lambda chain: chain.root_issuer.uri),
        "expires_at": _of_chain(lambda chain: datetime.fromtimestamp(chain.expires_at, UTC)),
    },
    "access_token": {
        "present": lambda facts: facts.access_token is not None,
        "issuer": _of_access_token(lambda token: token.issuer),
        "sub": _of_access_token(lambda token: token.on_behalf_of),
        "session_id": _of_access_token(lambda token: token.session_id),
        "scopes": _of_access_token(lambda token: sorted(token.scopes)),
        "client": _of_access_token(lambda token: token.client),
        "expires_at": _of_access_token(lambda token: datetime.fromtimestamp(token.expires_at, UTC)),
    },
    "now": {"": lambda facts: datetime.fromtimestamp(facts.request.context.now, UTC)},
    "runtime": {"policy_digest": lambda facts: facts.policy_digest},
    "asserted": {
        "headers": lambda facts: {name: facts.asserted[name] for name in ASSERTED_HEADERS if name in facts.asserted}
    },
}
_VERIFIED = {fact: frozenset(fields) - {""} for fact, fields in _GETTERS.items() if fact != "asserted"}
IN_CELLS = Vocabulary(_VERIFIED, frozenset())
IN_DENY_RULES = Vocabulary(_VERIFIED, ASSERTED_HEADERS)


class Truth(Enum):
    """What a condition is on some facts."""

    TRUE = auto()
    FALSE = auto()
    MISSING = auto()  # a fact that it needs is not there
    FAILED = auto()  # types that do not fit, an overflow, or the library itself


class Program(Protocol):
    """A compiled expression, as the CEL library makes it."""

    def execute(self, context: dict[str, Any], /) -> Any:
        """Return the value on a context."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled `when:`."""

    text: str
    program: Program
    paths: frozenset[Path]  # the facts that it names: only these are shown to it

    def evaluate(self, facts: Facts) -> Truth:
        """Return what the condition is on these facts."""
        context = self._context(facts)
        try:
            value = self.program.execute(context)
        except LookupError:
            return Truth.MISSING
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  a panic in Rust is no Exception
            return Truth.FAILED
        if not isinstance(value, bool):
            return Truth.FAILED
        return Truth.TRUE if value else Truth.FALSE

    def _context(self, facts: Facts) -> dict[str, Any]:
        context: dict[str, Any] = {}
        for fact, name in self.paths:
            value = _GETTERS[fact][name](facts)
            if not name:
                context[fact] = value
                continue
            fields = context.setdefault(fact, {})
            if value is not None:
                fields[name] = value
        return context


class ConditionCompiler:
    """Compiles conditions, each text once."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, bool], Condition] = {}

    def compile(self, text: str, *, in_deny_rule: bool) -> Condition:
        """Return the condition of a text. Raises ExpressionError."""
        key = text, in_deny_rule
        if key not in self._compiled:
            self._compiled[key] = _compile(text, IN_DENY_RULES if in_deny_rule else IN_CELLS)
        return self._compiled[key]


def _compile(text: str, vocabulary: Vocabulary) -> Condition:
    paths = named_facts(text, vocabulary)
    condition = Condition(text, _program(text), paths)
    for facts in _samples():
        _check_sample(condition, facts)
    return condition


def _program(text: str) -> Program:
    import cel  # noqa: PLC0415  rule 3

    try:
        return cel.compile(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  a panic in Rust is no Exception
        raise ExpressionError("not CEL: look for a missing bracket, operator or quote") from None


def _check_sample(condition: Condition, facts: Facts) -> None:
    truth = condition.evaluate(facts)
    if truth is Truth.FAILED:
        tokens = "without" if facts.delegation is None else "with"
        raise ExpressionError(f"gives neither true nor false on a call {tokens} tokens: look at the types")


def _samples() -> Iterator[Facts]:
    """Yield the facts of a call with all tokens and of one without any."""
    workload = SpiffeId.parse_workload("spiffe://sample.invalid/agent")
    request = AuthorizationRequest(workload, "sample", workload, Context(1_800_000_000.5))
    headers = dict.fromkeys(ASSERTED_HEADERS, "sample")
    chain = Delegation(
        on_behalf_of="user:sample",
        session_id="sample",
        scopes=frozenset({"sample", "sample:read"}),
        allowed_targets=frozenset(),
        depth=1,
        hops=2,
        actors=(workload, workload),
        root_issuer=workload,
        token_ids=("sample",),
        expires_at=1_800_000_600,
        once=False,
    )
    token = AccessToken(
        issuer="https://sample.invalid",
        subject="sample",
        on_behalf_of="user:sample",
        scopes=frozenset({"sample"}),
        client="sample",
        actors=(),
        token_id="sample",  # noqa: S106
        session_id="sample",
        issued_at=1_800_000_000,
        expires_at=1_800_000_600,
    )
    yield Facts(request, "sample", chain, token, asserted=headers, policy_digest="0" * 64)
    yield Facts(request, "sample", None, policy_digest="0" * 64)
