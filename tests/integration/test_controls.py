"""A running server and its control store: quarantine, revocation and one-time chains, as operators use them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION, TRUST_DOMAIN, agent
from support.server_process import ServerProcess

from ext_authz.client import LinkSigner, Narrowing, attenuate
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.demo.delegation import TokenService
from ext_authz.local.svid import X509Svid

PLANNER, RETRIEVAL = (SpiffeId.parse_workload(agent(name)) for name in ("planner-agent", "retrieval-agent"))
SESSION = "integration-session-1"


@dataclass
class Place:
    """A server with a control store, and what makes chains that it believes."""

    server: ServerProcess
    store: Path
    token_service: TokenService
    svid: X509Svid

    def reason(self, *, once: bool = False, chain: str | None = None, with_chain: bool = True) -> str:
        """Ask as the planner, and return the reason code."""
        if with_chain:
            chain = chain or self.chain(once=once)
        certificate = self.svid.certificate
        digest = certificate.fingerprint(hashes.SHA256()).hex()
        question = QUESTION.but(
            certificate=quote(self.svid.chain_pem.decode(), safe=""),
            xfcc=f"By={RETRIEVAL};Hash={digest};URI={PLANNER}",
            headers=[("x-delegation-token", chain)] if chain else [],
        )
        return reason_of(self.server.check(question.message()))

    def chain(self, *, once: bool = False) -> str:
        """Return a chain of two links for the call."""
        grant = self.token_service.grant(PLANNER, [RETRIEVAL], session_id=SESSION)
        signer = LinkSigner.with_svid([self.svid.certificate], self.svid.private_key)
        return attenuate(signer, grant, RETRIEVAL, Narrowing(once=once), time.time())

    def command(self, *arguments: str) -> None:
        """Run `ext-authz` on the store."""
        command = [sys.executable, "-m", "ext_authz", *arguments, "--store", str(self.store)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def waits_for(self, reason: str) -> float:
        """Return the seconds until the answer is `reason`."""
        started = time.monotonic()
        self.server.wait_for(lambda: self.reason() == reason, reason)
        return time.monotonic() - started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Start a server that follows a store."""
    directory = tmp_path_factory.mktemp("controls")
    policies = directory / "policies"
    copytree(DEFAULT_POLICY, policies)
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    token_service = TokenService(SpiffeId.parse_workload(agent("delegation-sts")))
    token_service.write_policy(policies, ca.bundle_pem)
    store = directory / "control" / "control.sqlite"
    admin = f"unix:{store.parent / 'admin.sock'}"
    with ServerProcess.running(
        policies, control_store=str(store), admin_listen=admin, audit_file="/dev/null"
    ) as server:
        yield Place(server, store, token_service, ca.issue(PLANNER))


def test_chain_is_verified_by_a_server(place: Place) -> None:
    """A chain that a token service started and an agent passed on is allowed; one with a changed byte is not."""
    chain = place.chain()
    assert ["allowed", "token_signature"] == [
        place.reason(chain=chain),
        place.reason(chain=chain[:-10] + ("A" if chain[-10] != "A" else "B") + chain[-9:]),
    ]


def test_one_time_chain_is_used_once(place: Place) -> None:
    """A chain with the caveat `once` is allowed the first time only; another one is allowed again."""
    chain = place.chain(once=True)
    assert ["allowed", "token_replayed", "token_replayed"] == [place.reason(chain=chain) for _ in range(3)]
    assert place.reason(once=True) == "allowed"


def test_quarantine_is_in_force_within_a_second(place: Place) -> None:
    """A caller in quarantine is refused with and without a chain, and allowed again once it is lifted."""
    place.command("quarantine", PLANNER.uri, "--because", "seen calling strangers")
    assert place.waits_for("revoked") < 1.5
    assert place.reason(with_chain=False) == "revoked"
    place.command("quarantine", PLANNER.uri, "--lift")
    assert place.waits_for("allowed") < 1.5


def test_revoked_session_is_refused_within_a_second(place: Place) -> None:
    """Chains of a revoked session are refused; the caller's own authority is not touched."""
    place.command("token", "revoke", "--sid", SESSION)
    assert place.waits_for("token_revoked") < 1.5
    assert place.reason(with_chain=False) == "allowed"
    place.command("token", "revoke", "--sid", SESSION, "--lift")
    assert place.waits_for("allowed") < 1.5


def test_change_over_the_admin_socket_is_in_force_when_it_is_answered(place: Place) -> None:
    """What a tool writes to the admin socket counts from the answer on, as does what it lifts; only this user may write."""
    socket = place.store.parent / "admin.sock"
    assert 0o600 == socket.stat().st_mode & 0o777
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://admin") as admin:
        for _ in range(5):
            answer = admin.post(
                "/v1/controls", json={"kind": "quarantine", "value": PLANNER.uri, "because": "INC-4711"}
            )
            assert (201, "revoked") == (answer.status_code, place.reason())
            assert 200 == admin.delete(f"/v1/controls/quarantine/{PLANNER.uri}").status_code
            assert "allowed" == place.reason()
        assert ["INC-4711"] == [
            entry["because"] for entry in admin.get("/v1/controls").json()["entries"] if entry["because"]
        ]
    assert "put into force: quarantine" in place.server.log


def test_store_that_is_gone_stops_chains(tmp_path: Path) -> None:
    """When the store cannot be read, chains are refused once the list is too old; calls without a chain go on."""
    policies = tmp_path / "policies"
    copytree(DEFAULT_POLICY, policies)
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    token_service = TokenService(SpiffeId.parse_workload(agent("delegation-sts")))
    token_service.write_policy(policies, ca.bundle_pem)
    store = tmp_path / "control" / "control.sqlite"
    with ServerProcess.running(
        policies, control_store=str(store), max_control_age_seconds=1, audit_file="/dev/null"
    ) as server:
        place = Place(server, store, token_service, ca.issue(PLANNER))
        assert place.reason() == "allowed"
        for file in store.parent.iterdir():
            file.unlink()
        place.waits_for("keys_unavailable")
        assert place.reason(with_chain=False) == "allowed"


def test_one_time_chain_needs_a_store(tmp_path: Path) -> None:
    """Without a control store a chain that may be used once is refused: nobody would remember that it was."""
    policies = tmp_path / "policies"
    copytree(DEFAULT_POLICY, policies)
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    token_service = TokenService(SpiffeId.parse_workload(agent("delegation-sts")))
    token_service.write_policy(policies, ca.bundle_pem)
    with ServerProcess.running(policies, audit_file="/dev/null") as server:
        place = Place(server, tmp_path / "none", token_service, ca.issue(PLANNER))
        assert ["store_unavailable", "allowed"] == [place.reason(once=True), place.reason()]
