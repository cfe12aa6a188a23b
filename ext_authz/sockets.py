"""Unix sockets that only the right user can open, for every listener of ours.

Whoever can open one can ask, so it has its final permissions from the first moment.
"""

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ext_authz.errors import SettingsError


def prepare_socket(setting: str, path: Path, group: int | None = None) -> None:
    """Make the socket's directory, and refuse a path that is not ours to take. Raises SettingsError about `setting`."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700 if group is None else 0o750, parents=True)
            if group is not None:
                os.chown(path.parent, -1, group)
        mode = path.parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SettingsError([f"{setting}: anybody may replace files in `{path.parent}`"])
        if path.exists() and not path.is_socket():
            raise SettingsError([f"{setting}: `{path}` exists and is no socket"])
        if _answers(path):
            raise SettingsError([f"{setting}: another server listens on `{path}`"])
    except OSError as error:
        raise SettingsError([f"{setting}: cannot use `{path}`: {error.strerror}"]) from None


@contextmanager
def socket_permissions(group: int | None = None) -> Iterator[None]:
    """Let sockets that are bound in this block have mode 0600, or 0660 for a group."""
    previous = os.umask(0o177 if group is None else 0o117)
    try:
        yield
    finally:
        os.umask(previous)


@contextmanager
def bound_unix_socket(setting: str, path: Path, group: int | None = None) -> Iterator[socket.socket]:
    """Bind a unix socket for one listener; its file disappears at the end. Raises SettingsError about `setting`."""
    prepare_socket(setting, path, group)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        try:
            path.unlink(missing_ok=True)  # what a crashed server left behind
            with socket_permissions(group):
                bound.bind(str(path))
            if group is not None:
                os.chown(path, -1, group)
        except OSError as error:
            raise SettingsError([f"{setting}: cannot bind `{path}`: {error.strerror}"]) from None
        try:
            yield bound
        finally:
            path.unlink(missing_ok=True)


def group_id(name: str | None) -> int | None:
    """Return the number of a group that is given by name or number. Raises SettingsError."""
    if name is None:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError([f"socket_group: no group `{name}`"]) from None


def _answers(path: Path) -> bool:
    """Whether somebody accepts connections on the socket; what a crashed server left behind does not."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
        probe.connect(str(path))
        return True
    return False
