"""An exchange in the world of tests/support/delegations.py: its policy, its keys, and clients that its sidecar knows."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import httpx

from ext_authz.client.signing import generate_private_key, private_key_pem
from ext_authz.decision.controls import Controls
from ext_authz.exchange.admission import ExchangeSnapshot
from ext_authz.exchange.app import exchange_app
from ext_authz.exchange.journal import Journal
from ext_authz.exchange.keys import KeyRing
from ext_authz.exchange.service import Exchange
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.stores.control import ControlStore
from ext_authz.stores.once import OnceRegister
from ext_authz.tokens.chain import Delegation, DelegationTrust, Presentation, verify_chain
from ext_authz.tokens.exchange_names import DELEGATION_CHAIN_TYPE, GRANT_TYPE, TOKEN_PATH
from ext_authz.tokens.jws import encode_base64url
from support.access_tokens import CLIENT, ISSUER, PARTNER, SHARED_CLIENT, providers
from support.delegations import CRM, MAILER, NOW, RETRIEVER, TRUST_DOMAIN, workload, world

EXCHANGE = workload("token-exchange")
FORM = "application/x-www-form-urlencoded"
# The second from which the exchange's key signs: before anything in this world.
SIGNS_FROM = NOW - 7200

POLICY = f"""
kind: PermissionMatrix
trust_domain: {TRUST_DOMAIN}
groups: {{clients: [planner, retriever, crm, mailer]}}
matrix:
  "@clients":
    token-exchange: {{actions: [token.exchange], delegation: forbidden}}
  evil:
    token-exchange: {{actions: [token.exchange], delegation: forbidden}}
    crm: [search]
deny:
  - {{subject: mailer, resource: token-exchange, action: token.exchange, because: it only sends mail}}
---
kind: ActionRegistry
actions:
  search: {{http: ["POST /v1/search"]}}
  token.exchange: {{http: ["POST /oauth/token"], screen: headers}}
---
kind: Delegation
root_issuers: [{{id: delegation-sts, subjects: "user:*"}}, {{id: token-exchange, subjects: "user:*"}}]
minters: [delegation-sts, token-exchange]
required: false
keys: {{delegation-sts: sts.jwks.json}}
bundles: {{{TRUST_DOMAIN}: bundle.pem}}
"""

# The same with two identity providers: the first says which client's tokens who may show, the second does not.
PROVIDERS = f"""
kind: IdentityProviders
providers:
- issuer: {ISSUER}
  audience: agents-api
  keys: idp.jwks.json
  clients: {{{CLIENT}: planner, {SHARED_CLIENT}: [planner, retriever]}}
  scopes: {{openid: ["profile"], "kb:search": ["kb:search"], "tickets:read": ["tickets:read"]}}
- issuer: {PARTNER}
  audience: {EXCHANGE}
  keys: partner.jwks.json
  token_types: [at+jwt, JWT]
  on_behalf_of: "partner:{{sub}}"
"""
WITH_PROVIDERS = f"{POLICY}---{PROVIDERS}"


def write_policy(directory: Path, text: str = POLICY) -> Path:
    """Write a policy with the keys of this run."""
    directory.mkdir(exist_ok=True)
    x = encode_base64url(world().sts_key.public_key().public_bytes_raw())
    key_set = {"keys": [{"kid": "sts-1", "kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "x": x}]}
    (directory / "policy.yaml").write_text(text)
    (directory / "sts.jwks.json").write_text(json.dumps(key_set))
    (directory / "bundle.pem").write_bytes(world().ca.bundle_pem)
    if PROVIDERS in text:
        (directory / "idp.jwks.json").write_bytes(providers().idp.jwks)
        (directory / "partner.jwks.json").write_bytes(providers().partner.jwks)
    return directory


def write_key(directory: Path, signs_from: float, ending: str = "AAAAAAAA") -> str:
    """Write a key that signs from a moment on, and return its name."""
    directory.mkdir(mode=0o700, exist_ok=True)
    name = f"{datetime.fromtimestamp(signs_from, UTC):%Y%m%dT%H%M%SZ}-{ending}"
    path = directory / f"{name}.pem"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(private_key_pem(generate_private_key("Ed25519")))
    return name


class Answer(NamedTuple):
    """What the exchange answered: status, and the members of the body."""

    status: int
    body: Mapping[str, Any]
    headers: httpx.Headers

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of a refusal."""
        return self.status, self.body["error"]

    @property
    def chain(self) -> str:
        """The token that was issued."""
        assert self.status == 200, self.body
        return str(self.body["access_token"])


