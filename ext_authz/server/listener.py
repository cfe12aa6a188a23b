"""Where the server listens: a unix socket that only the right user can open, or TCP."""

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio

from ext_authz.errors import SettingsError
from ext_authz.server.tls import server_credentials
from ext_authz.settings import UNIX_PREFIX, Settings


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
    group = _group_id(settings.socket_group)
    _prepare(path, group)
    previous = os.umask(0o177 if group is None else 0o117)  # the socket gets 0600 or 0660
    try:
        server.add_insecure_port(settings.listen)
        if group is not None:
            os.chown(path, -1, group)
    except (RuntimeError, OSError):
        raise SettingsError([f"listen: cannot bind `{settings.listen}`"]) from None
    finally:
        os.umask(previous)


def _prepare(path: Path, group: int | None) -> None:
    """Make the socket's directory, and refuse a path that is not ours to take."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700 if group is None else 0o750, parents=True)
            if group is not None:
                os.chown(path.parent, -1, group)
        mode = path.parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SettingsError([f"listen: anybody may replace files in `{path.parent}`"])
        if path.exists() and not path.is_socket():
            raise SettingsError([f"listen: `{path}` exists and is no socket"])
        if _answers(path):
            raise SettingsError([f"listen: another server listens on `{path}`"])
    except OSError as error:
        raise SettingsError([f"listen: cannot use `{path}`: {error.strerror}"]) from None


def _answers(path: Path) -> bool:
    """Whether somebody accepts connections on the socket; what a crashed server left behind does not."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
        probe.connect(str(path))
        return True
    return False


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError([f"socket_group: no group `{name}`"]) from None
