"""What may come from an address of keys, over real connections."""

import gzip
import ipaddress
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.delegations import Authority
from support.key_server import PATH, KeyServer, Page, jwk, jwks

from ext_authz.server import key_answers
from ext_authz.server.key_answers import MAX_ANSWER_BYTES, Answer, KeyFetchError, fetch_keys
from ext_authz.tokens.keys import KeySource

KEYS = jwks(jwk("a"), jwk("b"))
# Nobody's certificate counts with it.
TLS = ssl.create_default_context(cadata=None)
METADATA = "/.well-known/openid-configuration"


@pytest.fixture(autouse=True)
def _proxy_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every proxy of the environment at a port where nobody answers: this machine is asked directly."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer.running(KEYS) as running:
        yield running


async def fetched(server: KeyServer, *, tls: ssl.SSLContext = TLS, is_issuer: bool = False) -> Answer:
    """Fetch from a server."""
    return await fetch_keys(KeySource(server.url if is_issuer else server.address, is_issuer), tls)


async def refusal(server: KeyServer, *, tls: ssl.SSLContext = TLS, is_issuer: bool = False) -> str:
    """Return why what a server gives does not count."""
    with pytest.raises(KeyFetchError) as caught:
        await fetched(server, tls=tls, is_issuer=is_issuer)
    return str(caught.value)


async def test_keys_and_their_digest(server: KeyServer) -> None:
    """The set is read whole; one text has one digest, and another one another."""
    first = await fetched(server)
    assert {"a", "b"} == first.keys.keys()
    assert first.digest == (await fetched(server)).digest
    server.give(KEYS + b" ")
    assert first.digest != (await fetched(server)).digest


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("no-store", None),
        ("max-age=120", 120),
        ("public, Max-Age=7, must-revalidate", 7),
        ('max-age="9"', 9),
        ("x-max-age=5", None),
        ("max-age=-1", None),
        ("max-age=1e9", None),
        ("max-age=9999999999", None),
    ],
)
async def test_max_age(server: KeyServer, header: str | None, seconds: int | None) -> None:
    """RFC 9111 section 5.2.2.1: how long the answer is fresh, where it says so in a whole number."""
    server.give(Page(KEYS, headers={"cache-control": header} if header else {}))
    assert seconds == (await fetched(server)).max_age_seconds


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 304, 307, 400, 404, 429, 500, 503])
async def test_only_200_counts(server: KeyServer, status: int) -> None:
    """Another status is no answer, whatever comes with it; redirects are not followed."""
    server.give(KEYS, "/elsewhere")
    server.give(Page(KEYS if status not in (204, 304) else b"", status, {"location": f"{server.url}/elsewhere"}))
    assert f"it answers {status}" == await refusal(server)
    assert [PATH] == server.asked


GARBAGE = {
    "nothing": b"",
    "html": b"<html>secret</html>",
    "empty set": b'{"keys":[]}',
    "cut": KEYS[:-3],
    "not UTF-8": b"\xff" + KEYS,
    "private": json.dumps({"keys": [jwk("a"), {**jwk("b"), "d": "secret"}]}).encode(),
    "symmetric": b'{"keys":[{"kid":"a","kty":"oct","k":"secret"}]}',
    "one key damaged": json.dumps({"keys": [jwk("a"), {**jwk("b"), "x": "secret"}]}).encode(),
    "names that cannot be revoked": json.dumps({"keys": [{**jwk("a"), "kid": "secret kid"}]}).encode(),
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
async def test_garbage(server: KeyServer, body: bytes) -> None:
    """What is no good set is refused as a whole, and not repeated."""
    server.give(body)
    assert "secret" not in await refusal(server)


def large(size: int) -> bytes:
    """Return a good set of that many bytes."""
    return KEYS + b" " * (size - len(KEYS))


async def test_largest_answer(server: KeyServer) -> None:
    """MAX_ANSWER_BYTES are read, one more is not, announced or not, folded or not."""
    for body, headers in ((large, {}), (lambda size: gzip.compress(large(size)), {"content-encoding": "gzip"})):
        server.give(Page(body(MAX_ANSWER_BYTES), headers=headers))
        assert {"a", "b"} == (await fetched(server)).keys.keys()
        server.give(Page(body(MAX_ANSWER_BYTES + 1), headers=headers))
        assert f"its answer is larger than {MAX_ANSWER_BYTES} bytes" == await refusal(server)


async def test_endless_answer(server: KeyServer) -> None:
    """Reading stops at the bound: what has no end does not fill memory."""

    def pieces() -> Iterator[bytes]:
        while not server.released.is_set():
            yield b" " * 65536

    server.give(Page(pieces()))
    assert f"its answer is larger than {MAX_ANSWER_BYTES} bytes" == await refusal(server)


async def test_gzip_bomb(server: KeyServer) -> None:
    """A compressed gigabyte is unfolded no further than the bound."""
    bomb = gzip.compress(b" " * 2**30, 1)
    server.give(Page(bomb, headers={"content-encoding": "gzip"}))
    assert f"its answer is larger than {MAX_ANSWER_BYTES} bytes" == await refusal(server)


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [("gzip", "its answer is damaged"), ("br", "its answer is encoded in a way that was not asked for")],
)
async def test_encodings(server: KeyServer, encoding: str, problem: str) -> None:
    """An encoding that the body does not have, or that nobody asked for, is refused."""
    server.give(Page(KEYS, headers={"content-encoding": encoding}))
    assert problem == await refusal(server)


