"""The exchange as a process: what its sidecar sees, and that policy, keys and revocations are followed."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.delegations import CRM, RETRIEVER, claims_of, header_of, world
from support.exchange_process import ExchangeProcess, run_exchange
from support.server_process import PATIENCE_SECONDS, server_environment

from ext_authz.client.minting import Root, mint_root
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind

SESSION = "integration-session-1"


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeProcess]:
    with ExchangeProcess.running() as process:
        yield process


def root() -> str:
    """Return a root of this moment that the retriever received."""
    granted = Root(
        on_behalf_of="user:alice",
        session_id=SESSION,
        actor=None,
        audience=RETRIEVER,
        scopes=["search"],
        allowed_targets=[RETRIEVER, CRM],
    )
    return mint_root(world().sts, granted, time.time())


def test_exchange(exchange: ExchangeProcess) -> None:
    """A client gets a chain over the unix socket, and the line about it holds no token."""
    chain = root()
    answer = exchange.ask(chain, RETRIEVER, CRM)
    assert (200, "no-store") == (answer.status_code, answer.headers["cache-control"])
    issued = answer.json()["access_token"]
    assert (CRM.uri, exchange.key_ids()[0]) == (claims_of(issued)["aud"], header_of(issued)["kid"])
    assert claims_of(issued)["jti"] in exchange.journal
    assert "server" not in answer.headers
    for text in (exchange.journal, exchange.log):
        assert all(link not in text for link in issued.split("~"))
    assert 0o600 == (exchange.directory / "exchanges.jsonl").stat().st_mode & 0o777


def test_socket_is_private(exchange: ExchangeProcess) -> None:
    """Only the user of the exchange, and so its sidecar, can open its socket: whoever can, names the client."""
    socket = Path(exchange.address.removeprefix("unix:"))
    assert [0o600, 0o700] == [path.stat().st_mode & 0o777 for path in (socket, socket.parent)]


def test_revocation_is_followed(exchange: ExchangeProcess) -> None:
    """What is revoked in the control store is refused within a second, and given again once it is lifted."""
    chain = root()
    with ControlStore.open(exchange.store) as store:
        store.add(Entry.new(Kind.SESSION_ID, SESSION, time.time()))
        started = time.monotonic()
        exchange.wait_for(lambda: exchange.ask(chain, RETRIEVER, CRM).status_code == 400, "the revocation")
        assert time.monotonic() - started < 1.5
        store.lift(Kind.SESSION_ID, SESSION, time.time())
    exchange.wait_for(lambda: exchange.ask(chain, RETRIEVER, CRM).status_code == 200, "its end")


def test_rotation_is_followed(exchange: ExchangeProcess) -> None:
    """A new key is published without a restart and before it signs; one that signs at once does so."""
    (first,) = exchange.key_ids()
    run_exchange("rotate", "--keys", exchange.keys)
    exchange.wait_for(lambda: len(exchange.key_ids()) == 2, "the new key")
    assert first == header_of(exchange.ask(root(), RETRIEVER, CRM).json()["access_token"])["kid"]
    run_exchange("rotate", "--keys", exchange.keys, "--now")
    exchange.wait_for(lambda: len(exchange.key_ids()) == 3, "the key of this moment")
    assert first != header_of(exchange.ask(root(), RETRIEVER, CRM).json()["access_token"])["kid"]


def test_bad_change_keeps_what_was_there(exchange: ExchangeProcess) -> None:
    """A broken policy or key is logged, and the exchange goes on with what it had."""
    path = exchange.directory / "policies" / "policy.yaml"
    good = path.read_text()
    path.write_text(good.replace("minters: [delegation-sts, token-exchange]", "minters: [delegation-sts]"))
    exchange.wait_for(lambda: "not reloaded: the Delegation document does not name" in exchange.log, "the refusal")
    assert 200 == exchange.ask(root(), RETRIEVER, CRM).status_code
    path.write_text(
        good.replace("groups: {clients: [planner, retriever, crm, mailer]}", "groups: {clients: [planner]}")
    )
    exchange.wait_for(lambda: exchange.ask(root(), RETRIEVER, CRM).status_code == 400, "the change")
    path.write_text(good)
    exchange.wait_for(lambda: exchange.ask(root(), RETRIEVER, CRM).status_code == 200, "the old policy")


def test_keys_elsewhere_are_followed(exchange: ExchangeProcess) -> None:
    """A key that is taken out of a file outside of the policy directory counts no more, without a restart."""
    policies, elsewhere = exchange.directory / "policies", exchange.directory / "elsewhere.jwks.json"
    good, key_set = (policies / "policy.yaml").read_text(), (policies / "sts.jwks.json").read_text()
    elsewhere.write_text(key_set)
    (policies / "policy.yaml").write_text(good.replace("sts.jwks.json", str(elsewhere)))
    before = exchange.log.count("reloaded: ")
    exchange.wait_for(lambda: exchange.log.count("reloaded: ") > before, "the policy")
    assert 200 == exchange.ask(root(), RETRIEVER, CRM).status_code
    elsewhere.write_text(key_set.replace("sts-1", "sts-2"))
    exchange.wait_for(lambda: exchange.ask(root(), RETRIEVER, CRM).status_code == 400, "the loss of the key")
    (policies / "policy.yaml").write_text(good)
    exchange.wait_for(lambda: exchange.ask(root(), RETRIEVER, CRM).status_code == 200, "the old policy")


def test_end() -> None:
    """On SIGTERM the exchange ends with exit code 0 and takes its socket away."""
    with ExchangeProcess.running() as process:
        socket = Path(process.address.removeprefix("unix:"))
        assert 0 == process.stop()
        assert not socket.exists()
        assert "stopped" in process.log


def test_loopback() -> None:
    """On loopback a free port can be chosen."""
    with ExchangeProcess.running(listen="127.0.0.1:0") as process:
        assert 200 == process.ask(root(), RETRIEVER, CRM).status_code


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "192.0.2.1:8080", "exchange.example.com:443", "unix:run.sock"])
def test_other_addresses(listen: str) -> None:
    """An address that others than its sidecar could reach is refused, with every other problem of the command line."""
    arguments = ["--policies", "none", "--keys", "none", "--control-store", "none"]
    command = [
        sys.executable,
        "-m",
        "ext_authz",
        "exchange",
        "serve",
        "--listen",
        listen,
        "--spiffe-id",
        "me",
        *arguments,
    ]
    ended = subprocess.run(
        command, check=False, capture_output=True, timeout=PATIENCE_SECONDS, env=server_environment()
    )
    problems = ended.stderr.decode().splitlines()
    assert (2, 2) == (ended.returncode, len(problems)), problems
    assert problems[0].startswith("--spiffe-id: not a SPIFFE ID")
    assert problems[1].startswith("--listen: ")


def test_files_that_are_wrong() -> None:
    """What is wrong with policy and keys is said at once, and nothing is served."""
    with tempfile.TemporaryDirectory(prefix="exchange-") as name:
        directory = Path(name)
        process = ExchangeProcess.prepared(directory)
        process.kill()
        next((directory / "keys").iterdir()).chmod(0o644)
        process = ExchangeProcess.start(directory, spiffe_id="spiffe://agents.example.com/another")
        try:
            assert 2 == process.process.wait(PATIENCE_SECONDS)
            problems = process.log.splitlines()
        finally:
            process.kill()
    assert 3 == len(problems), problems
    assert ["minters", "root_issuers"] == [problem.rpartition(" ")[2] for problem in problems[:2]]
    assert problems[2].endswith("others may read or write it: chmod 600")