@dataclass
class Bench:
    """An exchange without a process around it, at NOW unless `clock` says otherwise."""

    exchange: Exchange
    store: ControlStore
    journal: Path
    clock: list[float]

    @classmethod
    @contextmanager
    def running(cls, directory: Path, policy: str = POLICY, controls: Controls | None = None) -> Iterator[Self]:
        """Make an exchange with files below `directory`."""
        loaded = load(write_policy(directory / "policies", policy))
        write_key(directory / "keys", SIGNS_FROM)
        keys = KeyRing.load(directory / "keys")
        clock = [float(NOW)]
        journal = Journal.open(directory / "exchanges.jsonl")
        with ControlStore.open(directory / "control" / "control.db", create=True) as store:
            once = OnceRegister.open(directory / "control" / "control.db")
            snapshot = ExchangeSnapshot(EXCHANGE, loaded, keys, controls or Controls(consumes_once=True))
            exchange = Exchange(snapshot, once, journal, clock=lambda: clock[0])
            try:
                yield cls(exchange, store, directory / "exchanges.jsonl", clock)
            finally:
                once._store.close()
                journal.close()

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self.exchange.snapshot.policy

    @property
    def trust(self) -> DelegationTrust:
        """What a server would believe: the policy, and the key set that the exchange publishes."""
        return self.exchange.snapshot.trust(self.clock[0])

    async def ask(
        self, chain: str, client: SpiffeId = RETRIEVER, audience: SpiffeId | None = CRM, **parameters: Any
    ) -> Answer:
        """Ask as a client, by the header that the sidecar would write."""
        form = {"audience": audience.uri if audience else None, "subject_token": chain} | parameters
        return await self.post(form_of(**form), xfcc=[xfcc_of(client)])

    async def post(
        self, body: bytes, *, xfcc: list[str] | None = None, content_type: str = FORM, path: str = TOKEN_PATH
    ) -> Answer:
        """Send any bytes with any headers."""
        lines = [xfcc_of(RETRIEVER)] if xfcc is None else xfcc
        headers = [(b"content-type", content_type.encode())]
        headers += [(b"x-forwarded-client-cert", line.encode("latin-1")) for line in lines]
        transport = httpx.ASGITransport(app=exchange_app(self.exchange))
        async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
            response = await client.post(path, content=body, headers=headers)
        return Answer(response.status_code, response.json(), response.headers)

    def verified(self, chain: str, presenter: SpiffeId = RETRIEVER, destination: SpiffeId = CRM) -> Delegation:
        """Verify a chain as the server of `destination` would. Raises Refusal."""
        return verify_chain(chain, Presentation(presenter, destination, self.clock[0]), self.trust)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The attributes of all exchanges so far."""
        return [json.loads(line)["attributes"] for line in self.journal.read_text().splitlines()]


def form_of(**parameters: Any) -> bytes:
    """Return a token request; a parameter of None is left out, one that is a list is repeated."""
    usual = {"grant_type": GRANT_TYPE, "subject_token_type": DELEGATION_CHAIN_TYPE}
    given = {name: value for name, value in (usual | parameters).items() if value is not None}
    return urlencode(given, doseq=True).encode()


def xfcc_of(client: SpiffeId, by: SpiffeId = EXCHANGE) -> str:
    """Return what the sidecar of the exchange writes about a client."""
    return f"By={by};Hash={'0' * 64};URI={client}"


__all__ = [
    "CRM",
    "EXCHANGE",
    "MAILER",
    "RETRIEVER",
    "Answer",
    "Bench",
    "form_of",
    "write_key",
    "write_policy",
    "xfcc_of",
]
