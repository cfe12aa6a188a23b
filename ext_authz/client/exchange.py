"""For agents without a key: the exchange makes the link, by way of the agent's own sidecar, whose certificate names it.

1. What comes back must be a chain for this agent and the audience that was asked for; anything else is an error.
2. No token reaches a log, a repr or an error; of an error the exchange's code and sentence are shown, if they look like such.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx

from ext_authz.client.minting import LastLink, Narrowing
from ext_authz.client.signing import MintingError
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.claims import ClaimError, Claims
from ext_authz.tokens.exchange_names import DELEGATION_CHAIN_TYPE, GRANT_TYPE, TOKEN_PATH
from ext_authz.tokens.jws import decode_link, split_chain

# Seconds for one exchange: it verifies and signs in milliseconds.
EXCHANGE_SECONDS = 5.0
# The part of a chain's life for which it is used before another is asked for: calls take time, and clocks differ.
FRESH_PART = 0.8

_CODE = re.compile(r"[a-z_]{1,64}")
_SENTENCE = re.compile(r"[ -~]{1,200}")


class ExchangeError(MintingError):
    """The exchange gave no chain; `code` is what it said, empty when nobody of ours answered."""

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.code = code


class Exchanged(NamedTuple):
    """What the exchange gave."""

    chain: str
    expires_at: int  # seconds since 1970
    once: bool  # for one call only

    def __repr__(self) -> str:
        return f"Exchanged(expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where the exchange is: the URL of this agent's outbound sidecar, and the name by which it routes to the exchange."""

    url: str = "http://127.0.0.1:15001"
    host: str = "token-exchange"

    def request(self, chain: str, audience: SpiffeId, narrowing: Narrowing) -> httpx.Request:
        """Return the request for a chain that this agent may show to `audience`. Raises MintingError."""
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token": chain,
            "subject_token_type": DELEGATION_CHAIN_TYPE,
            "requested_token_type": DELEGATION_CHAIN_TYPE,
            "audience": audience.uri,
            **_narrowed(narrowing),
        }
        return httpx.Request(
            "POST",
            f"{self.url.rstrip('/')}{TOKEN_PATH}",
            headers={
                "host": self.host,
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/json",
            },
            content=urlencode(form, doseq=True).encode("ascii"),
            extensions={"timeout": httpx.Timeout(EXCHANGE_SECONDS).as_dict()},
        )

    def answered(self, response: httpx.Response, agent: SpiffeId, audience: SpiffeId) -> Exchanged:
        """Return what a response that was read holds. Raises ExchangeError."""
        members = _members(response)
        if response.status_code != 200:
            raise _refused(response.status_code, members)
        chain, kind = members.get("access_token"), members.get("issued_token_type")
        if not isinstance(chain, str) or kind != DELEGATION_CHAIN_TYPE:
            raise ExchangeError("the exchange answered without a delegation chain")
        last = LastLink.of(chain).claims
        if (last.holder, last.audience) != (agent, audience):
            raise ExchangeError("the exchange answered with a chain for another call")
        return Exchanged(chain, last.expires_at, _is_once(chain))

    def exchange(
        self, chain: str, agent: SpiffeId, audience: SpiffeId, narrowing: Narrowing | None = None
    ) -> Exchanged:
        """Ask for a chain and wait for it: for clients other than httpx. Raises MintingError."""
        request = self.request(chain, audience, narrowing or Narrowing())
        try:
            with httpx.Client(trust_env=False) as client:
                return self.answered(client.send(request), agent, audience)
        except httpx.HTTPError as error:
            raise ExchangeError(f"the exchange cannot be reached: {type(error).__name__}") from None


def _narrowed(narrowing: Narrowing) -> Mapping[str, Any]:
    """Return the parameters that ask for less. Raises MintingError for what the exchange does not do."""
    if narrowing.actor is not None or narrowing.certificate_sha256 is not None:
        raise MintingError("the exchange names its client as actor and binds no certificate: leave both out")
    if narrowing.scopes is not None and not narrowing.scopes:
        raise MintingError("a link has at least one scope")
    parameters = {
        "scope": None if narrowing.scopes is None else " ".join(sorted(set(narrowing.scopes))),
        "resource": None if narrowing.allowed_targets is None else sorted(set(map(str, narrowing.allowed_targets))),
        "depth": narrowing.depth,
        "lifetime": narrowing.lifetime_seconds,
        "once": "true" if narrowing.once else None,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _members(response: httpx.Response) -> Mapping[str, Any]:
    try:
        members = json.loads(response.content)
    except ValueError:
        members = None
    return members if isinstance(members, dict) else {}


def _refused(status: int, members: Mapping[str, Any]) -> ExchangeError:
    """Return what the exchange said, or its sidecar, whose denials have a reason and a detail."""
    code = str(members.get("error") or members.get("reason") or "")
    sentence = str(members.get("error_description") or members.get("detail") or "")
    if _CODE.fullmatch(code) is None:
        return ExchangeError(f"the exchange answered {status}")
    more = f": {sentence}" if _SENTENCE.fullmatch(sentence) else ""
    return ExchangeError(f"the exchange answered {status} `{code}`{more}", code)


def _is_once(chain: str) -> bool:
    """Whether any link is for one call only: then all below it are."""
    try:
        return any(Claims.parse(decode_link(text, index).claims).once for index, text in enumerate(split_chain(chain)))
    except (Refusal, ClaimError):
        raise ExchangeError("the exchange answered with a chain that cannot be read") from None
