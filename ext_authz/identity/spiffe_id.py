"""SPIFFE IDs: parsed once, strictly, and never normalised.

1. What is not canonical is refused; two IDs are equal when their bytes are.
2. A workload's ID has a path; one without names a trust domain, as signing certificates do.
"""

import re
from dataclasses import dataclass
from typing import Self

# SPIFFE-ID.md section 2.3: implementations support IDs up to 2048 bytes and must not make longer ones.
MAX_ID_BYTES = 2048
# SPIFFE-ID.md section 2.3: at most 255 bytes.
MAX_TRUST_DOMAIN_BYTES = 255

# SPIFFE-ID.md section 2:
#   spiffe-id    = "spiffe://" trust-domain [ path ]
#   trust-domain = 1*( %x61-7A / DIGIT / "." / "-" / "_" )      ; section 2.1: lower case, no userinfo, no port
#   path         = 1*( "/" segment )                            ; section 2.2: no empty segment, no trailing slash
#   segment      = 1*( ALPHA / DIGIT / "." / "-" / "_" )        ; but neither "." nor ".."
# Section 2.4 calls scheme and trust domain case-insensitive; go-spiffe and this parser refuse upper case instead.
_SPIFFE_ID = re.compile(r"spiffe://([a-z0-9._-]+)((?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*)")


class SpiffeIdError(ValueError):
    """The text is no SPIFFE ID."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A valid SPIFFE ID. Build it with `parse` or `parse_workload`, never with the constructor."""

    uri: str
    trust_domain: str
    path: str  # with the leading slash; empty for the trust domain itself

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE ID as SPIFFE-ID.md section 2 defines it.

        Raises SpiffeIdError for everything else. The error does not repeat the text.
        """
        if len(text) > MAX_ID_BYTES:
            raise SpiffeIdError(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes")
        match = _SPIFFE_ID.fullmatch(text)
        if match is None:
            raise SpiffeIdError("not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form")
        trust_domain, path = match.groups()
        if len(trust_domain) > MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(f"a trust domain has at most {MAX_TRUST_DOMAIN_BYTES} bytes")
        return cls(text, trust_domain, path)

    @classmethod
    def parse_workload(cls, text: str) -> Self:
        """Read the SPIFFE ID of a workload: one that has a path (X509-SVID.md section 5.2)."""
        spiffe_id = cls.parse(text)
        if not spiffe_id.path:
            raise SpiffeIdError("a workload's SPIFFE ID has a path")
        return spiffe_id

    def __str__(self) -> str:
        return self.uri
