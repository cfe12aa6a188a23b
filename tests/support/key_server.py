"""A real HTTP server that gives keys, or whatever a test wants it to give, on a loopback port."""

import json
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ext_authz.tokens.jws import encode_base64url

PATH = "/jwks.json"


def jwk(key_id: str, key: Ed25519PrivateKey | Ed25519PublicKey | None = None) -> dict[str, Any]:
    """Return a public key as a member of a JWK set; a new one unless it is given."""
    key = key or Ed25519PrivateKey.generate()
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return {"kid": key_id, "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(public.public_bytes_raw())}


def jwks(*members: Mapping[str, Any]) -> bytes:
    """Return a JWK set."""
    return json.dumps({"keys": members}).encode()


@dataclass(frozen=True)
class Page:
    """What the server answers: a body in pieces, so that it can come slowly or without end."""

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class KeyServer:
    """A server whose pages a test changes at any time, and the paths that it was asked for."""

    pages: dict[str, Page]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # slow answers end with it

    @property
    def address(self) -> str:
        """The address of its JWK set."""
        return f"{self.url}{PATH}"

    def give(self, page: Page | bytes, path: str = PATH) -> None:
        """Answer like this from now on."""
        self.pages[path] = page if isinstance(page, Page) else Page(page)

    @classmethod
    @contextmanager
    def running(cls, page: Page | bytes, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Self]:
        """Serve until the end of the block."""
        server = cls({})
        server.give(page)
        listener = ThreadingHTTPServer(("127.0.0.1", port), _handler(server))
        listener.daemon_threads = True
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            listener.shutdown()
            listener.server_close()
            thread.join()

    def slowly(self, pieces: Iterable[bytes], seconds: float) -> Iterator[bytes]:
        """Yield pieces with a pause before each, until the server is closed."""
        for piece in pieces:
            if self.released.wait(seconds):
                return
            yield piece


def _handler(server: KeyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            page = server.pages.get(self.path, Page(status=404))
            with suppress(OSError):  # whoever asked has gone
                self.send_response(page.status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [page.body] if isinstance(page.body, bytes) else page.body:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

    return Handler
