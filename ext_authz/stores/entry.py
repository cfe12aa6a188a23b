"""What stands in the control store: one thing that is revoked or in quarantine.

1. An entry that no token or caller can ever match is refused: whoever wrote it expects an effect.
2. An entry is kept until the last token that it can match has expired. Exact ids and people's marks end with the longest
   life of a token. A key, a certificate or a workload can sign new tokens, so these are kept until somebody lifts them.
3. No text in an entry can break a line, a terminal or a log.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.chain import LEEWAY_SECONDS
from ext_authz.tokens.claims import MAX_TTL_SECONDS

# Characters of a reason that people write: a sentence and a ticket's number.
MAX_REASON_CHARACTERS = 200
# Seconds for which a revoked token could still count.
TOKEN_SECONDS = MAX_TTL_SECONDS + LEEWAY_SECONDS

# The forms of contract A.4, as `tokens.claims` reads them; a `kid` may be anything, and is limited to what a terminal shows.
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_ON_BEHALF_OF = re.compile(r"[!-~]{1,255}")
_KEY_ID = re.compile(r"[!-~]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_A_HASH = "a certificate is named by its SHA-256: 64 lower-case hexadecimal digits, as in XFCC's Hash"


class EntryError(ValueError):
    """This is no entry; the text is one problem, for people."""


class Kind(StrEnum):
    """What an entry is about."""

    TOKEN_ID = "jti"  # noqa: S105
    SESSION_ID = "sid"
    KEY_ID = "kid"
    CERTIFICATE = "certificate"  # its SHA-256
    SUBJECT = "subject"  # a token's `sub`: links issued by a mark in time
    WORKLOAD = "workload"  # its SPIFFE ID: links issued, and certificates made, by a mark in time
    QUARANTINE = "quarantine"  # a SPIFFE ID or a session id


# Kinds that match what was issued by a moment, not an exact id.
MARKED = frozenset({Kind.SUBJECT, Kind.WORKLOAD})

# Seconds for which an entry is kept unless somebody says otherwise: rule 2.
KEPT_SECONDS: Mapping[Kind, float] = {
    Kind.TOKEN_ID: TOKEN_SECONDS,
    Kind.SESSION_ID: TOKEN_SECONDS,
    Kind.SUBJECT: TOKEN_SECONDS,
    Kind.KEY_ID: math.inf,
    Kind.CERTIFICATE: math.inf,
    Kind.WORKLOAD: math.inf,
    Kind.QUARANTINE: math.inf,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is revoked or in quarantine. Raises EntryError for one that cannot be meant."""

    kind: Kind
    value: str
    mark_at: int | None  # seconds since 1970: what was issued by then is revoked
    keep_until: float  # seconds since 1970; infinite: until it is lifted
    because: str
    created_at: float
    lifted_at: float | None = None

    def __post_init__(self) -> None:
        """Check all of it."""
        _CHECKS[self.kind](self.value)
        check_reason(self.because)
        if not (math.isfinite(self.created_at) and self.created_at >= 0):
            raise EntryError("an entry is made at a moment since 1970")
        self._check_mark()
        if not self.keep_until > self.created_at:  # also when it is not a number
            raise EntryError("it would match nothing: all that it could match has expired")

    def _check_mark(self) -> None:
        if self.kind not in MARKED:
            if self.mark_at is not None:
                raise EntryError(f"a {self.kind} is revoked as a whole: it has no mark in time")
        elif self.mark_at is None or not 0 <= self.mark_at <= self.created_at + LEEWAY_SECONDS:
            raise EntryError("a mark lies in the past: to stop what comes later, use quarantine")

    @classmethod
    def new(
        cls,
        kind: Kind,
        value: str,
        now: float,
        *,
        mark_at: int | None = None,
        keep_seconds: float | None = None,
        because: str = "",
    ) -> Self:
        """Make an entry of this moment; a kind that needs a mark has it now. Raises EntryError.

        `keep_seconds` counts from now, its default from the mark where there is one.
        """
        if kind in MARKED and mark_at is None:
            mark_at = int(now)
        since = now if mark_at is None else mark_at
        keep_until = since + KEPT_SECONDS[kind] if keep_seconds is None else now + keep_seconds
        return cls(kind, value, mark_at, keep_until, because, now)

    def is_in_force(self, now: float) -> bool:
        """Whether it counts."""
        return self.lifted_at is None and now < self.keep_until

    def merged_with(self, older: Self) -> Self:
        """Return an entry that revokes what either does: writing one again must never weaken it."""
        return replace(
            self,
            mark_at=None if self.mark_at is None else max(self.mark_at, older.mark_at or 0),
            keep_until=max(self.keep_until, older.keep_until),
            because=self.because or older.because,
            created_at=max(self.created_at, older.created_at),
        )


def is_session(value: str) -> bool:
    """Whether a value in quarantine is a session id; any other is a SPIFFE ID, which has a colon."""
    return _ID.fullmatch(value) is not None


def check_token_id(value: str) -> None:
    """Raise EntryError unless `value` can be a token's id."""
    _check_id(value)


def check_reason(because: str) -> None:
    """Raise EntryError unless people can read it on one line."""
    if len(because) > MAX_REASON_CHARACTERS or not because.isprintable():
        raise EntryError(f"a reason has at most {MAX_REASON_CHARACTERS} characters, all of them printable")


def _matching(pattern: re.Pattern[str], otherwise: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if pattern.fullmatch(value) is None:
            raise EntryError(otherwise)

    return check


def _check_workload(value: str) -> None:
    try:
        SpiffeId.parse_workload(value)
    except SpiffeIdError as error:
        raise EntryError(str(error)) from None


def _check_quarantined(value: str) -> None:
    if not is_session(value):
        _check_workload(value)


_check_id = _matching(_ID, "an id has 16 to 64 letters, digits, - and _")

_CHECKS: Mapping[Kind, Callable[[str], None]] = {
    Kind.TOKEN_ID: _check_id,
    Kind.SESSION_ID: _check_id,
    Kind.KEY_ID: _matching(_KEY_ID, "a key id has 1 to 128 printable ASCII characters without spaces"),
    Kind.CERTIFICATE: _matching(_SHA256, _A_HASH),
    Kind.SUBJECT: _matching(_ON_BEHALF_OF, "a `sub` has 1 to 255 printable ASCII characters without spaces"),
    Kind.WORKLOAD: _check_workload,
    Kind.QUARANTINE: _check_quarantined,
}
