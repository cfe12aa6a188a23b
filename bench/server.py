"""A server to put under load: `python -m bench.server KIND SOCKET`, KIND one of KINDS. Runs until it is killed."""

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from bench import requests
from bench.snapshot import Discarded, snapshot
from ext_authz.audit.jsonlines import JsonLinesSink
from ext_authz.audit.writer import AuditWriter
from ext_authz.authorizer import Authorizer
from ext_authz.server.memory import settle_memory
from ext_authz.server.run import grpc_server
from ext_authz.server.service import CHECK_METHOD, SERVICE_NAME, authorization_handler
from ext_authz.settings import Settings

EMPTY = "empty servicer"
WITHOUT_AUDIT = "ext_authz, audit off"
WITH_AUDIT = "ext_authz, audit to a file"
KINDS = (EMPTY, WITHOUT_AUDIT, WITH_AUDIT)


def _empty_handler() -> grpc.GenericRpcHandler:
    """Return a servicer that decides nothing and answers with as many bytes as an allow has."""
    answer = Authorizer(snapshot(), Discarded()).check(requests.ALLOW)

    async def check(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        del data, context
        return answer

    return grpc.method_handlers_generic_handler(
        SERVICE_NAME, {CHECK_METHOD: grpc.unary_unary_rpc_method_handler(check)}
    )


def _handler(kind: str, directory: Path) -> grpc.GenericRpcHandler:
    if kind == EMPTY:
        return _empty_handler()
    recorder = Discarded() if kind == WITHOUT_AUDIT else AuditWriter([JsonLinesSink.to_file(directory / "audit.jsonl")])
    return authorization_handler(Authorizer(snapshot(), recorder), authenticates_peers=False)


async def _serve(kind: str, address: str) -> None:
    server = grpc_server(Settings(policies=Path(), listen=address))
    server.add_generic_rpc_handlers((_handler(kind, Path(address.removeprefix("unix:")).parent),))
    server.add_insecure_port(address)
    settle_memory()
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1], sys.argv[2]))
