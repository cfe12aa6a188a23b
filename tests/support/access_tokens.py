"""Two identity providers, their access tokens, good ones and forged ones, and a policy that asks for them.

The first provider follows RFC 9068, and says which client's tokens who may show. The second is of another kind: its tokens
are of type `JWT`, name scopes of their own in `scp`, and may be shown by anybody.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ext_authz.client.signing import LinkSigner, public_jwk
from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.decision.decide import Snapshot
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.tokens.access_token import AccessToken, AccessTokenCache, AccessTrust, Provider, verify_access_token
from ext_authz.tokens.chain import Presentation
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import KeySet, parse_provider_jwks
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations
from support.authorizers import default_snapshot
from support.check_requests import Question
from support.delegated_policies import calling
from support.delegations import DROP, NOW, PLANNER, RETRIEVER, STS, TRUST_DOMAIN, Edit, Key, world

ISSUER, PARTNER = "https://login.example.com/realms/agents", "https://id.partner.test"
AUDIENCE, CLIENT, SHARED_CLIENT = "agents-api", "planner-ui", "shared-ui"
SUB, USER = "7c9e6679", "user:7c9e6679"  # for whom the chains of support/delegations.py are, too
TOKEN_ID, IDP_SESSION = "0a1b2c3d-4e5f-6071-8293", "idp-session-5f6071829"
ISSUED = NOW - 60

POLICY = f"""
kind: PermissionMatrix
trust_domain: {TRUST_DOMAIN}
groups: {{anybody: [planner, evil]}}
matrix:
  "@anybody":
    retriever: {{actions: [search, chat], delegation: optional, access_token: required}}
  planner:
    crm: {{actions: [search, chat], delegation: optional, access_token: optional, scopes: ["tickets:read"]}}
    mailer: {{actions: [search, chat], delegation: optional, access_token: forbidden}}
  retriever:
    crm: {{actions: [search], delegation: required, access_token: required}}
    mailer: {{actions: [search, chat], delegation: optional}}
  crm:
    mailer: {{actions: [search], delegation: optional, access_token: required}}
---
kind: PermissionMatrix
matrix:
  crm:
    mailer: {{actions: [search], delegation: optional}}
---
kind: ActionRegistry
actions:
  search: {{http: ["POST /v1/search"], scope: "kb:search"}}
  chat: {{http: ["POST /v1/chat"], scope: "llm:read", access_token: required}}
---
kind: Delegation
root_issuers: [{{id: delegation-sts, subjects: "user:*"}}]
minters: [delegation-sts]
keys: {{delegation-sts: sts.jwks.json}}
bundles: {{{TRUST_DOMAIN}: bundle.pem}}
---
kind: IdentityProviders
providers:
- issuer: {ISSUER}
  audience: {AUDIENCE}
  keys: idp.jwks.json
  clients: {{{CLIENT}: planner, {SHARED_CLIENT}: [planner, retriever, crm]}}
- issuer: {PARTNER}
  audience: [{AUDIENCE}, "api://agents"]
  keys: partner.jwks.json
  token_types: [at+jwt, JWT]
  on_behalf_of: "partner:{{sub}}"
  scope_claim: scp
  scopes: {{Search.Read: ["kb:search"], Tickets.Read.All: ["tickets:read"]}}
"""


@dataclass(frozen=True)
class Idp:
    """An identity provider: its issuer and its private keys by name."""

    issuer: str
    keys: Mapping[str, Key]

    @property
    def jwks(self) -> bytes:
        """The JWK set that it publishes, beside a key for encryption that nobody here uses."""
        encryption = public_jwk(ec.generate_private_key(ec.SECP256R1()), "enc-1") | {"use": "enc", "alg": "ECDH-ES"}
        keys = [public_jwk(key, key_id) for key_id, key in self.keys.items()]
        return json.dumps({"keys": [encryption, *keys]}).encode()

    @property
    def key_set(self) -> KeySet:
        """The keys that it publishes, read."""
        return KeySet(parse_provider_jwks(self.jwks))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token of the first provider's kind."""
        usual = {
            "iss": self.issuer,
            "sub": SUB,
            "aud": AUDIENCE,
            "client_id": CLIENT,
            "scope": "openid kb:search tickets:read",
            "iat": ISSUED,
            "exp": ISSUED + 600,
            "jti": TOKEN_ID,
            "sid": IDP_SESSION,
        }
        return {name: value for name, value in {**usual, **changes}.items() if value is not DROP}

    def token(
        self,
        key_id: str = "",
        *,
        header: Mapping[str, Any] | None = None,
        header_text: Edit = bytes,
        claims_text: Edit = bytes,
        sign: Edit | None = None,
        **claims: Any,
    ) -> str:
        """Return a token: a good one, or one whose header, claims or JSON are changed before it is signed."""
        key_id = key_id or next(iter(self.keys))
        signer = LinkSigner.with_key_id(STS, key_id, self.keys[key_id])
        usual = {"alg": signer.algorithm, "typ": "at+jwt", "kid": key_id} | dict(header or {})
        parts = (
            header_text(_json({name: value for name, value in usual.items() if value is not DROP})),
            claims_text(_json(self.claims(**claims))),
        )
        signing_input = ".".join(map(encode_base64url, parts))
        return f"{signing_input}.{encode_base64url((sign or signer._sign)(signing_input.encode()))}"


