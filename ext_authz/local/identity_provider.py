"""A SPIRE agent's part on one machine without SPIRE: one unix socket for each workload, with SDS and the Workload API.

1. The socket is the attestation: who can open it is that workload. It has mode 0600, in a directory with mode 0700.
2. There is no other way in: the provider listens on unix sockets only, never on an address of the network.
3. Every SVID is renewed at half of its life and pushed to all open streams; a renewal that fails is logged and tried again,
   and the workloads keep what they have.
"""

import asyncio
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

import grpc
from cryptography import x509

from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import X509_SVID_TTL, CaError, DevelopmentCa, JwtAuthority, check_trust_domain
from ext_authz.local.sds import SecretDiscovery
from ext_authz.local.svid import Bundle, IdentityFeed, IdentityState, X509Svid
from ext_authz.local.workload_api import WorkloadApi

# sockaddr_un.sun_path, less the closing zero: 108 bytes on Linux (unix(7)), 104 on macOS and the BSDs.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103

# The first request of an Envoy 1.40 lists its extensions and has 61 kB; 64 names of 2048 bytes come on top. gRPC's own
# default is 4 MiB.
MAX_REQUEST_BYTES = 256 * 1024
# Open calls on one socket. An Envoy opens one stream for each secret that its configuration names.
MAX_CALLS = 1024

# How long open calls may take to end; a client that does not read is cut off then.
STOP_SECONDS = 1.0

# The renewal looks at the clock at least this often: a laptop that slept does not notice that time has passed.
LONGEST_SLEEP_SECONDS = 30.0

NO_BUNDLES: Mapping[str, bytes] = MappingProxyType({})

logger = logging.getLogger(__name__)


