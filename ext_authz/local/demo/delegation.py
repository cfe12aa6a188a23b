"""Delegation in the demo: a token service that starts chains for a user, and chains that must not pass."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ext_authz.client import LinkSigner, Narrowing, Root, attenuate, mint_root
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.svid import X509Svid
from ext_authz.tokens.jws import decode_link, encode_base64url, split_chain

USER = "user:alice"
SCOPES = ("read", "search")
KEY_ID = "demo-1"
# Names of the files that the demo puts beside its copy of the policy.
DOCUMENT, KEYS, BUNDLE = "delegation.yaml", "delegation-sts.jwks.json", "bundle.pem"
EXCHANGE_KEYS = "token-exchange.jwks.json"


class ExchangeKeys(NamedTuple):
    """The exchange, and the JWK set that it signs with."""

    spiffe_id: SpiffeId
    key_set: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TokenService:
    """Starts chains. Its key lives as long as the demo."""

    spiffe_id: SpiffeId
    _key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)

    def write_policy(self, directory: Path, bundle_pem: bytes, exchange: ExchangeKeys | None = None) -> None:
        """Tell the authorization server whose chains count. They stay optional: most calls of the demo carry none."""
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        jwk = {"kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "kid": KEY_ID, "x": encode_base64url(public)}
        (directory / KEYS).write_text(json.dumps({"keys": [jwk]}))
        (directory / BUNDLE).write_bytes(bundle_pem)
        document: dict[str, Any] = {
            "kind": "Delegation",
            "root_issuers": [{"id": self.spiffe_id.uri, "subjects": "user:*", "scopes": [*SCOPES]}],
            "minters": [self.spiffe_id.uri],
            "required": False,
            "keys": {self.spiffe_id.uri: KEYS},
            "bundles": {self.spiffe_id.trust_domain: BUNDLE},
        }
        if exchange is not None:
            (directory / EXCHANGE_KEYS).write_text(json.dumps(exchange.key_set))
            limits = {"id": exchange.spiffe_id.uri, "subjects": "user:*", "scopes": [*SCOPES]}
            document["root_issuers"].append(limits)
            document["minters"].append(exchange.spiffe_id.uri)
            document["keys"][exchange.spiffe_id.uri] = EXCHANGE_KEYS
        (directory / DOCUMENT).write_text(json.dumps(document, indent=2) + "\n")

    def grant(self, agent: SpiffeId, targets: list[SpiffeId], *, session_id: str, depth: int = 3) -> str:
        """Start a chain for the user's session, for `agent` to pass on."""
        root = Root(
            on_behalf_of=USER,
            audience=agent,
            scopes=SCOPES,
            allowed_targets=[agent, *targets],
            session_id=session_id,
            depth=depth,
        )
        return mint_root(LinkSigner.with_key_id(self.spiffe_id, KEY_ID, self._key), root, time.time())


def signer_of(svid: X509Svid) -> LinkSigner:
    """Return the signer of an agent that holds its SVID."""
    return LinkSigner.with_svid([svid.certificate], svid.private_key)


def passed_on(chain: str, svid: X509Svid, audience: SpiffeId, **narrowing: Any) -> str:
    """Return the chain with a link of the agent, for `audience`."""
    return attenuate(signer_of(svid), chain, audience, Narrowing(**narrowing), time.time())


def rewritten(chain: str, svid: X509Svid, **claims: Any) -> str:
    """Return the chain with other claims in its last link, signed anew by the agent: what a hostile agent would try."""
    *before, last = split_chain(chain)
    link = decode_link(last, len(before))
    return "~".join([*before, signer_of(svid).sign({**link.claims, **claims})])