async def test_answer_that_is_cut(server: KeyServer) -> None:
    """Fewer bytes than announced are no answer, even where what came is a set."""
    server.give(Page(KEYS, headers={"content-length": str(len(KEYS) + 1)}))
    assert "no answer (RemoteProtocolError)" == await refusal(server)


async def test_slow_answer(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that drip in time, one by one, run into the time for everything."""
    monkeypatch.setattr(key_answers, "TOTAL_SECONDS", 0.3)
    server.give(Page(server.slowly((bytes([byte]) for byte in KEYS), 0.05)))
    assert "it does not answer in time" == await refusal(server)


async def test_silent_answer(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does silence, into the time for one read."""
    monkeypatch.setattr(key_answers, "READ_SECONDS", 0.1)
    server.give(Page(server.slowly([KEYS], 60)))
    assert "it does not answer in time" == await refusal(server)


async def test_server_that_is_gone() -> None:
    """Nobody listens any more."""
    with KeyServer.running(KEYS) as server:
        pass
    assert "no answer (ConnectError)" == await refusal(server)


async def test_keys_of_a_provider(server: KeyServer) -> None:
    """The metadata names where the keys are; among them those of others are skipped."""
    server.give(
        json.dumps({"issuer": server.url, "jwks_uri": f"{server.url}/k", "x": [{"y": {"z": []}}]}).encode(), METADATA
    )
    server.give(jwks(jwk("a"), {**jwk("e"), "use": "enc"}), "/k")
    assert {"a"} == (await fetched(server, is_issuer=True)).keys.keys()
    assert [METADATA, "/k"] == server.asked


async def test_keys_of_a_provider_at_a_pinned_address(server: KeyServer) -> None:
    """A pinned JWK set of a provider is read by the same rules; without being said so, it is read strictly."""
    server.give(jwks(jwk("a"), {"kid": "e", "kty": "AKP"}))
    assert {"a"} == (await fetch_keys(KeySource(server.address, is_provider=True), TLS)).keys.keys()
    await refusal(server)


async def test_issuer_with_a_path(server: KeyServer) -> None:
    """OpenID Connect Discovery 1.0 section 4.1: the metadata stands behind the path, its last slash left out."""
    for issuer in (f"{server.url}/tenant", f"{server.url}/tenant/"):
        metadata = {"issuer": issuer, "jwks_uri": server.address}
        server.give(json.dumps(metadata).encode(), f"/tenant{METADATA}")
        assert {"a", "b"} == (await fetch_keys(KeySource(issuer, is_issuer=True), TLS)).keys.keys()


WRONG_METADATA = {
    "of another issuer": ({"issuer": "https://idp.example.com"}, "its metadata is of another issuer"),
    "of an issuer with a slash": ({"issuer": "{url}/"}, "its metadata is of another issuer"),
    "of no issuer": ({}, "its metadata is of another issuer"),
    "without address": ({"issuer": "{url}"}, "the metadata names no address of keys"),
    "with two addresses": ({"issuer": "{url}", "jwks_uri": ["{url}"]}, "the metadata names no address of keys"),
    "without TLS": (
        {"issuer": "{url}", "jwks_uri": "http://idp.example.com/"},
        "an address begins with https://, or on this machine with http://127.0.0.1",
    ),
    "to a file": (
        {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"},
        "an address begins with https://, or on this machine with http://127.0.0.1",
    ),
}


@pytest.mark.parametrize(("metadata", "problem"), WRONG_METADATA.values(), ids=WRONG_METADATA)
async def test_wrong_metadata(server: KeyServer, metadata: dict[str, object], problem: str) -> None:
    """Metadata of somebody else, or that leads nowhere, gives no keys."""
    server.give(json.dumps(metadata).replace("{url}", server.url).encode(), METADATA)
    assert problem == await refusal(server, is_issuer=True)
    assert [METADATA] == server.asked


async def test_metadata_that_is_no_json(server: KeyServer) -> None:
    """Metadata are read as strictly as tokens."""
    server.give(b'{"issuer": "x", "issuer": "y"}', METADATA)
    assert "its metadata is no strict JSON: a member stands twice" == await refusal(server, is_issuer=True)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.root(not_before=0, not_after=4e9)


@pytest.fixture
def tls_server(authority: Authority, tmp_path: Path) -> Iterator[KeyServer]:
    """Serve with a certificate for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = authority.sign(key.public_key(), extensions=[names], not_before=0, not_after=4e9)
    (tmp_path / "tls.pem").write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")
    with KeyServer.running(KEYS, context) as running:
        yield running


async def test_tls(authority: Authority, tls_server: KeyServer) -> None:
    """A certificate of a CA that counts, for the name that was asked, is needed."""
    trusting = ssl.create_default_context(cadata=authority.certificate.public_bytes(Encoding.PEM).decode())
    assert {"a", "b"} == (await fetched(tls_server, tls=trusting)).keys.keys()
    assert "its certificate does not hold" == await refusal(tls_server)
    tls_server.url = tls_server.url.replace("127.0.0.1", "localhost")
    assert "its certificate does not hold" == await refusal(tls_server, tls=trusting)


async def test_no_tls_where_it_is_expected(server: KeyServer) -> None:
    """An https address that answers without TLS gives nothing."""
    server.url = server.url.replace("http:", "https:")
    assert "no answer (ConnectError)" == await refusal(server)
