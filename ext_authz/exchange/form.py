"""The form of a token request, read strictly (RFC 8693 section 2.1, RFC 6749 sections 3.2 and 3.3).

1. A parameter stands at most once; `resource` may be repeated.
2. A parameter that is not known is ignored, as RFC 6749 asks; one that would name another client or actor than the
   certificate does is refused.
3. RFC 6749 takes an empty value for none. Here it is refused: whoever meant "nothing" must not get "everything".
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl

from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, invalid_request
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.claims import MAX_DEPTH, MAX_SCOPES, MAX_TARGETS, MAX_TTL_SECONDS
from ext_authz.tokens.exchange_names import ACCESS_TOKEN_TYPES, APPEND, CHECKPOINT, DELEGATION_CHAIN_TYPE, GRANT_TYPE

# Bytes of a body: a chain of 16,384, all scopes and targets of a link, and room for percent-encoding.
MAX_FORM_BYTES = 32 * 1024
# Parameters of one request: all that are known, each target once, and some that are not.
MAX_PARAMETERS = 64

# application/x-www-form-urlencoded, as serializers write it: printable ASCII without spaces, `%` only before two digits.
_FORM = re.compile(rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2})+")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")

_REPEATABLE = frozenset({"resource"})
# The client is whose certificate the sidecar saw, and it acts for itself.
_OTHER_IDENTITIES = frozenset(
    {"actor_token", "actor_token_type", "client_secret", "client_assertion", "client_assertion_type"}
)

ReadT = TypeVar("ReadT")


class ExchangeRequest(NamedTuple):
    """What a client asks for. None: all that there is, or as the exchange decides."""

    subject_token: str
    is_access_token: bool  # else a delegation chain
    audience: SpiffeId
    scopes: frozenset[str] | None
    targets: frozenset[SpiffeId] | None
    mode: str | None
    depth: int | None
    lifetime_seconds: int | None
    once: bool


def parse_form(body: bytes, client: SpiffeId) -> ExchangeRequest:
    """Read the body of a token request. Raises ExchangeRefusal."""
    form = _Form(_parameters(body))
    form.check_fixed(client)
    is_access_token = form.required("subject_token_type") in ACCESS_TOKEN_TYPES
    mode, scopes = form.read("mode", _mode), form.read("scope", _scopes)
    if is_access_token and mode is not None:
        raise invalid_request("mode is for delegation chains: an access token starts one")
    if is_access_token and scopes is None:
        raise ExchangeRefusal(ErrorCode.INVALID_SCOPE, "a first chain gives what scope asks for: name it")
    return ExchangeRequest(
        subject_token=form.required("subject_token"),
        is_access_token=is_access_token,
        audience=_workload(form.required("audience"), "audience"),
        scopes=scopes,
        targets=_targets(form.all("resource")),
        mode=mode,
        depth=form.read("depth", _number("depth", 0, MAX_DEPTH)),
        lifetime_seconds=form.read("lifetime", _number("lifetime", 1, MAX_TTL_SECONDS)),
        once=form.read("once", _true) is not None,
    )


def _parameters(body: bytes) -> Mapping[str, list[str]]:
    if _FORM.fullmatch(body) is None:
        raise invalid_request("the body is no form")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise invalid_request(f"the body is no form of at most {MAX_PARAMETERS} parameters in UTF-8") from None
    parameters: dict[str, list[str]] = {}
    for name, value in pairs:
        if not name:
            raise invalid_request("a parameter has no name")
        if name in parameters and name not in _REPEATABLE:
            raise invalid_request("a parameter stands more than once")
        parameters.setdefault(name, []).append(value)
    return parameters


class _Form:
    """Parameters by name; each known one is refused when it is empty."""

    def __init__(self, parameters: Mapping[str, list[str]]) -> None:
        self._parameters = parameters

    def check_fixed(self, client: SpiffeId) -> None:
        """Check what can have one value only."""
        if self.required("grant_type") != GRANT_TYPE:
            raise ExchangeRefusal(ErrorCode.UNSUPPORTED_GRANT_TYPE, "expected the grant type of RFC 8693")
        if not _OTHER_IDENTITIES.isdisjoint(self._parameters):
            raise invalid_request("the client is known by its certificate: send no actor_token and no client secret")
        if self.optional("client_id") not in {None, client.uri}:
            raise ExchangeRefusal(ErrorCode.INVALID_CLIENT, "client_id is not the SPIFFE ID of the certificate")
        if self.required("subject_token_type") not in {DELEGATION_CHAIN_TYPE, *ACCESS_TOKEN_TYPES}:
            raise invalid_request("unsupported subject_token_type")
        if self.optional("requested_token_type") not in {None, DELEGATION_CHAIN_TYPE}:
            raise invalid_request("unsupported requested_token_type")

    def all(self, name: str) -> list[str]:
        values = self._parameters.get(name, [])
        if not all(values):
            raise invalid_request(f"{name} is empty: leave it out instead")
        return values

    def optional(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def required(self, name: str) -> str:
        value = self.optional(name)
        if value is None:
            raise invalid_request(f"{name} is missing")
        return value

    def read(self, name: str, parse: Callable[[str], ReadT]) -> ReadT | None:
        value = self.optional(name)
        return None if value is None else parse(value)


def _scopes(text: str) -> frozenset[str]:
    """Read `scope = scope-token *( SP scope-token )` (RFC 6749 section 3.3); which tokens there are, the chain says."""
    scopes = text.split(" ")
    if "" in scopes or len(scopes) > MAX_SCOPES or len(set(scopes)) != len(scopes):
        raise ExchangeRefusal(
            ErrorCode.INVALID_SCOPE, f"expected 1 to {MAX_SCOPES} different scopes, one space between"
        )
    return frozenset(scopes)


def _targets(texts: list[str]) -> frozenset[SpiffeId] | None:
    targets = frozenset(_workload(text, "resource") for text in texts)
    if len(targets) != len(texts) or len(targets) > MAX_TARGETS:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, f"expected at most {MAX_TARGETS} resources, each once")
    return targets or None


def _workload(text: str, name: str) -> SpiffeId:
    try:
        return SpiffeId.parse_workload(text)
    except SpiffeIdError:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, f"{name} is no SPIFFE ID of a workload") from None


def _mode(text: str) -> str:
    if text not in {APPEND, CHECKPOINT}:
        raise invalid_request(f"mode is {APPEND} or {CHECKPOINT}")
    return text


def _number(name: str, least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
            raise invalid_request(f"{name} is a number from {least} to {most}")
        return int(text)

    return read


def _true(text: str) -> bool:
    if text != "true":
        raise invalid_request("once is true or left out")
    return True
