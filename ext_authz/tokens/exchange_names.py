"""The names of a token exchange on the wire (RFC 8693): one place for the exchange and for those who ask it."""

# RFC 8693 section 2.1
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
# RFC 8693 section 3: what can be exchanged. A delegation chain is ours; a URN that nobody else registers.
DELEGATION_CHAIN_TYPE = "urn:ext-authz:token-type:delegation-chain"
# What a provider issued, for a first chain: one kind of token under either name.
ACCESS_TOKEN_TYPES = frozenset(
    {"urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"}
)
# RFC 8693 section 2.2.1: the token is no bearer token of RFC 6750, it goes into x-delegation-token.
NOT_A_BEARER_TOKEN = "N_A"  # noqa: S105

TOKEN_PATH = "/oauth/token"  # noqa: S105
KEYS_PATH = "/jwks.json"

# How a chain was made.
APPEND = "append"  # one more link, signed by the exchange for its client
CHECKPOINT = "checkpoint"  # one link in place of all
ROOT = "root"  # a first link, for an access token
