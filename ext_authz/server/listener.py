"""Where the server listens: a unix socket that only the right user can open, or TCP."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio

from ext_authz.errors import SettingsError
from ext_authz.server.tls import server_credentials
from ext_authz.settings import UNIX_PREFIX, Settings
from ext_authz.sockets import group_id, prepare_socket, socket_permissions


@contextmanager
def listening(server: grpc.aio.Server, settings: Settings) -> Iterator[str]:
    """Bind the server to its address and yield that address, with the port that was chosen for port 0.

    A unix socket's file disappears at the end. Raises SettingsError when the address cannot be used.
    """
    if settings.listen.startswith(UNIX_PREFIX):
        path = Path(settings.listen.removeprefix(UNIX_PREFIX))
        _bind_unix(server, settings, path)
        try:
            yield settings.listen
        finally:
            path.unlink(missing_ok=True)
    else:
        host = settings.listen.rpartition(":")[0]
        yield f"{host}:{_bind_tcp(server, settings)}"


def _bind_tcp(server: grpc.aio.Server, settings: Settings) -> int:
    credentials = server_credentials(settings)
    cause = "is another server there?"
    try:
        if credentials is None:
            return int(server.add_insecure_port(settings.listen))
        cause = "is another server there, or are the TLS files no PEM or certificate and key no pair?"
        return int(server.add_secure_port(settings.listen, credentials))
    except RuntimeError:
        raise SettingsError([f"listen: cannot bind `{settings.listen}`: {cause}"]) from None


def _bind_unix(server: grpc.aio.Server, settings: Settings, path: Path) -> None:
    """Bind with the final permissions from the first moment: whoever can open the socket can ask."""
    group = group_id(settings.socket_group)
    prepare_socket("listen", path, group)
    try:
        with socket_permissions(group):
            server.add_insecure_port(settings.listen)
        if group is not None:
            os.chown(path, -1, group)
    except (RuntimeError, OSError):
        raise SettingsError([f"listen: cannot bind `{settings.listen}`"]) from None
