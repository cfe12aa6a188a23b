"""The token exchange: a delegation chain in, one for the next call out (RFC 8693)."""
