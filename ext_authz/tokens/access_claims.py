"""The claims of an OAuth access token, typed: what RFC 9068 section 2.2 has, and what the tokens of providers have beside it.

1. Every rule that looks at the claims alone is here; what they mean to a provider, a caller or the clock is in `access_token.py`.
2. Claims that are not named here are ignored: an access token allows nothing by them.
3. What only tokens of another kind carry is refused (RFC 8725 section 3.12).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from ext_authz.tokens.claims import ClaimError, ClaimReader

# Levels of JSON in the claims: Keycloak's roles take four, five actors seven.
MAX_DEPTH = 8
MAX_AUDIENCES = 16
MAX_SCOPES = 128
# Actors of nested `act` claims: as many as a chain has hops.
MAX_ACTORS = 5

_SUBJECT = re.compile(r"[!-~]{1,255}")
_NAME = re.compile(
    r"[!-~](?:[ -~]{0,253}[!-~])?"
)  # clients and audiences; RFC 6749 appendix A.1 lets clients hold spaces
_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]{1,255}")  # RFC 6749 section 3.3

# OpenID Connect Core sections 2 and 3.3.2.11, Logout sections: what ID tokens and logout tokens carry, and no access token.
_OF_OTHER_TOKENS = ("at_hash", "c_hash", "s_hash", "events")
# Keycloak writes the kind of a token as a claim, because the header of each says `JWT`.
_KIND, _ACCESS_KIND = "typ", "bearer"


class Actor(NamedTuple):
    """Who acts (RFC 8693 section 4.1)."""

    name: str
    issuer: str | None  # who calls it so; None: the issuer of the token


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """The claims of one access token."""

    issuer: str
    subject: str
    audiences: frozenset[str]
    scopes: frozenset[str]  # as the issuer names them
    clients: frozenset[str]  # `azp` and `client_id`; two when they contradict each other
    actors: tuple[Actor, ...]  # who acts now first
    confirmation: Mapping[str, Any] | None  # `cnf`: what the presenter must prove (RFC 7800)
    token_id: str | None
    session_id: str | None
    issued_at: int  # seconds since 1970
    expires_at: int
    not_before: int | None

    @classmethod
    def parse(cls, claims: Mapping[str, Any], scope_claim: str) -> Self:
        """Read the claims of a token. Raises ClaimError."""
        read = ClaimReader(claims)
        _check_kind(claims)
        parsed = cls(
            issuer=read.string("iss"),
            subject=read.matching("sub", _SUBJECT),
            audiences=frozenset(_audiences(claims.get("aud"))),
            scopes=frozenset(_scopes(scope_claim, claims[scope_claim]) if scope_claim in claims else ()),
            clients=frozenset(read.matching(name, _NAME) for name in ("azp", "client_id") if name in claims),
            actors=tuple(_actors(claims["act"])) if "act" in claims else (),
            confirmation=_confirmation(claims["cnf"]) if "cnf" in claims else None,
            token_id=read.matching("jti", _NAME) if "jti" in claims else None,
            session_id=read.matching("sid", _NAME) if "sid" in claims else None,
            issued_at=read.integer("iat"),
            expires_at=read.integer("exp"),
            not_before=read.integer("nbf") if "nbf" in claims else None,
        )
        if parsed.expires_at <= parsed.issued_at:
            raise ClaimError("exp is not after iat")
        return parsed


def _check_kind(claims: Mapping[str, Any]) -> None:
    if any(name in claims for name in _OF_OTHER_TOKENS):
        raise ClaimError("it has the claims of an ID token or a logout token")
    kind = claims.get(_KIND, _ACCESS_KIND)
    if type(kind) is not str or kind.lower() != _ACCESS_KIND:
        raise ClaimError("its own typ says that it is of another kind")


def _audiences(value: Any) -> list[str]:
    """RFC 7519 section 4.1.3: one string, or an array of them."""
    values = [value] if type(value) is str else value
    if type(values) is not list or not 1 <= len(values) <= MAX_AUDIENCES:
        raise ClaimError(f"aud is missing or no list of 1 to {MAX_AUDIENCES} strings")
    return _all_matching("aud", values, _NAME)


def _scopes(name: str, value: Any) -> list[str]:
    """`scope` is one string with single spaces (RFC 9068 section 2.2.3); `scp` is that, or an array, by provider."""
    if type(value) is str:
        values = value.split(" ") if value else []
    elif type(value) is list and name != "scope":
        values = value
    else:
        raise ClaimError(f"{name} has another type than its providers give it")
    if len(values) > MAX_SCOPES:
        raise ClaimError(f"{name} has more than {MAX_SCOPES} scopes")
    return _all_matching(name, values, _SCOPE_TOKEN)


def _all_matching(name: str, values: list[Any], pattern: re.Pattern[str]) -> list[str]:
    if not all(type(value) is str and pattern.fullmatch(value) for value in values):
        raise ClaimError(f"{name} has an entry that is not allowed")
    return values


def _actors(value: Any) -> list[Actor]:
    """Read nested `act` claims; members that are not named here describe the actor and are ignored."""
    actors: list[Actor] = []
    while True:
        if type(value) is not dict or len(actors) == MAX_ACTORS:
            raise ClaimError(f"act is no object, or holds more than {MAX_ACTORS} actors")
        read = ClaimReader(value)
        actors.append(Actor(read.matching("sub", _SUBJECT), read.string("iss") if "iss" in value else None))
        if "act" not in value:
            return actors
        value = value["act"]


def _confirmation(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict or not value:
        raise ClaimError("cnf is no object, or an empty one")
    return value
