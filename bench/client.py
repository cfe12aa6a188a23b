"""A load of concurrent checks through gRPC's own client, where h2load is not installed."""

import threading

import grpc

from ext_authz.server.service import CHECK_METHOD, SERVICE_NAME


def run_client(address: str, data: bytes, calls: int, in_flight: int) -> None:
    """Make `calls` checks with at most `in_flight` open at a time. Raises grpc.RpcError when one fails."""
    places = threading.Semaphore(in_flight)
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(f"/{SERVICE_NAME}/{CHECK_METHOD}")
        futures = []
        for _ in range(calls):
            places.acquire()
            future = check.future(data)
            future.add_done_callback(lambda _: places.release())
            futures.append(future)
        for future in futures:
            future.result()
