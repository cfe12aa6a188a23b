"""The claims of one link, typed: illegal values cannot be built.

The table of contract A.4, read by the eye: every rule that looks at one link alone is here, every rule that compares
links is in `chain.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.jws import decode_base64url

# Hops that any chain may have; the Delegation document may allow fewer.
MAX_DEPTH = 5
# Seconds from `iat` to `exp` that no policy can raise.
MAX_TTL_SECONDS = 3600
MAX_SCOPES = 64
MAX_TARGETS = 32

_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_SUBJECT = re.compile(r"[!-~]{1,255}")
_HASH = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url
_RESERVED_PATH = "/spire/"  # SPIRE's own identities delegate nothing


class ClaimError(ValueError):
    """A claim is missing or has a value that the profile does not allow; the text names the claim, never the value."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a checkpoint replaced: enough to revoke it by its ancestors."""

    count: int
    token_ids: tuple[str, ...]
    actors: tuple[SpiffeId, ...]
    keys: tuple[str, ...]  # kid or certificate thumbprint of each ancestor; empty where the minter left them out
    # Who signed each ancestor, where actor and thumbprint do not tell: with a registered key, or for another. Else None.
    signers: tuple[SpiffeId | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of one link."""

    issuer: SpiffeId
    on_behalf_of: str
    session_id: str | None
    actor: SpiffeId | None
    audience: SpiffeId
    scopes: frozenset[str]
    allowed_targets: frozenset[SpiffeId]
    depth: int  # hops that remain below this link
    max_depth: int
    issued_at: int  # seconds since 1970
    expires_at: int
    not_before: int | None
    token_id: str
    parent_hash: str | None
    certificate_hash: bytes | None  # SHA-256 of the presenter's certificate, from `cnf`
    once: bool
    origin: Origin | None

    @property
    def holder(self) -> SpiffeId:
        """Who acts with this link: the actor that a minter named, else the issuer."""
        return self.actor or self.issuer

    @classmethod
    def parse(cls, claims: Mapping[str, Any]) -> Self:
        """Read the claims of a link. Raises ClaimError."""
        read = ClaimReader(claims)
        scopes = read.strings("scope", MAX_SCOPES, _SCOPE)
        targets = frozenset(_workload("allowed_targets", each) for each in read.strings("allowed_targets", MAX_TARGETS))
        parsed = cls(
            issuer=_workload("iss", read.string("iss")),
            on_behalf_of=read.matching("sub", _SUBJECT),
            session_id=read.matching("sid", _ID) if "sid" in claims else None,
            actor=_actor(claims["act"]) if "act" in claims else None,
            audience=_workload("aud", read.string("aud")),
            scopes=frozenset(scopes),
            allowed_targets=targets,
            depth=read.integer("delegation_depth"),
            max_depth=read.integer("max_delegation_depth"),
            issued_at=read.integer("iat"),
            expires_at=read.integer("exp"),
            not_before=read.integer("nbf") if "nbf" in claims else None,
            token_id=read.matching("jti", _ID),
            parent_hash=read.matching("par_hash", _HASH) if "par_hash" in claims else None,
            certificate_hash=_confirmation(claims["cnf"]) if "cnf" in claims else None,
            once=_caveats(claims["caveats"]) if "caveats" in claims else False,
            origin=_origin(claims["orig"]) if "orig" in claims else None,
        )
        parsed._check()
        return parsed

    def _check(self) -> None:
        """Check what one link's claims say about each other."""
        rules = (
            (self.audience in self.allowed_targets, "aud is not in allowed_targets"),
            (self.audience != self.holder, "aud is the holder itself"),
            (self.max_depth <= MAX_DEPTH, f"max_delegation_depth is above {MAX_DEPTH}"),
            (self.depth <= self.max_depth, "delegation_depth is above max_delegation_depth"),
            (self.expires_at > self.issued_at, "exp is not after iat"),
            (self.expires_at - self.issued_at <= MAX_TTL_SECONDS, f"it lives longer than {MAX_TTL_SECONDS} s"),
            (self.origin is None or self.parent_hash is None, "orig and par_hash exclude each other"),
        )
        for holds, otherwise in rules:
            if not holds:
                raise ClaimError(otherwise)


class ClaimReader:
    """Reads members by type. `type(x) is int`, because True is an integer to Python and 2.0 equals 2."""

    def __init__(self, claims: Mapping[str, Any]) -> None:
        self._claims = claims

    def string(self, name: str) -> str:
        value = self._claims.get(name)
        if type(value) is not str:
            raise ClaimError(f"{name} is missing or no string")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self.string(name)
        if pattern.fullmatch(value) is None:
            raise ClaimError(f"{name} has characters or a length that are not allowed")
        return value

    def integer(self, name: str) -> int:
        value = self._claims.get(name)
        if type(value) is not int or value < 0:
            raise ClaimError(f"{name} is missing or no integer from 0 on")
        return value

    def strings(self, name: str, most: int, pattern: re.Pattern[str] | None = None) -> list[str]:
        values = self._claims.get(name)
        if type(values) is not list or not 1 <= len(values) <= most or any(type(value) is not str for value in values):
            raise ClaimError(f"{name} is missing or no list of 1 to {most} strings")
        if len(set(values)) != len(values):
            raise ClaimError(f"{name} has an entry twice")
        if pattern is not None and not all(pattern.fullmatch(value) for value in values):
            raise ClaimError(f"{name} has an entry that is not allowed")
        return values


def _workload(name: str, text: str) -> SpiffeId:
    try:
        workload = SpiffeId.parse_workload(text)
    except SpiffeIdError as error:
        raise ClaimError(f"{name}: {error}") from None
    if f"{workload.path}/".startswith(_RESERVED_PATH):
        raise ClaimError(f"{name} names an identity of SPIRE itself")
    return workload


def _only(name: str, value: Any, members: set[str], required: set[str]) -> Mapping[str, Any]:
    if type(value) is not dict or not required <= value.keys() <= members:
        raise ClaimError(f"{name} has other members than the profile's")
    return value


def _actor(value: Any) -> SpiffeId:
    return _workload("act", ClaimReader(_only("act", value, {"sub"}, {"sub"})).string("sub"))


def _confirmation(value: Any) -> bytes:
    thumbprint = ClaimReader(_only("cnf", value, {"x5t#S256"}, {"x5t#S256"})).matching("x5t#S256", _HASH)
    try:
        return decode_base64url(thumbprint)
    except ValueError:
        raise ClaimError("cnf is not canonical base64url") from None


def _caveats(value: Any) -> bool:
    """Read the restrictions that hold for this link and all below it; one that is not understood is refused."""
    caveats = _only("caveats", value, {"once"}, set())
    if "once" in caveats and caveats["once"] is not True:
        raise ClaimError("the caveat once is true or absent")
    return "once" in caveats


def _origin(value: Any) -> Origin:
    read = ClaimReader(_only("orig", value, {"h", "n", "jti", "act", "key", "iss"}, {"h", "n", "jti", "act"}))
    read.matching("h", _HASH)
    count = read.integer("n")
    token_ids = read.strings("jti", MAX_DEPTH + 1, _ID)
    actors = [_workload("orig", each) for each in _list_of_strings(value["act"])]
    keys = _list_of_strings(value["key"]) if "key" in value else []
    signers = [_workload("orig", each) if each else None for each in _list_of_strings(value.get("iss", []))]
    if not 1 <= count <= MAX_DEPTH + 1 or {len(token_ids), len(actors)} != {count}:
        raise ClaimError("orig does not list as many ancestors as it counts")
    if not {len(keys), len(signers)} <= {0, count}:
        raise ClaimError("orig does not list keys or signers for all ancestors")
    return Origin(count, tuple(token_ids), tuple(actors), tuple(keys), tuple(signers))


def _list_of_strings(values: Any) -> list[str]:
    """Read a list whose entries may repeat: one agent can act twice."""
    if type(values) is not list or any(type(value) is not str for value in values):
        raise ClaimError("orig has an entry that is no list of strings")
    return values
