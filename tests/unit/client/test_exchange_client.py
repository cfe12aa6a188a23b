"""An agent without a key: its calls carry chains that the exchange made, asked for through the agent's own client."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.delegations import CRM, EVIL, MAILER, NOW, PLANNER, RETRIEVER, claims_of, world
from support.exchanges import Bench, xfcc_of

from ext_authz.client import DELEGATION_TOKEN, DelegationAuth, Exchange, ExchangeError, MintingError, Narrowing
from ext_authz.exchange.app import exchange_app
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Delegation

EXCHANGE = Exchange("http://sidecar/", host="token-exchange")
AUDIENCES = {"crm": CRM, "mailer": MAILER}


@dataclass
class Mesh:
    """The retriever's sidecar: it routes by host to the exchange or to an agent, which verifies what it gets."""

    bench: Bench
    client: SpiffeId = RETRIEVER  # whose certificate the sidecar shows
    exchanges: list[httpx.Request] = field(default_factory=list)
    calls: list[tuple[str, Delegation]] = field(default_factory=list)

    async def route(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if request.headers["host"] == "token-exchange":
            self.exchanges.append(request)
            transport = httpx.ASGITransport(app=exchange_app(self.bench.exchange))
            request.headers["x-forwarded-client-cert"] = xfcc_of(self.client)
            response = await transport.handle_async_request(request)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())
        chain = request.headers[DELEGATION_TOKEN]
        self.calls.append((chain, self.bench.verified(chain, RETRIEVER, AUDIENCES[request.headers["host"]])))
        return httpx.Response(200, stream=httpx.ByteStream(b"streamed"))

    @contextmanager
    def sync_client(self) -> Iterator[httpx.Client]:
        """Return a client of the agent."""
        transport = httpx.MockTransport(lambda request: asyncio.run(self.route(request)))
        with httpx.Client(transport=transport) as client:
            yield client

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Return an asynchronous client of the agent."""
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.route)) as client:
            yield client

    def auth(self, chain: str | None = None, agent: Any = RETRIEVER, **options: Any) -> DelegationAuth:
        """Return what the agent attaches."""
        usual: dict[str, Any] = {"audiences": AUDIENCES, "exchange": EXCHANGE, "clock": lambda: self.bench.clock[0]}
        return DelegationAuth(chain or world().root(), agent, **usual | options)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with Bench.running(tmp_path) as bench:
        yield Mesh(bench)


def test_agent_without_a_key_calls(mesh: Mesh) -> None:
    """The chain of a call is made by the exchange, and the callee sees the user and both agents."""
    with mesh.sync_client() as client:
        assert "streamed" == client.get("http://crm/", auth=mesh.auth()).text
    ((chain, delegation),) = mesh.calls
    assert ("user:7c9e6679", (PLANNER, RETRIEVER)) == (delegation.on_behalf_of, delegation.actors)
    assert NOW + 300 == claims_of(chain)["exp"]


async def test_asynchronous_client(mesh: Mesh) -> None:
    """The same object serves both kinds of clients, and leaves a streamed answer to whoever asked for it."""
    async with mesh.async_client() as client, client.stream("GET", "http://crm/", auth=mesh.auth()) as answer:
        assert not answer.is_stream_consumed
        assert b"streamed" == await answer.aread()
    assert 1 == len(mesh.calls)


def test_chain_is_used_again(mesh: Mesh) -> None:
    """One exchange serves the calls of an audience for four fifths of its life; another audience needs another."""
    auth = mesh.auth()
    with mesh.sync_client() as client:
        for url in ("http://crm/", "http://crm/x", "http://mailer/"):
            client.get(url, auth=auth)
        assert 2 == len(mesh.exchanges)
        mesh.bench.clock[0] = NOW + 239
        client.get("http://crm/", auth=auth)
        assert 2 == len(mesh.exchanges)
        mesh.bench.clock[0] = NOW + 240
        client.get("http://crm/", auth=auth)
        assert 3 == len(mesh.exchanges)
    assert 3 == len({chain for chain, _ in mesh.calls})


def test_narrowing(mesh: Mesh) -> None:
    """The exchange is asked for what the narrowing says, and no more."""
    narrowing = Narrowing(scopes=["kb:search"], allowed_targets=[CRM], depth=0, lifetime_seconds=30)
    with mesh.sync_client() as client:
        client.get("http://crm/", auth=mesh.auth(narrowing=narrowing))
    ((_, delegation),) = mesh.calls
    assert (frozenset({"kb:search"}), frozenset({CRM}), 0, NOW + 30) == (
        delegation.scopes,
        delegation.allowed_targets,
        delegation.depth,
        delegation.expires_at,
    )


def test_one_call_only(mesh: Mesh) -> None:
    """A chain for one call is asked for anew each time; one that was received for one call is exchanged once."""
    auth = mesh.auth(narrowing=Narrowing(once=True))
    with mesh.sync_client() as client:
        for _ in range(2):
            client.get("http://crm/", auth=auth)
        assert (2, True) == (len(mesh.exchanges), mesh.calls[0][1].once)
        received = mesh.auth(world().root(once=True))
        client.get("http://crm/", auth=received)
        with pytest.raises(ExchangeError, match="exchanged before"):
            client.get("http://crm/", auth=received)


def test_refusal_has_its_code(mesh: Mesh) -> None:
    """An error says what the exchange said, with its code, and nothing of the chain."""
    with mesh.sync_client() as client, pytest.raises(ExchangeError) as caught:
        client.get("http://crm/", auth=mesh.auth(narrowing=Narrowing(scopes=["admin"])))
    assert ("invalid_scope", []) == (caught.value.code, mesh.calls)
    assert "the exchange answered 400 `invalid_scope`: the chain does not give a scope that was asked for" == str(
        caught.value
    )
    assert isinstance(caught.value, MintingError)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda mesh: mesh.auth(exchange=None), "has no key to pass the chain on"),
        (lambda mesh: mesh.auth(agent=EVIL), "was made for `spiffe://agents.example.com/retriever`"),
        (lambda mesh: mesh.auth(narrowing=Narrowing(actor=EVIL)), "names its client as actor"),
        (lambda mesh: mesh.auth(narrowing=Narrowing(certificate_sha256=bytes(32))), "binds no certificate"),
        (lambda mesh: mesh.auth(narrowing=Narrowing(scopes=[])), "at least one scope"),
        (lambda mesh: mesh.auth(audiences={}), "no SPIFFE ID is known"),
    ],
)
def test_what_is_not_asked(mesh: Mesh, make: Callable[[Mesh], DelegationAuth], problem: str) -> None:
    """What cannot succeed costs no request."""
    with mesh.sync_client() as client, pytest.raises(MintingError, match=problem):
        client.get("http://crm/", auth=make(mesh))
    assert ([], []) == (mesh.exchanges, mesh.calls)


def test_agent_with_a_key_signs_itself(mesh: Mesh) -> None:
    """An agent that can sign does so, and its holder's chain goes as it is: the exchange is not asked."""
    with mesh.sync_client() as client:
        client.get("http://crm/", auth=mesh.auth(agent=world().svids[RETRIEVER]))
    assert ([], 1) == (mesh.exchanges, len(mesh.calls))


