"""The keys of the exchange: which one signs when, what is published, what is refused."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.delegations import CRM, NOW, RETRIEVER, header_of, world
from support.exchanges import EXCHANGE, Bench, write_key
from typer.testing import CliRunner, Result

from ext_authz.cli.main import app
from ext_authz.exchange.app import exchange_app
from ext_authz.exchange.keys import RETIRED_SECONDS, KeyDirectoryError, KeyRing, add_key
from ext_authz.stores.entry import Entry, Kind
from ext_authz.tokens.keys import parse_jwks


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Make a directory of two keys: one signs since an hour, the next from NOW on."""
    directory = tmp_path / "keys"
    write_key(directory, NOW - 3600, "first---")
    write_key(directory, NOW, "second--")
    return directory


def signing(ring: KeyRing, now: float) -> str | None:
    """Return the end of the name of the key that signs."""
    signer = ring.signer(EXCHANGE, now)
    return str(signer.reference["kid"])[-8:] if signer else None


def names(found: Callable[[float], object], now: float) -> list[str]:
    """Return the ends of the names of some keys."""
    return [key.key_id[-8:] for key in found(now)]  # type: ignore[attr-defined]


def test_each_key_signs_from_its_second_on(keys: Path) -> None:
    """A key signs from the second in its name until the next one does."""
    ring = KeyRing.load(keys)
    moments = (NOW - 3601, NOW - 3600, NOW - 1, NOW, NOW + 86400)
    assert [None, "first---", "first---", "second--", "second--"] == [signing(ring, at) for at in moments]


def test_key_is_published_while_a_token_of_it_can_be_valid(keys: Path) -> None:
    """A key is published before it signs, and until the last token that it signed has expired."""
    ring = KeyRing.load(keys)
    end = NOW + RETIRED_SECONDS
    assert 3630 == RETIRED_SECONDS
    assert [["first---", "second--"]] * 2 + [["second--"]] == [
        names(ring.published, at) for at in (NOW - 3600, end - 1, end)
    ]
    assert [[], ["first---"]] == [names(ring.retired, at) for at in (end - 1, end)]


def test_key_set(keys: Path) -> None:
    """What is published is what verifiers read: public keys with names that can be revoked."""
    found = KeyRing.load(keys).key_set(NOW)
    parsed = parse_jwks(json.dumps(found))
    assert [key["kid"] for key in found["keys"]] == list(parsed)
    assert {"kid", "alg", "use", "kty", "crv", "x"} == found["keys"][0].keys()
    for key_id in parsed:
        assert Kind.KEY_ID is Entry.new(Kind.KEY_ID, key_id, NOW).kind


def test_new_key(tmp_path: Path) -> None:
    """A key is made with its directory, readable for nobody else, and is in the ring."""
    directory = tmp_path / "new" / "keys"
    key_id = add_key(directory, NOW + 0.7)
    assert [0o700, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / f"{key_id}.pem")]
    assert (key_id, float(NOW)) == (KeyRing.load(directory).keys[0].key_id, KeyRing.load(directory).keys[0].signs_from)
    assert [f"{key_id}.pem"] == [path.name for path in directory.iterdir()]


def test_no_private_key_is_shown(keys: Path) -> None:
    """Neither ring nor key nor signer shows a private key."""
    ring = KeyRing.load(keys)
    for value in (ring, ring.keys[0], ring.signer(EXCHANGE, NOW)):
        assert "PrivateKey" not in repr(value)