@dataclass(frozen=True)
class Providers:
    """Both identity providers, with keys of this run."""

    idp: Idp
    partner: Idp

    @classmethod
    def create(cls) -> Self:
        """Make all keys."""
        keys: dict[str, Key] = {
            "idp-1": ec.generate_private_key(ec.SECP256R1()),
            "idp-rsa": world().rsa_key,
            "idp-ed": ed25519.Ed25519PrivateKey.generate(),
        }
        return cls(Idp(ISSUER, keys), Idp(PARTNER, {"partner-1": ec.generate_private_key(ec.SECP256R1())}))

    def partner_token(self, **changes: Any) -> str:
        """Return a token of the second provider's kind."""
        header = {"typ": "JWT", "x5t": "c29tZSBrZXk"} | changes.pop("header", {})
        kind: dict[str, Any] = {
            "scope": DROP,
            "scp": "Search.Read Profile",
            "client_id": DROP,
            "azp": "ui",
            "sid": DROP,
        }
        return self.partner.token(header=header, **kind | {"aud": "api://agents"} | changes)

    def trust(self, revocations: Revocations = NO_REVOCATIONS, **changes: Any) -> AccessTrust:
        """Return what the server is configured with; `changes` are of the first provider."""
        first = Provider(
            ISSUER,
            frozenset({AUDIENCE}),
            self.idp.key_set,
            clients={CLIENT: frozenset({PLANNER}), SHARED_CLIENT: frozenset({PLANNER, RETRIEVER})},
        )
        second = Provider(
            PARTNER,
            frozenset({AUDIENCE, "api://agents"}),
            self.partner.key_set,
            token_types=frozenset({"at+jwt", "jwt"}),
            before_sub="partner:",
            scope_claim="scp",
            scopes={"Search.Read": frozenset({"kb:search"})},
        )
        return AccessTrust({ISSUER: replace(first, **changes), PARTNER: second}, revocations)


@cache
def providers() -> Providers:
    """Return the identity providers of this run."""
    return Providers.create()


@dataclass(frozen=True)
class Bearing:
    """A token as it is shown: by whom, when, and what is configured then."""

    token: str
    presenter: SpiffeId = PLANNER
    now: float = NOW
    certificate_sha256: bytes | None = None
    trust: AccessTrust = field(default_factory=lambda: providers().trust())
    header: str | None = None  # instead of `Bearer` and the token

    def verified(self, cache: AccessTokenCache | None = None) -> AccessToken:
        """Verify the token. Raises NotAllowed."""
        presentation = Presentation(self.presenter, RETRIEVER, self.now, self.certificate_sha256)
        header = f"Bearer {self.token}" if self.header is None else self.header
        return verify_access_token(header, presentation, self.trust, cache)


@cache
def token_policy() -> Policy:
    """Return the compiled policy, with the keys of this run."""
    sts = {"keys": [public_jwk(world().sts_key, "sts-1")]}
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text(POLICY)
        Path(name, "sts.jwks.json").write_text(json.dumps(sts))
        Path(name, "bundle.pem").write_bytes(world().ca.bundle_pem)
        Path(name, "idp.jwks.json").write_bytes(providers().idp.jwks)
        Path(name, "partner.jwks.json").write_bytes(providers().partner.jwks)
        return load(Path(name))


def token_snapshot(controls: Controls = NO_CONTROLS) -> Snapshot:
    """Return a snapshot of that policy."""
    return replace(default_snapshot(), policy=token_policy(), controls=controls)


def bearing(
    token: str | None,
    caller: SpiffeId = PLANNER,
    target: SpiffeId = RETRIEVER,
    chain: str | None = None,
    **changes: Any,
) -> Question:
    """Return what a call with an access token, a chain or both makes Envoy ask; None: without one."""
    question = calling(chain, caller, target)
    tokens = [] if token is None else [("authorization", f"Bearer {token}")]
    return question.but(headers=[*question.headers, *tokens]).but(**changes)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