def test_received_chain_is_never_sent_on(mesh: Mesh) -> None:
    """A request that carries a chain already is refused before anything is sent."""
    with mesh.sync_client() as client, pytest.raises(MintingError, match="carries"):
        client.get("http://crm/", auth=mesh.auth(), headers={DELEGATION_TOKEN: world().root()})
    assert [] == mesh.exchanges


def answering(**answer: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(**{"status_code": 200} | answer)


GOOD = {"issued_token_type": "urn:ext-authz:token-type:delegation-chain", "token_type": "N_A"}


@pytest.mark.parametrize(
    ("answer", "code", "problem"),
    [
        ({"content": b"\xff"}, "", "without a delegation chain"),
        ({"json": []}, "", "without a delegation chain"),
        ({"json": GOOD}, "", "without a delegation chain"),
        ({"json": GOOD | {"access_token": 1}}, "", "without a delegation chain"),
        ({"json": GOOD | {"access_token": "x"}}, "", "three base64url segments"),
        ({"json": {"access_token": "x", "issued_token_type": "urn:x"}}, "", "without a delegation chain"),
        ({"status_code": 403, "json": {"reason": "not_in_matrix", "detail": "no rule"}}, "not_in_matrix", "no rule"),
        ({"status_code": 503, "content": b""}, "", "answered 503"),
        ({"status_code": 302, "headers": {"location": "http://evil/"}}, "", "answered 302"),
        ({"status_code": 400, "json": {"error": "a\nb", "error_description": "c"}}, "", "answered 400$"),
        (
            {"status_code": 400, "json": {"error": "invalid_scope", "error_description": "\x1b[2J"}},
            "invalid_scope",
            "`$",
        ),
    ],
)
def test_strange_answers(answer: dict[str, Any], code: str, problem: str) -> None:
    """Whatever answers in place of the exchange, no call is made with it, and the error is one line."""
    auth = DelegationAuth(world().root(), RETRIEVER, audience=CRM, exchange=EXCHANGE, clock=lambda: NOW)
    with (
        httpx.Client(transport=httpx.MockTransport(answering(**answer))) as client,
        pytest.raises(MintingError, match=problem) as caught,
    ):
        client.get("http://crm/", auth=auth)
    assert code == getattr(caught.value, "code", "")
    assert str(caught.value).isprintable()


def test_chain_for_another_call(mesh: Mesh) -> None:
    """A chain for another agent or audience is an error, however good it is."""
    others = [world().root(), world().three_links(), world().root(actor=RETRIEVER, audience=MAILER)]
    for chain in others:
        response = httpx.Response(200, json=GOOD | {"access_token": chain})
        with pytest.raises(ExchangeError, match="another call"):
            EXCHANGE.answered(response, RETRIEVER, CRM)
    right = httpx.Response(200, json=GOOD | {"access_token": world().root(actor=RETRIEVER, audience=CRM)})
    assert not EXCHANGE.answered(right, RETRIEVER, CRM).once


@contextmanager
def listening(mesh: Mesh) -> Iterator[Exchange]:
    """Let the sidecar of a mesh listen on a port."""

    class Sidecar(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = httpx.Request("POST", f"http://sidecar{self.path}", headers=dict(self.headers), content=body)
            response = asyncio.run(mesh.route(request))
            self.send_response(response.status_code)
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Sidecar) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Exchange(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_without_httpx(mesh: Mesh) -> None:
    """Other HTTP clients get the chain from a plain function, which waits for the exchange and keeps what it gave."""
    with listening(mesh) as exchange:
        auth = mesh.auth(exchange=exchange)
        assert auth.chain_for(CRM) == auth.chain_for(CRM)
        assert 1 == len(mesh.exchanges)
        given = exchange.exchange(world().root(), RETRIEVER, CRM)
    assert (PLANNER, RETRIEVER) == mesh.bench.verified(given.chain).actors


def test_exchange_that_is_not_there() -> None:
    """An exchange that cannot be reached is an error of the same kind."""
    with pytest.raises(ExchangeError, match="cannot be reached: ConnectError"):
        Exchange("http://127.0.0.1:1").exchange(world().root(), RETRIEVER, CRM)


def test_no_token_is_shown(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs nor representations hold a chain, received or given."""
    caplog.set_level(logging.DEBUG)
    auth = mesh.auth()
    with mesh.sync_client() as client:
        client.get("http://crm/", auth=auth)
    given = Exchange("http://x").answered(
        httpx.Response(200, json=GOOD | {"access_token": mesh.calls[0][0]}), RETRIEVER, CRM
    )
    shown = f"{caplog.text} {auth!r} {given!r} {EXCHANGE!r}"
    assert all(link not in shown for link in mesh.calls[0][0].split("~"))
