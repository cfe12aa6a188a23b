"""The Authorization service: bytes from gRPC to the authorizer and back.

The messages are not decoded here: the authorizer reads and writes bytes, so that no codec stands on the way twice.
"""

from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from ext_authz.authorizer import Authorizer
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

SERVICE_NAME = "envoy.service.auth.v3.Authorization"
CHECK_METHOD = "Check"

_Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


def authorization_handler(
    authorizer: Authorizer, *, authenticates_peers: bool, peer: SpiffeId | None = None
) -> grpc.GenericRpcHandler:
    """Return the handler of the Authorization service.

    With `authenticates_peers` the sidecar's client certificate names the only workload that it may ask about. `peer` is
    that workload where the listener is its own.
    """
    check = _check_authenticated(authorizer) if authenticates_peers else _check(authorizer, peer)
    return grpc.method_handlers_generic_handler(
        SERVICE_NAME, {CHECK_METHOD: grpc.unary_unary_rpc_method_handler(check)}
    )


def _check(authorizer: Authorizer, peer: SpiffeId | None) -> _Handler:
    async def check(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if authorizer.effects:
            return await authorizer.check_with_effects(data, context.time_remaining(), peer)
        return authorizer.check(data, context.time_remaining(), peer)

    return check


def _check_authenticated(authorizer: Authorizer) -> _Handler:
    async def check(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        peer = _peer(context)
        if peer is None:
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "the client certificate is no X.509-SVID of a workload"
            )
        if authorizer.effects:
            return await authorizer.check_with_effects(data, context.time_remaining(), peer)
        return authorizer.check(data, context.time_remaining(), peer)

    return check


def _peer(context: grpc.aio.ServicerContext) -> SpiffeId | None:
    """Return the one SPIFFE ID of the client's certificate, or None."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    uris = [name for name in names if b"://" in name]  # X509-SVID.md section 2: one URI, whatever its scheme
    if len(uris) != 1:
        return None
    try:
        return SpiffeId.parse_workload(uris[0].decode("ascii", "replace"))
    except SpiffeIdError:
        return None
