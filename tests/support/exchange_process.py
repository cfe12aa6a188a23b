"""`ext-authz exchange serve` as a process of its own, on a unix socket; it never outlives its test."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.exchange_names import TOKEN_PATH
from support.exchanges import EXCHANGE, FORM, form_of, write_policy, xfcc_of
from support.server_process import PATIENCE_SECONDS, POLL_SECONDS, server_environment

SeenT = TypeVar("SeenT")
_LISTENING = re.compile(r"listening on (\S+): ")


@dataclass(frozen=True)
class ExchangeProcess:
    """A running exchange in a directory of its own, with the policy of tests/support/exchanges.py."""

    directory: Path
    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def running(cls, **flags: str) -> Iterator[Self]:
        """Start an exchange, wait until it listens, and stop it at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="exchange-") as name:
            process = cls.prepared(Path(name), **flags)
            try:
                process.address  # noqa: B018  waits until it listens
                yield process
            finally:
                process.kill()

    @classmethod
    def prepared(cls, directory: Path, **flags: str) -> Self:
        """Write policy and key, and start without waiting. The caller calls `kill`."""
        write_policy(directory / "policies")
        run_exchange("keygen", "--keys", directory / "keys")
        return cls.start(directory, **flags)

    @classmethod
    def start(cls, directory: Path, **flags: str) -> Self:
        """Start an exchange with what is in a directory. The caller calls `kill`."""
        given = {
            "--spiffe-id": EXCHANGE.uri,
            "--policies": directory / "policies",
            "--keys": directory / "keys",
            "--control-store": directory / "control" / "control.db",
            "--listen": f"unix:{directory / 'run' / 'exchange.sock'}",
            "--audit-file": directory / "exchanges.jsonl",
        } | {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
        arguments = [str(part) for pair in given.items() for part in pair]
        with (directory / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "ext_authz", "exchange", "serve", *arguments],
                env=server_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        return cls(directory, process)

    @property
    def address(self) -> str:
        """What a client connects to, once the exchange listens."""
        found = self.wait_for(lambda: _LISTENING.search(self.log), "that it listens")
        return found.group(1)

    @property
    def log(self) -> str:
        """What the exchange wrote on standard error so far."""
        return (self.directory / "stderr").read_text(errors="backslashreplace")

    @property
    def journal(self) -> str:
        """What it recorded so far."""
        return (self.directory / "exchanges.jsonl").read_text()

    @property
    def keys(self) -> Path:
        """The directory of its keys."""
        return self.directory / "keys"

    @property
    def store(self) -> Path:
        """Its control store."""
        return self.directory / "control" / "control.db"

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Connect as the sidecar does."""
        address = self.address
        if address.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
            base = "http://exchange"
        else:
            transport, base = httpx.HTTPTransport(), f"http://{address}"
        with httpx.Client(transport=transport, base_url=base, timeout=PATIENCE_SECONDS) as client:
            yield client

    def ask(self, chain: str, client: SpiffeId, audience: SpiffeId, **parameters: Any) -> httpx.Response:
        """Ask as a client, by the header that the sidecar would write."""
        body = form_of(subject_token=chain, audience=audience.uri, **parameters)
        headers = {"content-type": FORM, "x-forwarded-client-cert": xfcc_of(client)}
        with self.client() as connection:
            return connection.post(TOKEN_PATH, content=body, headers=headers)

    def key_ids(self) -> list[str]:
        """Return the names of the keys that it publishes."""
        with self.client() as connection:
            return [key["kid"] for key in connection.get("/jwks.json").json()["keys"]]

    def wait_for(self, look: Callable[[], SeenT | None], what: str) -> SeenT:
        """Look again and again until there is something to see, and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (seen := look()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"no sign of {what}:\n{self.log}")
            time.sleep(POLL_SECONDS)
        return seen

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()


def run_exchange(*arguments: str | Path) -> None:
    """Run an `ext-authz exchange` command that must succeed."""
    command = [sys.executable, "-m", "ext_authz", "exchange", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS, env=server_environment())
