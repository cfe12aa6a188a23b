"""The keys of the exchange: a directory of private keys whose names say when each one signs.

1. `20261122T031500Z-kX3_9aQz.pem` signs from that second, UTC, until a later one does; its name without the ending is its
   `kid`. There is no other state that could contradict the files.
2. A key is published from the moment its file is there, and until the last token that it can have signed has expired.
3. A key that others may read, a link and any other file are refused: nothing that is put here is ignored.
4. No private key reaches a log, an error or a repr.
"""

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from ext_authz.client.signing import (
    LinkSigner,
    MintingError,
    PrivateKey,
    generate_private_key,
    load_private_key,
    private_key_pem,
    public_jwk,
)
from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import LEEWAY_SECONDS
from ext_authz.tokens.claims import MAX_TTL_SECONDS
from ext_authz.tokens.keys import MAX_KEYS, KeysById, parse_jwks

# Seconds for which a verifier may keep the set: `max-age` of its answer.
MAX_AGE_SECONDS = 300
# Seconds for which a new key is published before it signs: three times that, for verifiers that look again late.
PUBLISH_SECONDS = 900
# Seconds for which a key is published after the next one began to sign.
RETIRED_SECONDS = MAX_TTL_SECONDS + LEEWAY_SECONDS
# Bytes of a private key in PEM: RSA of 8192 bits takes 6,400.
MAX_KEY_BYTES = 16 * 1024
ALGORITHM = "Ed25519"

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[A-Za-z0-9_-]{8}")
_MOMENT = "%Y%m%dT%H%M%SZ"
_SUFFIX = ".pem"
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITING_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class KeyDirectoryError(ConfigurationError):
    """The key directory cannot be used."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key and the moment from which it signs, in seconds since 1970."""

    key_id: str
    signs_from: float
    private_key: PrivateKey = field(repr=False)

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public half, for verifiers."""
        return public_jwk(self.private_key, self.key_id)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one directory, the one that signs first at the beginning; never empty."""

    keys: tuple[SigningKey, ...]
    verification_keys: KeysById = field(repr=False, compare=False)  # the public halves of all, as a verifier reads them

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a directory. Raises KeyDirectoryError with all problems."""
        problems: list[str] = []
        keys = [key for path in _entries(directory, problems) if (key := _read(path, problems)) is not None]
        if not problems and not 1 <= len(keys) <= MAX_KEYS:
            problems.append(f"{directory}: {len(keys)} keys, expected 1 to {MAX_KEYS}")
        if problems:
            raise KeyDirectoryError(problems)
        in_order = tuple(sorted(keys, key=lambda key: (key.signs_from, key.key_id)))
        return cls(in_order, parse_jwks(json.dumps({"keys": [key.public_jwk for key in in_order]})))

    def signer(self, issuer: SpiffeId, now: float) -> LinkSigner | None:
        """Return what signs at `now`, None when the first key begins later."""
        begun = [key for key in self.keys if key.signs_from <= now]
        return LinkSigner.with_key_id(issuer, begun[-1].key_id, begun[-1].private_key) if begun else None

    def published(self, now: float) -> tuple[SigningKey, ...]:
        """Return the keys that verifiers should know at `now`."""
        retired = self.retired(now)
        return tuple(key for key in self.keys if key not in retired)

    def retired(self, now: float) -> tuple[SigningKey, ...]:
        """Return the keys of which no token can be valid any more."""
        followed = zip(self.keys, self.keys[1:], strict=False)
        return tuple(key for key, successor in followed if successor.signs_from + RETIRED_SECONDS <= now)

    def key_set(self, now: float) -> dict[str, list[dict[str, str]]]:
        """Return the JWK set for verifiers (RFC 7517 section 5)."""
        return {"keys": [key.public_jwk for key in self.published(now)]}


def add_key(directory: Path, signs_from: float) -> str:
    """Make a key that signs from a moment on, in seconds since 1970, and return its name. Raises KeyDirectoryError."""
    moment = datetime.fromtimestamp(int(signs_from), UTC).strftime(_MOMENT)
    key_id = f"{moment}-{secrets.token_urlsafe(6)}"
    draft = directory / f".{key_id}"
    try:
        directory.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as file:
            file.write(private_key_pem(generate_private_key(ALGORITHM)))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(directory / f"{key_id}{_SUFFIX}")
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise KeyDirectoryError([f"{directory}: {error.strerror}"]) from None
    return key_id


def remove_retired(directory: Path, now: float) -> list[str]:
    """Delete the keys of which no token can be valid any more, and return their names. Raises KeyDirectoryError."""
    retired = KeyRing.load(directory).retired(now)
    try:
        for key in retired:
            (directory / f"{key.key_id}{_SUFFIX}").unlink()
    except OSError as error:
        raise KeyDirectoryError([f"{directory}: {error.strerror}"]) from None
    return [key.key_id for key in retired]


def _entries(directory: Path, problems: list[str]) -> Iterator[Path]:
    """Yield what is in the directory but hidden files, in which keys are being written."""
    try:
        if directory.stat().st_mode & _WRITING_OF_OTHERS:
            problems.append(f"{directory}: others may write to it: chmod 700")
        names = sorted(entry.name for entry in os.scandir(directory) if not entry.name.startswith("."))
    except OSError as error:
        problems.append(f"{directory}: {error.strerror}")
        return
    for name in names:
        yield directory / name


def _read(path: Path, problems: list[str]) -> SigningKey | None:
    try:
        return SigningKey(path.stem, _signs_from(path), load_private_key(_content(path)))
    except (ValueError, MintingError) as error:
        problems.append(f"{path}: {error}")
    except OSError as error:
        # With O_NOFOLLOW, ELOOP says that it is a link.
        problems.append(f"{path}: {error.strerror}")
    return None


def _signs_from(path: Path) -> float:
    match = _NAME.fullmatch(path.stem)
    if match is None or path.suffix != _SUFFIX:
        raise ValueError(f"expected names such as 20261122T031500Z-kX3_9aQz{_SUFFIX}")
    return datetime.strptime(match[1], _MOMENT).replace(tzinfo=UTC).timestamp()


def _content(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_mode & _OF_OTHERS:
            raise ValueError("others may read or write it: chmod 600")
        if status.st_size > MAX_KEY_BYTES:
            raise ValueError(f"larger than {MAX_KEY_BYTES} bytes")
        return file.read(MAX_KEY_BYTES)
