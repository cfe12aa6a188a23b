"""How old a request may be by the caller's own word, x-request-timestamp.

It is no proof: whoever can send a request can write any time. It refuses what lay in a queue or on an attacker's disk
and is sent again as it was.
"""

import re
from datetime import datetime

from ext_authz.errors import Reason, Refusal

# Seconds. What a queue, a retry or a slow model may take; AWS Signature Version 4 allows as much.
MAX_AGE_SECONDS = 300
# Seconds by which a caller's clock may be ahead of ours.
LEEWAY_SECONDS = 30

# Unix seconds, whole: a fraction would be a third way to write a time, and milliseconds have two digits too many.
_UNIX_SECONDS = re.compile(r"[0-9]{1,11}")
# RFC 3339 section 5.6:
#   date-time = full-date "T" partial-time time-offset        ; "T" and "Z" may be lower case
#   partial-time = 2DIGIT ":" 2DIGIT ":" 2DIGIT [ "." 1*DIGIT ]
#   time-offset = "Z" / ( "+" / "-" ) 2DIGIT ":" 2DIGIT
# A fraction has at most nine digits, and a leap second is refused: no clock that we compare with shows one.
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def check_freshness(timestamp: str | None, now: float, *, required: bool) -> None:
    """Raise Refusal for a request that is too old, from the future, or of a time that cannot be read.

    `timestamp` is the header's text, None where it is absent. `now` is in seconds since 1970.
    """
    if timestamp is None:
        if required:
            raise Refusal(Reason.TIMESTAMP_STALE, "this policy asks for x-request-timestamp")
    elif not -LEEWAY_SECONDS <= now - _parse_timestamp(timestamp) <= MAX_AGE_SECONDS:
        raise Refusal(Reason.TIMESTAMP_STALE)


def _parse_timestamp(text: str) -> float:
    """Return a time in seconds since 1970."""
    if _UNIX_SECONDS.fullmatch(text):
        return float(text)
    if _DATE_TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):  # no such day, or before the first
            pass
    raise Refusal(Reason.REQUEST_MALFORMED, "x-request-timestamp is neither RFC 3339 nor whole seconds since 1970")
