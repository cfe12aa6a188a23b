"""Tokens decoded and not verified, and the delegation header to its links: the only form in which a token is taken apart.

1. Nothing is accepted that another reader could split, decode or repair differently.
2. What comes out is unverified; `chain.py` and `access_token.py` alone turn it into authority.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ext_authz.errors import Reason, Refusal
from ext_authz.tokens.strict_json import MAX_DEPTH, StrictJsonError, parse_object

# Bytes of the whole header value: six links of 1,200 bytes with `kid`, of 2,000 with `x5c`, and room.
MAX_CHAIN_BYTES = 16384
# Links: a root and five hops, as `max_delegation_depth` is at most 5.
MAX_LINKS = 6

# x-delegation-token = token *( "~" token )         ; root first
# token              = segment "." segment "." segment            ; RFC 7515 section 7.1
# segment            = 1*( ALPHA / DIGIT / "-" / "_" )            ; RFC 7515 section 2: base64url without padding
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class TokenFormatError(ValueError):
    """The text is no token in its one spelling; the sentence goes on behind the token's name and never repeats it."""


class UnverifiedToken(NamedTuple):
    """One token, decoded. Its claims are words until its signature, and its place in a chain, are verified."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes

    @property
    def signing_hash(self) -> str:
        """The `par_hash` that a child must carry: base64url of the SHA-256 of the signing input."""
        return encode_base64url(hashlib.sha256(self.signing_input).digest())


def split_chain(value: str) -> list[str]:
    """Return the links of a header value, root first. Raises Refusal."""
    if len(value) > MAX_CHAIN_BYTES:
        raise Refusal(Reason.TOKEN_MALFORMED, f"the delegation chain has more than {MAX_CHAIN_BYTES} bytes")
    links, separator = [], "~"
    while separator:  # `partition` finds it by memchr; `split` looks at each letter, three times as long
        link, separator, value = value.partition("~")
        links.append(link)
        if len(links) > MAX_LINKS:
            raise Refusal(Reason.TOKEN_MALFORMED, f"the delegation chain has more than {MAX_LINKS} links")
    return links


def decode_link(text: str, index: int) -> UnverifiedToken:
    """Decode one link; `index` names it in errors, 0 is the root. Raises Refusal."""
    try:
        return decode_token(text)
    except TokenFormatError as error:
        raise malformed(index, str(error)) from None


def decode_token(text: str, max_depth: int = MAX_DEPTH) -> UnverifiedToken:
    """Decode a token whose claims have at most `max_depth` levels. Raises TokenFormatError."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise TokenFormatError("is not three base64url segments")
    try:
        header, payload, signature = (decode_base64url(segment) for segment in match.groups())
        claims = parse_object(payload, max_depth)
        return UnverifiedToken(text, parse_object(header), claims, text.rpartition(".")[0].encode("ascii"), signature)
    except StrictJsonError as error:
        raise TokenFormatError(f"has a header or claims that are no strict JSON: {error}") from None
    except ValueError:
        raise TokenFormatError("is not canonical base64url") from None


def malformed(index: int, what: str) -> Refusal:
    """Return the refusal of a link that breaks the format."""
    return Refusal(Reason.TOKEN_MALFORMED, f"link {index} of the delegation chain {what}")


def decode_base64url(segment: str) -> bytes:
    """Decode unpadded base64url of RFC 4648 section 5; raise ValueError unless it is the one spelling of its bytes."""
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if encode_base64url(data) != segment:
        raise ValueError("not canonical")
    return data


def encode_base64url(data: bytes) -> str:
    """Encode as unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