class LocalIdentityProvider:
    """Serves workloads their identities while it is entered (`async with`, once); leaving it removes its sockets."""

    def __init__(
        self,
        ca: DevelopmentCa,
        workloads: Iterable[SpiffeId],
        socket_directory: Path,
        *,
        svid_ttl: timedelta = X509_SVID_TTL,
        federated_bundles: Mapping[str, bytes] = NO_BUNDLES,
    ) -> None:
        """Take the CA, the workloads to serve, and where their sockets go; `federated_bundles` is PEM by trust domain.

        Raises CaError for a workload of another trust domain, and ConfigurationError for a bundle that is none and for a
        socket path that is too long.
        """
        self._ca = ca
        self._directory = socket_directory
        self._svid_ttl = svid_ttl
        self._jwt_authority = JwtAuthority.create(ca.trust_domain, ca.now)
        self._federated_bundles = _parse_bundles(federated_bundles, ca.trust_domain)
        self._renew_at = self._next_renewal()
        self._feeds = {spiffe_id: IdentityFeed(self._issue(spiffe_id, version=1)) for spiffe_id in workloads}
        for spiffe_id in self._feeds:
            _check_length(self.socket_path(spiffe_id))
        self._running = AsyncExitStack()

    def socket_path(self, spiffe_id: SpiffeId) -> Path:
        """Say where a workload's socket is: named after its path, with `+`, which no SPIFFE ID has, for each slash."""
        return self._directory / f"{spiffe_id.path.removeprefix('/').replace('/', '+')}.sock"

    def svid(self, spiffe_id: SpiffeId) -> X509Svid:
        """Return the current SVID of a workload, for programs in this process."""
        return self._feeds[spiffe_id].state.svid

    def rotate(self) -> None:
        """Issue every workload a new SVID and push it to all open streams. Raises CaError when the CA has expired."""
        self._renew_at = self._next_renewal()
        states = [self._issue(spiffe_id, feed.state.version + 1) for spiffe_id, feed in self._feeds.items()]
        for feed, state in zip(self._feeds.values(), states, strict=True):
            feed.publish(state)

    def set_federated_bundles(self, bundles: Mapping[str, bytes]) -> None:
        """Replace the bundles of other trust domains (PEM by trust domain) and rotate. Raises ConfigurationError."""
        self._federated_bundles = _parse_bundles(bundles, self._ca.trust_domain)
        self.rotate()

    async def __aenter__(self) -> Self:
        """Open the sockets. Raises ConfigurationError where one cannot be had safely."""
        _prepare_directory(self._directory)
        async with AsyncExitStack() as starting:
            for spiffe_id, feed in self._feeds.items():
                services = (SecretDiscovery(feed).rpc_handler(), WorkloadApi(feed, self._jwt_authority).rpc_handler())
                await starting.enter_async_context(_serving(self.socket_path(spiffe_id), services))
                # Undone before the server stops: streams end by themselves, and there is nothing to cut off.
                starting.callback(feed.close)
            await starting.enter_async_context(self._renewing())
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the renewal, end the open streams and remove the sockets."""
        await self._running.aclose()

    def _issue(self, spiffe_id: SpiffeId, version: int) -> IdentityState:
        return IdentityState(
            version=version,
            svid=self._ca.issue(spiffe_id, self._svid_ttl),
            bundle=self._ca.bundle,
            federated_bundles=self._federated_bundles,
        )

    def _next_renewal(self) -> datetime:
        return self._ca.now() + self._svid_ttl / 2

    @asynccontextmanager
    async def _renewing(self) -> AsyncIterator[None]:
        renewal = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal

    async def _renew(self) -> None:
        while True:
            remaining_seconds = (self._renew_at - self._ca.now()).total_seconds()
            if remaining_seconds > 0:
                await asyncio.sleep(min(remaining_seconds, LONGEST_SLEEP_SECONDS))
                continue
            try:
                self.rotate()
            except CaError as error:
                logger.error("no SVID was renewed: %s", error)  # noqa: TRY400  (the sentence says it all)


@asynccontextmanager
async def _serving(path: Path, services: tuple[grpc.GenericRpcHandler, ...]) -> AsyncIterator[None]:
    options = [("grpc.max_receive_message_length", MAX_REQUEST_BYTES)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
    server.add_generic_rpc_handlers(services)
    _bind(server, path)
    try:
        await server.start()
        yield
    finally:
        await server.stop(STOP_SECONDS)
        _remove(path)


def _bind(server: grpc.aio.Server, path: Path) -> None:
    _make_way(path)
    server.add_insecure_port(f"unix:{quote(str(path))}")
    path.chmod(0o600)


def _remove(path: Path) -> None:
    """Remove a socket, should gRPC have left it behind."""
    path.unlink(missing_ok=True)


def _prepare_directory(directory: Path) -> None:
    """Make the directory, or see that nobody else can reach into it: between bind and chmod it is what guards a socket."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(
            [f"`{directory}` must be yours alone: expected mode 0700, found {mode:04o} of uid {found.st_uid}"]
        )


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            [f"`{path}` is too long for a unix socket: expected at most {MAX_SOCKET_PATH_BYTES} bytes, found {length}"]
        )


def _make_way(path: Path) -> None:
    """Remove the socket of a run that crashed. gRPC would remove any, so a live one is looked for here."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ConfigurationError([f"`{path}` is in the way: expected a socket or nothing"])
    if _is_served(path):
        raise ConfigurationError([f"`{path}` is in use by another process: stop it or choose another directory"])
    path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _parse_bundles(bundles: Mapping[str, bytes], own_trust_domain: str) -> Mapping[str, Bundle]:
    parsed: dict[str, Bundle] = {}
    problems = []
    for trust_domain, pem in sorted(bundles.items()):
        try:
            check_trust_domain(trust_domain)
            parsed[trust_domain] = tuple(x509.load_pem_x509_certificates(pem))
        except (CaError, ValueError) as error:
            problems.append(f"federated bundle of `{trust_domain}`: {error}")
    if own_trust_domain in bundles:
        problems.append(f"federated bundle of `{own_trust_domain}`: it is the own trust domain")
    if problems:
        raise ConfigurationError(problems)
    return MappingProxyType(parsed)
