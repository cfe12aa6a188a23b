"""A running server and an identity provider over HTTP: found by discovery, rotating, silent, slow, and telling nonsense."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.access_tokens import Idp
from support.authorizers import reason_of
from support.check_requests import QUESTION, TRUST_DOMAIN, agent
from support.key_server import KeyServer, Page, jwk, jwks
from support.server_process import ServerProcess

METADATA = "/.well-known/openid-configuration"
POLICY = f"""
kind: PermissionMatrix
trust_domain: {TRUST_DOMAIN}
matrix:
  planner-agent:
    retrieval-agent: {{actions: [search], access_token: required}}
    database-agent: {{actions: [search], access_token: optional}}
---
kind: ActionRegistry
actions: {{search: {{http: ["POST /v1/search"], scope: "kb:search"}}}}
"""


@dataclass
class Place:
    """A policy that names an issuer, and the identity provider."""

    policies: Path
    web: KeyServer
    idp: Idp

    def provide(self, **changes: str) -> None:
        """Write the IdentityProviders document."""
        provider = {"issuer": self.web.url, "audience": "agents-api", "clients": {"ui": "planner-agent"}}
        document = {"kind": "IdentityProviders", "providers": [provider | changes]}
        (self.policies / "providers.yaml").write_text(json.dumps(document))

    def publish(self, *key_ids: str, issuer: str | None = None, keys_at: str | None = None) -> None:
        """Publish metadata and these keys."""
        metadata = {"issuer": issuer or self.web.url, "jwks_uri": keys_at or self.web.address}
        self.web.give(json.dumps(metadata).encode(), METADATA)
        keys = [jwk(key_id, key) for key_id in key_ids if isinstance(key := self.idp.keys[key_id], Ed25519PrivateKey)]
        self.web.give(jwks(*keys, {"kid": "enc", "kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}))

    def reason(self, server: ServerProcess, key_id: str | None = None, target: str = "retrieval-agent") -> str:
        """Ask as the planner, with a token when there is a key."""
        question = QUESTION.but(target=agent(target))
        if key_id is not None:
            now = int(time.time())
            token = self.idp.token(key_id, aud="agents-api", client_id="ui", iat=now, exp=now + 300)
            question = question.but(headers=[("authorization", f"Bearer {token}")])
        return reason_of(server.check(question.message()))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "matrix.yaml").write_text(POLICY)
    with KeyServer.running(Page(status=503)) as web:
        keys = {name: Ed25519PrivateKey.generate() for name in ("first", "second")}
        place = Place(policies, web, Idp(web.url, keys))
        place.provide()
        yield place


def test_discovery_and_an_outage(place: Place) -> None:
    """Until the provider answers, its tokens are 503 and nothing else is; then they count, also when it falls silent."""
    with ServerProcess.running(place.policies) as server:
        server.wait_for_log("keys of 127.0.0.1 cannot be fetched, none count now")
        silent = [
            place.reason(server),
            place.reason(server, "first"),
            place.reason(server, None, "database-agent"),
            place.reason(server, "first", "database-agent"),
        ]
        assert ["oidc_missing", "keys_unavailable", "allowed", "keys_unavailable"] == silent
        place.publish("first")
        server.wait_for(lambda: place.reason(server, "first") == "allowed", "the keys")
        assert "oidc_signature" == place.reason(server, "second")
        for path in (METADATA, "/jwks.json"):
            place.web.give(Page(status=500), path)
        (place.policies / "more.yaml").write_text(f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\n")
        server.wait_for_log("policy reloaded")
        assert "allowed" == place.reason(server, "first")
        assert server.stop() == 0
        assert place.web.url not in server.log


def test_keys_that_change(place: Place) -> None:
    """A running server takes up a new set of keys; what is not in it counts no more, though its token was seen before."""
    place.publish("first")
    with ServerProcess.running(place.policies) as server:
        server.wait_for(lambda: place.reason(server, "first") == "allowed", "the keys")
        assert "oidc_signature" == place.reason(server, "second")
        second = place.idp.keys["second"]
        assert isinstance(second, Ed25519PrivateKey)
        place.web.give(jwks(jwk("second", second)), "/moved.json")
        place.provide(keys=f"{place.web.url}/moved.json")
        server.wait_for(lambda: place.reason(server, "second") == "allowed", "the new keys")
        assert "oidc_signature" == place.reason(server, "first")


@pytest.mark.parametrize(
    ("issuer", "keys_at"), [("https://evil.test", None), ("{url}/", None), (None, "http://evil.test/jwks.json")]
)
def test_metadata_that_lies(place: Place, issuer: str | None, keys_at: str | None) -> None:
    """Metadata of another issuer, or that leads elsewhere without TLS, gives no keys."""
    place.publish("first", issuer=issuer and issuer.format(url=place.web.url), keys_at=keys_at)
    with ServerProcess.running(place.policies) as server:
        server.wait_for_log("keys of 127.0.0.1 cannot be fetched, none count now")
        assert "keys_unavailable" == place.reason(server, "first")
        assert "/jwks.json" not in place.web.asked


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"keys": []}', b'{"keys": [], "keys": []}', b"{" * 10_000])
def test_garbage(place: Place, body: bytes) -> None:
    """Nonsense in place of keys is no answer."""
    place.publish("first")
    place.web.give(body)
    with ServerProcess.running(place.policies) as server:
        server.wait_for_log("keys of 127.0.0.1 cannot be fetched, none count now")
        assert ["keys_unavailable", "allowed"] == [
            place.reason(server, "first"),
            place.reason(server, None, "database-agent"),
        ]


def test_slow_provider(place: Place) -> None:
    """A provider that does not come to an end holds up no decision."""
    place.publish("first")
    place.web.give(Page(place.web.slowly([b"{"] * 60, 1)), METADATA)
    with ServerProcess.running(place.policies) as server:
        server.wait_for(lambda: place.web.asked, "a question for metadata")
        assert ["keys_unavailable", "oidc_missing"] == [place.reason(server, "first"), place.reason(server)]
        assert server.stop() == 0
