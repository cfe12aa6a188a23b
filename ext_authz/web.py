"""HTTP applications of ours on a socket that is bound already: starlette on uvicorn, silent and bounded."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

# Requests at a time; a sidecar's circuit breaker asks for fewer.
MAX_CONCURRENT_REQUESTS = 256
# Bytes of request line and headers: an XFCC header with certificate and chain, and room.
MAX_HEAD_BYTES = 64 * 1024
# Seconds for requests that run when the server ends, for a body to arrive, and between two requests of one connection.
DRAIN_SECONDS = 5
BODY_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30


class BodyError(Exception):
    """The body is larger than it may be, or did not arrive."""


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` for the time of the block. Its requests are finished before the block ends."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.wait({running, asyncio.create_task(server.is_up.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        server.should_exit = True
        await running


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. Raises BodyError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise BodyError(f"the body has more than {max_bytes} bytes")
    except TimeoutError:
        raise BodyError("the body did not arrive") from None
    return bytes(body)


def header_lines(request: Request, name: str) -> list[str]:
    """Return every line of a header as it came, one entry a line."""
    wanted = name.encode("ascii")
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == wanted]


class _Server(uvicorn.Server):
    """A server that leaves signals to its process, and says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()
