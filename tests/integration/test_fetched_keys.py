"""A running server and a token service that publishes its keys at an address."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION, TRUST_DOMAIN, agent
from support.key_server import KeyServer, Page, jwk, jwks
from support.server_process import ServerProcess

from ext_authz.client import LinkSigner, Narrowing, Root, attenuate, mint_root
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.svid import X509Svid

PLANNER, RETRIEVAL, STS = (
    SpiffeId.parse_workload(agent(name)) for name in ("planner-agent", "retrieval-agent", "delegation-sts")
)


@dataclass
class Place:
    """A policy that names an address of keys, and what asks under it."""

    policies: Path
    keys: KeyServer
    svid: X509Svid

    def reason(self, server: ServerProcess, key_id: str | None = None, key: Ed25519PrivateKey | None = None) -> str:
        """Ask as the planner, with a chain of the token service when it has a key."""
        question = QUESTION
        if key_id is not None and key is not None:
            certificate = self.svid.certificate
            question = QUESTION.but(
                certificate=quote(self.svid.chain_pem.decode(), safe=""),
                xfcc=f"By={RETRIEVAL};Hash={certificate.fingerprint(hashes.SHA256()).hex()};URI={PLANNER}",
                headers=[("x-delegation-token", self.chain(key_id, key))],
            )
        return reason_of(server.check(question.message()))

    def chain(self, key_id: str, key: Ed25519PrivateKey) -> str:
        """Start a chain and pass it on."""
        root = Root(
            on_behalf_of="user:alice", audience=PLANNER, scopes=["search"], allowed_targets=[PLANNER, RETRIEVAL]
        )
        grant = mint_root(LinkSigner.with_key_id(STS, key_id, key), root, time.time())
        signer = LinkSigner.with_svid([self.svid.certificate], self.svid.private_key)
        return attenuate(signer, grant, RETRIEVAL, Narrowing(), time.time())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    policies = tmp_path / "policies"
    copytree(DEFAULT_POLICY, policies)
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    (policies / "bundle.pem").write_bytes(ca.bundle_pem)
    with KeyServer.running(Page(status=503)) as keys:
        document = {
            "kind": "Delegation",
            "root_issuers": [STS.uri],
            "required": False,
            "keys": {STS.uri: keys.address},
            "bundles": {TRUST_DOMAIN: "bundle.pem"},
        }
        (policies / "delegation.yaml").write_text(json.dumps(document))
        yield Place(policies, keys, ca.issue(PLANNER))


def test_keys_of_a_token_service(place: Place) -> None:
    """The server starts without them, takes them up when they come, and keeps them when their address falls silent."""
    first, second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with ServerProcess.running(place.policies) as server:
        server.wait_for_log("keys of 127.0.0.1 cannot be fetched, none count now: it answers 503")
        assert ["allowed", "keys_unavailable"] == [place.reason(server), place.reason(server, "first", first)]
        place.keys.give(jwks(jwk("first", first)))
        server.wait_for_log("keys of 127.0.0.1: 1 in use")
        assert ["allowed", "token_key"] == [
            place.reason(server, "first", first),
            place.reason(server, "second", second),
        ]
        place.keys.give(Page(status=503))
        count = len(place.keys.asked)
        (place.policies / "more.yaml").write_text(f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\n")
        server.wait_for_log("policy reloaded")
        assert "allowed" == place.reason(server, "first", first)
        assert count == len(place.keys.asked)
        assert server.stop() == 0
        assert place.keys.address not in server.log


def test_address_that_is_new_in_the_policy(place: Place) -> None:
    """A reload starts to follow an address, and stops to follow it."""
    document = place.policies / "delegation.yaml"
    with_address = document.read_text()
    key = Ed25519PrivateKey.generate()
    place.keys.give(jwks(jwk("first", key)))
    document.unlink()
    with ServerProcess.running(place.policies) as server:
        assert "keys_unavailable" == place.reason(server, "first", key)
        assert [] == place.keys.asked
        document.write_text(with_address)
        server.wait_for(lambda: place.reason(server, "first", key) == "allowed", "the keys")
        document.unlink()
        server.wait_for(lambda: place.reason(server, "first", key) == "keys_unavailable", "the end of the keys")


def test_files_elsewhere(place: Place, tmp_path: Path) -> None:
    """Keys and bundles outside of the policy directory are read again when they change, without a signal."""
    agents, bundle, key = tmp_path / "agents", tmp_path / "spire" / "bundle.pem", Ed25519PrivateKey.generate()
    agents.mkdir()
    bundle.parent.mkdir()
    good = (place.policies / "bundle.pem").read_bytes()
    bundle.write_bytes(DevelopmentCa.create(TRUST_DOMAIN).bundle_pem)
    document = {
        "kind": "Delegation",
        "root_issuers": [STS.uri],
        "required": False,
        "key_directory": str(agents),
        "bundles": {TRUST_DOMAIN: str(bundle)},
    }
    (place.policies / "delegation.yaml").write_text(json.dumps(document))

    def waits_for(reason: str) -> None:
        server.wait_for(lambda: place.reason(server, "first", key) == reason, reason)

    with ServerProcess.running(place.policies) as server:
        assert "token_key" == place.reason(server, "first", key)  # of link 0: no key, and of link 1: another CA
        (agents / "sts.json").write_text(json.dumps({"issuer": "delegation-sts", "keys": [jwk("first", key)]}))
        server.wait_for_log("policy reloaded")
        assert "token_key" == place.reason(server, "first", key)  # of link 1
        bundle.with_name("new").write_bytes(good)
        bundle.with_name("new").rename(bundle)  # as SPIRE's tools write
        waits_for("allowed")
        (agents / "sts.json").write_text("{")
        server.wait_for_log(f"policy not reloaded: {agents}/sts.json:1:1: not a JWK set")
        assert "allowed" == place.reason(server, "first", key)
        (agents / "sts.json").unlink()
        waits_for("token_key")


def test_server_ends_while_keys_are_fetched(place: Place) -> None:
    """An address that does not answer holds up neither the start nor the end."""
    place.keys.give(Page(place.keys.slowly([b"{}"], 60)))
    with ServerProcess.running(place.policies) as server:
        server.wait_for(lambda: place.keys.asked, "a question for keys")
        assert "allowed" == place.reason(server)
        assert server.stop() == 0
