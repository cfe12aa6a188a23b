"""A real SPIRE agent and the local provider are asked the same questions, and answer alike.

Needs spire-server and spire-agent in $SPIRE_BIN or on PATH: spire/README.md says how to build them.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from ext_authz.pb.secret_pb2 import Secret, SPIFFECertValidatorConfig

CONFIGURATION = Path(__file__).parents[2] / "spire"
OWN = "spiffe://agents.example.com"
PLANNER = SpiffeId.parse_workload(f"{OWN}/planner-agent")
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
FETCH_SECRETS = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"

START_SECONDS = 60.0
STOP_SECONDS = 10.0

QUESTIONS = [
    [],
    [PLANNER.uri],
    ["default"],
    ["ROOTCA"],
    ["ALL"],
    [OWN],
    [PLANNER.uri, "ALL"],
    ["default", "ROOTCA"],
    ["ROOTCA", "ALL"],
    [PLANNER.uri, "default"],
    [f"{OWN}/database-agent"],
    ["spiffe://partner.test"],
    ["nope", "default"],
]

pytestmark = pytest.mark.long


def program(name: str) -> str:
    """Find a SPIRE program, or skip the test."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("SPIRE_BIN", ""), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip(f"{name} is neither in $SPIRE_BIN nor on PATH: see spire/README.md")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not happen within {START_SECONDS} seconds"
        time.sleep(0.5)


@contextlib.contextmanager
def running(run_directory: Path, *command: str) -> Iterator[None]:
    """Keep a program running, with its files in the run directory, and stop it in any case."""
    environment = {**os.environ, "SPIRE_RUN": str(run_directory)}
    process = subprocess.Popen(command, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class SpireServer:
    """The command line of a running server."""

    def __init__(self, run_directory: Path) -> None:
        self._socket = str(run_directory / "server.sock")

    def ask(self, *arguments: str, stdin: str = "") -> str:
        command = [program("spire-server"), *arguments, "-socketPath", self._socket]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def is_healthy(self) -> bool:
        command = [program("spire-server"), "healthcheck", "-socketPath", self._socket]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def spire_agent_socket(tmp_path: Path) -> Iterator[Path]:
    """Start server and agent with the files of spire/, and register the planner for this user."""
    agent_program, server_program = program("spire-agent"), program("spire-server")
    port = str(free_port())
    for part in ("server", "agent"):
        tmp_path.joinpath(part).mkdir(mode=0o700)
    arguments = ("run", "-config", str(CONFIGURATION / "server.conf"), "-expandEnv", "-serverPort", port)
    with contextlib.ExitStack() as programs:
        programs.enter_context(running(tmp_path, server_program, *arguments))
        server = SpireServer(tmp_path)
        wait_until(server.is_healthy, "the start of the server")
        token_file = introduce_agent(server, tmp_path)
        server.ask("entry", "create", "-data", "-", stdin=entry_of_planner())
        arguments = ("run", "-config", str(CONFIGURATION / "agent.conf"), "-expandEnv", "-serverPort", port)
        programs.enter_context(running(tmp_path, agent_program, *arguments, "-joinTokenFile", str(token_file)))
        agent_socket = tmp_path / "agent.sock"
        wait_until(lambda: describe_answer(agent_socket, [PLANNER.uri])[0] == "OK", "the arrival of the planner's SVID")
        yield agent_socket


def introduce_agent(server: SpireServer, run_directory: Path) -> Path:
    """Give the agent the server's bundle and a join token."""
    run_directory.joinpath("bootstrap.pem").write_text(server.ask("bundle", "show"))
    printed = server.ask("token", "generate", "-spiffeID", f"{OWN}/laptop")  # "Token: ..."
    token_file = run_directory / "join-token"
    token_file.write_text(printed.split()[1])
    return token_file


def entry_of_planner() -> str:
    """Take the planner's entry from spire/entries.json, with this user's uid."""
    entries = json.loads(CONFIGURATION.joinpath("entries.json").read_text())["entries"]
    [planner] = [entry for entry in entries if entry["spiffe_id"] == PLANNER.uri]
    planner["selectors"] = [{"type": "unix", "value": f"uid:{os.geteuid()}"}]
    return json.dumps({"entries": [planner]})


def describe_answer(socket_path: Path, names: list[str]) -> tuple[str, ...]:
    """Ask for names, and say what came: the status with its text, or OK with a line for each secret."""
    codec = (DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString)
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        try:
            fetch = channel.unary_unary(FETCH_SECRETS, *codec)
            response = fetch(DiscoveryRequest(resource_names=names, type_url=TYPE_URL), timeout=5)
        except grpc.RpcError as error:
            return (error.code().name, error.details())
    head = f"version `{response.version_info}` nonce `{response.nonce}` type {response.type_url}"
    return ("OK", head, *map(describe_secret, map(unpack, response.resources)))


def unpack(resource: object) -> Secret:
    secret = Secret()
    assert resource.Unpack(secret)  # type: ignore[attr-defined]
    return secret


def describe_secret(secret: Secret) -> str:
    """Say what a secret is, without what differs between any two authorities."""
    if secret.HasField("tls_certificate"):
        return f"{secret.name}: {describe_certificate(secret.tls_certificate.certificate_chain.inline_bytes)}"
    validator = secret.validation_context.custom_validator_config
    config = SPIFFECertValidatorConfig()
    assert validator.typed_config.Unpack(config)
    domains = [(domain.name, bool(domain.trust_bundle.inline_bytes)) for domain in config.trust_domains]
    return f"{secret.name}: {validator.name} {domains}"


def describe_certificate(chain_pem: bytes) -> str:
    [leaf] = x509.load_pem_x509_certificates(chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return f"{list(names)} {sorted(purpose.dotted_string for purpose in purposes)} {key.curve.name}"


async def test_agent_and_provider_answer_alike(spire_agent_socket: Path, tmp_path: Path) -> None:
    """For every combination of names, known and unknown, status and secrets of the provider are those of the agent."""
    wanted = {str(names): describe_answer(spire_agent_socket, names) for names in QUESTIONS}
    ca = DevelopmentCa.create("agents.example.com")
    async with LocalIdentityProvider(ca, [PLANNER], tmp_path / "local") as provider:
        local_socket = provider.socket_path(PLANNER)
        assert wanted == {
            str(names): await asyncio.to_thread(describe_answer, local_socket, names) for names in QUESTIONS
        }
