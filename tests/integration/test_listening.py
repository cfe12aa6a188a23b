"""Where a server listens, who may connect, and which addresses it refuses."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.authorizers import DEFAULT_POLICY
from support.check_requests import QUESTION
from support.server_process import ServerProcess, refused_listen, refused_start


@pytest.fixture
def directory() -> Iterator[Path]:
    """Make a directory with a short name: a socket's path has at most 103 bytes."""
    with tempfile.TemporaryDirectory(prefix="authz-") as name:
        yield Path(name)


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_socket_for_a_group(directory: Path) -> None:
    """With `socket_group` that group may connect too: the sidecar runs as another user."""
    path = directory / "run" / "authz.sock"
    with ServerProcess.running(DEFAULT_POLICY, listen=f"unix:{path}", socket_group=str(os.getgid())) as server:
        assert (0o660, 0o750) == (mode(path), mode(path.parent))
        assert os.getgid() == path.stat().st_gid
        assert server.check(QUESTION.message()).status.code == 0


def test_socket_left_by_a_crash_is_replaced_and_a_living_one_is_not(directory: Path) -> None:
    """A server takes over a dead socket, keeps a second server away from its own, and removes it at the end."""
    path = directory / "authz.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    with ServerProcess.running(DEFAULT_POLICY, listen=f"unix:{path}") as server:
        assert server.check(QUESTION.message()).status.code == 0
        assert (2, f"listen: another server listens on `{path}`\n") == refused_start(
            DEFAULT_POLICY, listen=f"unix:{path}"
        )
        assert server.check(QUESTION.message()).status.code == 0
        assert server.stop() == 0
    assert not path.exists()


async def test_path_that_is_no_socket(directory: Path) -> None:
    """A file of somebody else's is never deleted to make room."""
    path = directory / "precious"
    path.write_text("keep me")
    assert f"listen: `{path}` exists and is no socket" == await refused_listen(listen=f"unix:{path}")
    assert path.read_text() == "keep me"


@pytest.fixture
def open_directory(directory: Path) -> Path:
    """Make a directory in which everybody may write."""
    directory.chmod(0o777)
    return directory


async def test_directory_where_anybody_may_replace_files(open_directory: Path) -> None:
    """In a directory that is open to all anybody could put a socket of their own in our place."""
    assert f"listen: anybody may replace files in `{open_directory}`" == await refused_listen(
        listen=f"unix:{open_directory / 'authz.sock'}"
    )


async def test_directory_that_cannot_be_made(directory: Path) -> None:
    """Where no directory can be, the problem names the socket and the cause."""
    (directory / "file").touch()
    path = directory / "file" / "authz.sock"
    assert f"listen: cannot use `{path}`: Not a directory" == await refused_listen(listen=f"unix:{path}")


async def test_unknown_group(directory: Path) -> None:
    """A mistyped group stops the start instead of locking the sidecar out."""
    listen = f"unix:{directory / 'authz.sock'}"
    assert "socket_group: no group `no-such-group`" == await refused_listen(listen=listen, socket_group="no-such-group")


async def test_address_of_another_machine() -> None:
    """An address that this machine does not have is refused with a hint."""
    assert "listen: cannot bind `192.0.2.1:9001`: is another server there?" == await refused_listen(
        listen="192.0.2.1:9001", insecure=True
    )


def test_loopback_port() -> None:
    """On loopback TCP works without TLS; port 0 takes a free one and the log names it. Nobody else may share it."""
    with ServerProcess.running(DEFAULT_POLICY, listen="127.0.0.1:0") as server:
        host, _, port = server.address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert server.check(QUESTION.message()).status.code == 0
        code, log = refused_start(DEFAULT_POLICY, listen=server.address)
        assert code == 2
        assert f"listen: cannot bind `{server.address}`: is another server there?" in log.splitlines()


def test_open_address_is_refused_with_every_other_problem() -> None:
    """An address that the network reaches needs TLS; all problems of the settings come in one run."""
    code, log = refused_start(
        DEFAULT_POLICY,
        listen="0.0.0.0:0",
        max_body_bytes=0,
        drain_seconds=10,
        log_format="xml",
        colour="red",
    )
    assert code == 2
    assert log.splitlines() == [
        "max_body_bytes: input should be greater than or equal to 1",
        "drain_seconds: input should be less than or equal to 9",
        "log_format: input should be 'text' or 'json'",
        "colour: no such setting",
        "`0.0.0.0:0` is open to the network without TLS: set tls_certificate and tls_key, or `insecure: true`",
    ]


def test_workloads_that_are_no_spiffe_ids() -> None:
    """Each workload that the server cannot answer for is named."""
    code, log = refused_start(DEFAULT_POLICY, workloads=["retrieval-agent", "spiffe://agents.example.com"])
    assert code == 2
    assert log.splitlines() == [
        "workloads: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form",
        "workloads: a workload's SPIFFE ID has a path",
    ]
