"""The SPIFFE Workload API (SPIFFE_Workload_API.md) for one workload: who can open the socket is the workload.

1. Every call carries the metadata `workload.spiffe.io: true`, or is refused (SPIFFE_Workload_Endpoint.md): a request that
   something was tricked into forwarding does not have it.
2. Answers are functions of the workload's state; the gRPC part carries them and turns refusals into statuses.
3. A stream sends the current answer at once, and another whenever it differs from the last.

JWT bundles of federated trust domains are not carried.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from ext_authz.errors import ExtAuthzError
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.local.ca import JwtAuthority, JwtSvidError
from ext_authz.local.svid import IdentityFeed, IdentityState, to_der, trust_domain_id
from ext_authz.pb import workload_pb2 as pb

SERVICE = "SpiffeWorkloadAPI"
SECURITY_HEADER = "workload.spiffe.io"

# Audiences of one JWT-SVID, and characters of each: an audience is a SPIFFE ID or a URL.
MAX_AUDIENCES = 16
MAX_AUDIENCE_CHARACTERS = 256


class CallRefused(ExtAuthzError):
    """The call is answered with a status instead of a message."""

    def __init__(self, details: str, status: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(details)
        self.status = status


def to_x509_svids(state: IdentityState) -> pb.X509SVIDResponse:
    """Tell the workload its SVID, its private key and the bundles."""
    svid = pb.X509SVID(
        spiffe_id=state.svid.spiffe_id.uri,
        x509_svid=state.svid.chain_der,
        x509_svid_key=state.svid.private_key_der,
        bundle=to_der(state.bundle),
    )
    federated = {trust_domain_id(domain): to_der(bundle) for domain, bundle in state.federated_bundles.items()}
    return pb.X509SVIDResponse(svids=[svid], federated_bundles=federated)


def to_x509_bundles(state: IdentityState) -> pb.X509BundlesResponse:
    """Tell the workload every bundle, its own included."""
    bundles = {trust_domain_id(domain): to_der(bundle) for domain, bundle in state.bundles.items()}
    return pb.X509BundlesResponse(bundles=bundles)


class WorkloadApi:
    """The gRPC service for one workload."""

    def __init__(self, feed: IdentityFeed, jwt_authority: JwtAuthority) -> None:
        self._feed = feed
        self._jwt_authority = jwt_authority

    def rpc_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler for a server. Each method is built by one of two functions, and both check the metadata."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FetchX509SVID": self._stream(to_x509_svids, pb.X509SVIDRequest),
                "FetchX509Bundles": self._stream(to_x509_bundles, pb.X509BundlesRequest),
                "FetchJWTBundles": self._stream(self.to_jwt_bundles, pb.JWTBundlesRequest),
                "FetchJWTSVID": _unary(self.fetch_jwt_svid, pb.JWTSVIDRequest),
                "ValidateJWTSVID": _unary(self.validate_jwt_svid, pb.ValidateJWTSVIDRequest),
            },
        )

    def fetch_jwt_svid(self, request: pb.JWTSVIDRequest) -> pb.JWTSVIDResponse:
        """Sign a JWT-SVID for the audiences asked for. Raises CallRefused."""
        audiences = [audience for audience in request.audience if audience]
        if not audiences:
            raise CallRefused("audience must be specified")
        if len(audiences) > MAX_AUDIENCES or max(map(len, audiences)) > MAX_AUDIENCE_CHARACTERS:
            raise CallRefused(f"expected at most {MAX_AUDIENCES} audiences of {MAX_AUDIENCE_CHARACTERS} characters")
        spiffe_id = self._feed.state.svid.spiffe_id
        if request.spiffe_id not in {"", spiffe_id.uri}:
            raise _foreign_id(request.spiffe_id)
        svid = pb.JWTSVID(spiffe_id=spiffe_id.uri, svid=self._jwt_authority.issue(spiffe_id, audiences))
        return pb.JWTSVIDResponse(svids=[svid])

    def validate_jwt_svid(self, request: pb.ValidateJWTSVIDRequest) -> pb.ValidateJWTSVIDResponse:
        """Verify a JWT-SVID of this trust domain for one audience. Raises CallRefused."""
        if not request.audience:
            raise CallRefused("audience must be specified")
        if not request.svid:
            raise CallRefused("svid must be specified")
        try:
            claims = self._jwt_authority.verify(request.svid, request.audience)
        except JwtSvidError as error:
            raise CallRefused(str(error)) from error
        response = pb.ValidateJWTSVIDResponse(spiffe_id=claims["sub"])
        response.claims.update(claims)
        return response

    def to_jwt_bundles(self, state: IdentityState) -> pb.JWTBundlesResponse:
        """Tell the workload the key set of its own trust domain."""
        domain = trust_domain_id(state.svid.spiffe_id.trust_domain)
        return pb.JWTBundlesResponse(bundles={domain: self._jwt_authority.jwks})

    def _stream(self, answer: Callable[[IdentityState], Message], request_type: type[Message]) -> grpc.RpcMethodHandler:
        async def stream(_request: Message, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
            await _require_security_header(context)
            previous = None
            async for state in self._feed.states():
                response = answer(state)
                if response != previous:
                    yield response
                previous = response

        return grpc.unary_stream_rpc_method_handler(stream, request_type.FromString, _serialize)


def _unary(answer: Callable[[Any], Message], request_type: type[Message]) -> grpc.RpcMethodHandler:
    async def call(request: Message, context: grpc.aio.ServicerContext) -> Message:
        await _require_security_header(context)
        try:
            response = answer(request)
        except CallRefused as refusal:
            await context.abort(refusal.status, str(refusal))
        return response

    return grpc.unary_unary_rpc_method_handler(call, request_type.FromString, _serialize)


async def _require_security_header(context: grpc.aio.ServicerContext) -> None:
    values = [value for key, value in context.invocation_metadata() if key == SECURITY_HEADER]
    if values != ["true"]:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")


def _foreign_id(text: str) -> CallRefused:
    """Tell what is no SPIFFE ID from one that this workload does not have, as SPIRE does."""
    try:
        SpiffeId.parse(text)
    except SpiffeIdError as error:
        return CallRefused(f"invalid requested SPIFFE ID: {error}")
    return CallRefused("no identity issued", grpc.StatusCode.PERMISSION_DENIED)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