def _foreign_type() -> bytes:
    key = dsa.generate_private_key(2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_everything_that_is_wrong_is_said(keys: Path) -> None:
    """All problems of a directory come at once; nothing in it is passed over."""
    first, second = sorted(keys.iterdir())
    first.chmod(0o640)
    second.write_bytes(b"-----BEGIN")
    (keys / "20261122T031500Z-linkedto.pem").symlink_to(first)
    (keys / "sts.pem").write_bytes(b"")
    (keys / "20261399T031500Z-monthhas.pem").write_bytes(b"")
    directory = keys / "20261122T031500Z-director.pem"
    directory.mkdir()
    large, foreign = keys / "20261122T031500Z-toolarge.pem", keys / "20261122T031500Z-dsa-----.pem"
    for path, content in ((large, b"x" * 20_000), (foreign, _foreign_type())):
        path.touch(0o600)
        path.write_bytes(content)
    (keys / ".20261122T031500Z-unfinish").write_bytes(b"")
    keys.chmod(0o770)
    with pytest.raises(KeyDirectoryError) as caught:
        KeyRing.load(keys)
    found = "\n".join(caught.value.problems)
    assert 9 == len(caught.value.problems)
    for what in (
        "others may write to it",
        f"{first}: others may read",
        f"{second}: not an unencrypted private key",
        "linkedto.pem: Too many levels of symbolic links",
        "sts.pem: expected names such as",
        "monthhas.pem: ",
        "director.pem: Is a directory",
        "toolarge.pem: larger than",
        "dsa-----.pem: a private key of a type that signs no links",
    ):
        assert what in found


@pytest.mark.parametrize("content", ["", "nothing"])
def test_directory_without_keys(tmp_path: Path, content: str) -> None:
    """An empty directory and one that is not there are errors."""
    with pytest.raises(KeyDirectoryError):
        KeyRing.load(tmp_path / content)


async def test_published_set_verifies_what_is_issued(tmp_path: Path) -> None:
    """What GET /jwks.json answers names the key of the next token; verifiers may keep it for a while."""
    with Bench.running(tmp_path) as bench:
        transport = httpx.ASGITransport(app=exchange_app(bench.exchange))
        async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
            answer = await client.get("/jwks.json")
        assert ("public, max-age=300", 200) == (answer.headers["cache-control"], answer.status_code)
        signer = bench.exchange.snapshot.keys.signer(EXCHANGE, NOW)
        assert signer is not None
        assert [signer.reference["kid"]] == list(parse_jwks(answer.content))
        issued = (await bench.ask(world().root(), RETRIEVER, CRM)).chain
        assert header_of(issued)["kid"] == signer.reference["kid"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["exchange", *map(str, arguments)])


def test_commands(tmp_path: Path) -> None:
    """Keygen makes the first key, rotate the next ones, jwks prints what verifiers need."""
    directory = tmp_path / "keys"
    assert "signs from now on" in run("keygen", "--keys", directory).stdout
    assert 0 == run("rotate", "--keys", directory).exit_code
    key_set = json.loads(run("jwks", "--keys", directory).stdout)
    assert 2 == len(parse_jwks(json.dumps(key_set)))
    first, second = KeyRing.load(directory).keys
    assert 895 <= second.signs_from - first.signs_from <= 960


def test_rotate_at_once(keys: Path) -> None:
    """--now is for a stolen key: the new one signs in this second."""
    before = time.time()
    assert 0 == run("rotate", "--keys", keys, "--now").exit_code
    assert before - 1 <= KeyRing.load(keys).keys[-1].signs_from <= time.time()


def test_rotate_removes_what_is_over(tmp_path: Path) -> None:
    """A key of which no token can be valid any more goes; its successor stays."""
    write_key(tmp_path / "keys", 1_000_000, "longago-")
    write_key(tmp_path / "keys", 2_000_000, "current-")
    result = run("rotate", "--keys", tmp_path / "keys")
    assert "longago-` removed" in result.stdout
    assert ["current-"] == [key.key_id[-8:] for key in KeyRing.load(tmp_path / "keys").keys[:-1]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("keygen",), "is not empty"),
        (("rotate", "--publish-for", "299s"), "verifiers may keep the old set for 300 s"),
        (("rotate", "--publish-for", "soon"), "expected a number"),
    ],
)
def test_wrong_use(keys: Path, arguments: tuple[str, ...], problem: str) -> None:
    """What would surprise is refused with exit code 2, and changes nothing."""
    result = run(*arguments, "--keys", keys)
    assert (2, True, 2) == (result.exit_code, problem in result.stderr, len(list(keys.iterdir())))
