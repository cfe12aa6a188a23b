"""Where the provider's sockets may be, and what it refuses to start with."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import CaError, DevelopmentCa
from ext_authz.local.identity_provider import MAX_SOCKET_PATH_BYTES, LocalIdentityProvider

PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")
IN_KUBERNETES = SpiffeId.parse_workload("spiffe://agents.example.com/ns/agents/sa/planner-agent")


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def modes_in(directory: Path) -> dict[str, int]:
    return {path.name: mode_of(path) for path in directory.iterdir()}


def open_directory(parent: Path) -> Path:
    directory = parent / "open"
    directory.mkdir()
    directory.chmod(0o755)
    return directory


@pytest.fixture
def ca() -> DevelopmentCa:
    return DevelopmentCa.create("agents.example.com")


async def test_private_sockets(ca: DevelopmentCa, tmp_path: Path) -> None:
    """A made directory has mode 0700, each workload's socket 0600, and a clean stop leaves the directory empty."""
    directory = tmp_path / "run"
    async with LocalIdentityProvider(ca, [PLANNER, IN_KUBERNETES], directory):
        assert mode_of(directory) == 0o700
        assert modes_in(directory) == {
            "planner-agent.sock": 0o600,
            "ns+agents+sa+planner-agent.sock": 0o600,
        }
    assert modes_in(directory) == {}


async def test_socket_of_a_crashed_run_is_replaced(ca: DevelopmentCa, tmp_path: Path) -> None:
    """A socket file that nobody listens on does not stop the next run."""
    provider = LocalIdentityProvider(ca, [PLANNER], tmp_path)
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(provider.socket_path(PLANNER)))
    async with provider:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(provider.socket_path(PLANNER)))


async def test_socket_in_use_is_left_alone(ca: DevelopmentCa, tmp_path: Path) -> None:
    """A second provider for the same directory is refused, and the first keeps its socket."""
    async with LocalIdentityProvider(ca, [PLANNER], tmp_path) as first:
        with pytest.raises(ConfigurationError, match="is in use by another process"):
            await LocalIdentityProvider(ca, [PLANNER], tmp_path).__aenter__()
        assert first.socket_path(PLANNER).is_socket()


async def test_failed_start_leaves_nothing_behind(ca: DevelopmentCa, tmp_path: Path) -> None:
    """If the second socket cannot be had, the first is removed again; a file that is no socket is not touched."""
    obstacle = tmp_path / "ns+agents+sa+planner-agent.sock"
    obstacle.write_text("precious")
    with pytest.raises(ConfigurationError, match="is in the way: expected a socket or nothing"):
        await LocalIdentityProvider(ca, [PLANNER, IN_KUBERNETES], tmp_path).__aenter__()
    assert [obstacle.name] == list(modes_in(tmp_path))
    assert obstacle.read_text() == "precious"


async def test_directory_open_to_others_is_refused(ca: DevelopmentCa, tmp_path: Path) -> None:
    """A directory that others can enter would let them reach a socket before its mode is set."""
    directory = open_directory(tmp_path)
    with pytest.raises(ConfigurationError, match=f"expected mode 0700, found 0755 of uid {os.geteuid()}"):
        await LocalIdentityProvider(ca, [PLANNER], directory).__aenter__()


def test_socket_path_has_a_limit(ca: DevelopmentCa, tmp_path: Path) -> None:
    """A path that the kernel would not take is refused with the limit and the length found."""
    with pytest.raises(ConfigurationError, match=f"expected at most {MAX_SOCKET_PATH_BYTES} bytes, found 2"):
        LocalIdentityProvider(ca, [PLANNER], Path("/" + "x" * (200 - len("/planner-agent.sock"))))


def test_workload_of_another_trust_domain_is_refused(ca: DevelopmentCa, tmp_path: Path) -> None:
    """The provider serves workloads of its CA's trust domain only."""
    with pytest.raises(CaError, match="is no workload of trust domain"):
        LocalIdentityProvider(ca, [SpiffeId.parse_workload("spiffe://partner.test/a")], tmp_path)


def test_federated_bundles_are_checked_together(ca: DevelopmentCa, tmp_path: Path) -> None:
    """Every bundle that cannot be used is named: no certificate, no trust domain, the own trust domain."""
    bundles = {"partner.test": b"no PEM", "Not/One": ca.bundle_pem, "agents.example.com": ca.bundle_pem}
    with pytest.raises(ConfigurationError) as error:
        LocalIdentityProvider(ca, [PLANNER], tmp_path, federated_bundles=bundles)
    assert [line.partition(": ")[0] for line in error.value.problems] == [
        "federated bundle of `Not/One`",
        "federated bundle of `partner.test`",
        "federated bundle of `agents.example.com`",
    ]


def test_rotation_gives_every_workload_a_new_svid(ca: DevelopmentCa, tmp_path: Path) -> None:
    """After a rotation the SVID has another serial number and the same name."""
    provider = LocalIdentityProvider(ca, [PLANNER, IN_KUBERNETES], tmp_path)
    before = {provider.svid(workload).serial_number for workload in (PLANNER, IN_KUBERNETES)}
    provider.rotate()
    after = {provider.svid(workload).serial_number for workload in (PLANNER, IN_KUBERNETES)}
    assert len(before | after) == 4
    assert PLANNER == provider.svid(PLANNER).spiffe_id


def test_rotation_is_all_or_nothing(tmp_path: Path) -> None:
    """When the CA has expired, the workloads keep the SVIDs that they have."""
    time = datetime(2026, 11, 22, 12, tzinfo=UTC)
    ca = DevelopmentCa.create("agents.example.com", lambda: time)
    provider = LocalIdentityProvider(ca, [PLANNER], tmp_path)
    before = provider.svid(PLANNER)
    time += timedelta(days=1)
    with pytest.raises(CaError, match="the development CA expired"):
        provider.rotate()
    assert before == provider.svid(PLANNER)
