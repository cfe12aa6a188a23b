"""`ext-authz serve` as a process of its own, on a unix socket or a loopback port; it never outlives its test."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_authz.errors import SettingsError
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.server.listener import listening
from ext_authz.settings import Settings

CHECK = "/envoy.service.auth.v3.Authorization/Check"

# Seconds for anything that comes for sure. Starting takes about two on an idle core: the screen compiles its rules.
PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.02

_LISTENING = re.compile(r"listening on (\S+): ")
# What the environment of the tests may hold and a server must not see.
_FOREIGN_VARIABLES = re.compile(r"EXT_AUTHZ_.*|OTEL_.*|.*_proxy", re.IGNORECASE)
# A proxy of the machine is not asked for what stays on it.
_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)


SeenT = TypeVar("SeenT")


@dataclass(frozen=True)
class ServerProcess:
    """A server in a directory of its own, which holds its settings, socket, logs and records."""

    directory: Path
    process: subprocess.Popen[bytes]
    audit_file: Path

    @classmethod
    @contextmanager
    def running(
        cls, policies: Path, *, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> Iterator[Self]:
        """Start a server, wait until it listens, and stop it at the end of the block.

        `settings` are those of the settings file; the socket stands in the server's directory unless they say otherwise.
        """
        with tempfile.TemporaryDirectory(prefix="authz-") as name:  # short: a socket's path has at most 103 bytes
            server = cls.start(Path(name), policies, environment=environment, **settings)
            try:
                server.address  # noqa: B018  waits until it listens
                yield server
            finally:
                server.kill()

    @classmethod
    def start(
        cls, directory: Path, policies: Path, *, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> Self:
        """Start a server in `directory` and do not wait. The caller calls `kill`."""
        defaults = {"listen": f"unix:{directory / 'run' / 'authz.sock'}"}
        config = directory / "settings.yaml"
        config.write_text(json.dumps(defaults | settings))
        with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "ext_authz", "serve", "--policies", policies, "--config", config],
                env=server_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        return cls(directory, process, Path(settings.get("audit_file", directory / "stdout")))

    @property
    def address(self) -> str:
        """What a client connects to, once the server listens."""
        found = self.wait_for(lambda: _LISTENING.search(self.log), "that it listens")
        return found.group(1)

    @property
    def log(self) -> str:
        """What the server wrote on standard error so far."""
        return (self.directory / "stderr").read_text(errors="backslashreplace")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The audit records written so far; a line that is not complete yet does not count."""
        lines = self.audit_file.read_bytes().split(b"\n")[:-1] if self.audit_file.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for_records(self, count: int) -> list[dict[str, Any]]:
        """Wait until `count` records are written and return all."""
        return self.wait_for(lambda: records if len(records := self.records) >= count else None, f"{count} records")

    def wait_for_log(self, text: str, count: int = 1) -> str:
        """Wait until `text` stands in the log `count` times and return the log."""
        return self.wait_for(lambda: log if (log := self.log).count(text) >= count else None, f"`{text}` in the log")

    def wait_for(self, look: Callable[[], SeenT | None], what: str) -> SeenT:
        """Look again and again until there is something to see, and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (seen := look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no sign of {what}:\n{self.log}")
            if self.process.poll() is not None and not (seen := look()):
                raise AssertionError(f"ended with {self.process.returncode} without {what}:\n{self.log}")
            if not seen:
                time.sleep(POLL_SECONDS)
        return seen

    @contextmanager
    def channel(self, credentials: Any = None, options: tuple[tuple[str, Any], ...] = ()) -> Iterator[Any]:
        """Connect to the server; over TLS with `credentials`."""
        with connection(self.address, credentials, options) as channel:
            yield channel

    def check(self, data: bytes | Message, timeout_seconds: float = PATIENCE_SECONDS) -> CheckResponse:
        """Ask one question on a connection of its own."""
        with self.channel() as channel:
            return check(channel, data, timeout_seconds)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server to end and return its exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()


def server_environment(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of the tests without what would change a server, and with `additions`."""
    kept = {key: value for key, value in os.environ.items() if not _FOREIGN_VARIABLES.fullmatch(key)}
    return kept | dict(additions or {})


def refused_start(policies: Path, **settings: Any) -> tuple[int, str]:
    """Start a server that should not come up; return its exit code and what it wrote on standard error."""
    with tempfile.TemporaryDirectory(prefix="authz-") as name:
        server = ServerProcess.start(Path(name), policies, **settings)
        try:
            return server.wait(), server.log
        finally:
            server.kill()


async def refused_listen(**settings: Any) -> str:
    """Bind a server of this process to an address that it should not get; return the one problem."""
    server = grpc.aio.server()
    try:
        with listening(server, Settings.model_validate({"policies": Path(), **settings})) as address:
            raise AssertionError(f"listens on {address}")
    except SettingsError as error:
        (problem,) = error.problems
        return problem
    finally:
        await server.stop(None)


@contextmanager
def connection(address: str, credentials: Any = None, options: tuple[tuple[str, Any], ...] = ()) -> Iterator[Any]:
    """Connect to an address; over TLS with `credentials`."""
    options = _CHANNEL_OPTIONS + options
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        yield channel


def check(channel: Any, data: bytes | Message, timeout_seconds: float = PATIENCE_SECONDS) -> CheckResponse:
    """Ask one question. Raises grpc.RpcError."""
    return CheckResponse.FromString(start_check(channel, data, timeout_seconds).result())


def start_check(channel: Any, data: bytes | Message, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask one question and return the call, a future of the answer's bytes."""
    serialized = data if isinstance(data, bytes) else data.SerializeToString()
    return channel.unary_unary(CHECK).future(serialized, timeout=timeout_seconds)


def health(channel: Any, service: str = "") -> str:
    """Return the health of a service by name, such as SERVING. Raises grpc.RpcError."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_SECONDS)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
