"""A policy directory as it was in a git revision.

1. Only plumbing commands run, and none that would run anything the repository configures: no filters, hooks, text conversion or fetching.
2. Files are written to a temporary directory that is gone afterwards; symbolic links are not followed out of it.
3. What comes out is bounded before it is read.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ext_authz.documents.loader import MAX_FILES, SUFFIXES
from ext_authz.documents.reader import MAX_FILE_BYTES
from ext_authz.errors import ConfigurationError

# Seconds for one git command on a local repository.
_PATIENCE_SECONDS = 60
_GIT = ("git", "--no-pager", "--no-replace-objects", "-c", "protocol.allow=never", "-c", "core.fsmonitor=false")
_TREES = frozenset({"tree", "commit"})  # a commit inside of a tree is a submodule


class _Entry(NamedTuple):
    mode: str
    kind: str
    object_id: str
    size: str
    name: str


@contextmanager
def policy_directory(spec: str) -> Iterator[Path]:
    """Yield the directory that `spec` names: a directory, or `REVISION:PATH`. Raises ConfigurationError."""
    if Path(spec).is_dir() or ":" not in spec:
        yield Path(spec)
        return
    with revision_directory(spec, Path()) as directory:
        yield directory


@contextmanager
def revision_directory(spec: str, inside: Path) -> Iterator[Path]:
    """Yield a temporary directory with the files of `REVISION:PATH` in the repository around `inside`.

    Problems that come out of the block name `spec`, not the temporary directory. Raises ConfigurationError.
    """
    if spec.startswith("-"):
        raise ConfigurationError([f"`{spec}`: no revision begins with a dash"])
    with tempfile.TemporaryDirectory(prefix="ext-authz-") as name:
        _write_tree(spec, inside, Path(name))
        try:
            yield Path(name)
        except ConfigurationError as error:
            raise ConfigurationError([problem.replace(name, spec.rstrip("/")) for problem in error.problems]) from None


def _write_tree(spec: str, inside: Path, directory: Path) -> None:
    tree = _git(spec, inside, "rev-parse", "--verify", "--quiet", spec).decode().strip()
    entries = list(_entries(_git(spec, inside, "ls-tree", "-z", "--long", "--full-tree", tree)))
    if len(entries) > 2 * MAX_FILES:
        raise ConfigurationError([f"{spec}: {len(entries)} files, at most {2 * MAX_FILES} are read"])
    for entry in entries:
        path = directory / entry.name
        if entry.kind in _TREES:
            path.mkdir()  # the loader says what it thinks of it
        elif entry.mode == "120000":
            if path.suffix.lower() in SUFFIXES:
                raise ConfigurationError(
                    [f"{spec.rstrip('/')}/{entry.name}: a symbolic link, which is not read from a revision"]
                )
        elif int(entry.size) > MAX_FILE_BYTES:
            raise ConfigurationError([f"{spec.rstrip('/')}/{entry.name}: larger than {MAX_FILE_BYTES} bytes"])
        else:
            path.write_bytes(_git(spec, inside, "cat-file", "blob", entry.object_id))


def _entries(listing: bytes) -> Iterator[_Entry]:
    for line in listing.decode("utf-8", "surrogateescape").split("\0"):
        about, _, name = line.partition("\t")
        if name:
            mode, kind, object_id, size = about.split()
            yield _Entry(mode, kind, object_id, size, name)


def _git(spec: str, inside: Path, *arguments: str) -> bytes:
    environment = {**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            (*_GIT, *arguments),
            cwd=inside,
            env=environment,
            capture_output=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError([f"{spec}: git cannot be run here: {type(error).__name__}"]) from None
    if done.returncode != 0:
        raise ConfigurationError(
            [f"{spec}: no such directory, and no such directory in a revision of a git repository"]
        )
    return done.stdout
