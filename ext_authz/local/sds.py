"""Envoy's secret discovery service, answered as a SPIRE agent answers it (its pkg/agent/endpoints/sdsv3, v1.15.3).

1. What is answered is a pure function of the workload's state and of the names asked for.
2. A conversation (versions, nonces, ACK and NACK) is a state machine without I/O; the gRPC part only carries messages.
3. A name that is not the workload's own ends the call with INVALID_ARGUMENT, as in SPIRE. An answer that left it out would
   let Envoy wait without a word of why.

Left out, since only Envoys before 1.18 and other validators need it: the plain `trusted_ca` form of a bundle.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from ext_authz.errors import ExtAuthzError
from ext_authz.identity.spiffe_id import MAX_ID_BYTES
from ext_authz.local.svid import Bundle, IdentityFeed, IdentityState, X509Svid, to_pem, trust_domain_id
from ext_authz.pb.core_pb2 import DataSource, TypedExtensionConfig
from ext_authz.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from ext_authz.pb.secret_pb2 import CertificateValidationContext, Secret, SPIFFECertValidatorConfig, TlsCertificate

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"

# The names that a SPIRE agent gives by default (default_svid_name, default_bundle_name, default_all_bundles_name).
DEFAULT_SVID = "default"
OWN_BUNDLE = "ROOTCA"
ALL_BUNDLES = "ALL"

SPIFFE_VALIDATOR = "envoy.tls.cert_validator.spiffe"

# Names in one request. Envoy asks for one secret on each stream; a workload has its SVID and a bundle a trust domain.
MAX_NAMES = 64
# Characters of a foreign text that reach the log or a status: Envoy's errors about certificates are one or two lines.
MAX_QUOTED_CHARACTERS = 300

logger = logging.getLogger(__name__)


class SecretsRefused(ExtAuthzError):
    """The request names what this workload cannot have."""


def build_secrets(state: IdentityState, names: Iterable[str]) -> list[Secret]:
    """Build the secrets that these names ask for; without names, one of each kind.

    As in SPIRE, one request can name the own bundle in one way only: by the SPIFFE ID of the trust domain, else `ROOTCA`,
    else `ALL`; and the SVID by its SPIFFE ID, else as `default`. A second name for the same thing counts as unknown.
    Raises SecretsRefused if a name is left over.
    """
    wanted = {name for name in names if name}
    chosen = [
        next((secret for secret in alternatives if not wanted or secret.name in wanted), None)
        for alternatives in _offers(state)
    ]
    answered = [secret for secret in chosen if secret is not None]
    unknown = wanted.difference(secret.name for secret in answered)
    if unknown:
        raise SecretsRefused(f"workload is not authorized for the requested identities [{_quote_names(unknown)}]")
    return answered


class SecretConversation:
    """One StreamSecrets call: state of the world, the newest state under the names asked for last."""

    def __init__(self, state: IdentityState) -> None:
        self._state = state
        self._nonce = ""
        self._subscription: DiscoveryRequest | None = None

    def receive(self, request: DiscoveryRequest) -> DiscoveryResponse | None:
        """Take a subscription, ACK or NACK; return what to send, if anything. Raises SecretsRefused.

        A rejected secret is not sent again: Envoy keeps the last good one, and the next rotation brings a new one.
        """
        _check_bounds(request)
        if request.HasField("error_detail"):
            names, error = _quote_names(request.resource_names), request.error_detail.message
            logger.warning("Envoy rejected the secrets %s: %s", _quote(names), _quote(error))
        if self._nonce and request.response_nonce != self._nonce:
            return None  # it answers an older response; Envoy will answer the newest one too
        previous, self._subscription = self._subscription, request
        if previous is not None and set(previous.resource_names) == set(request.resource_names):
            return None
        return self._answer(request)

    def update(self, state: IdentityState) -> DiscoveryResponse | None:
        """Take a newer state; return what to send, if anything was asked for yet. Raises SecretsRefused."""
        self._state = state
        return None if self._subscription is None else self._answer(self._subscription)

    def _answer(self, request: DiscoveryRequest) -> DiscoveryResponse:
        self._nonce = secrets.token_hex(8)
        return _to_response(self._state, request, version=str(self._state.version), nonce=self._nonce)


class SecretDiscovery:
    """The gRPC service: StreamSecrets and FetchSecrets for one workload."""

    def __init__(self, feed: IdentityFeed) -> None:
        self._feed = feed

    def rpc_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler for a server; DeltaSecrets is unimplemented, as in SPIRE."""
        codec = {
            "request_deserializer": DiscoveryRequest.FromString,
            "response_serializer": DiscoveryResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamSecrets": grpc.stream_stream_rpc_method_handler(self.stream_secrets, **codec),
                "FetchSecrets": grpc.unary_unary_rpc_method_handler(self.fetch_secrets, **codec),
            },
        )

    async def stream_secrets(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        """Answer subscriptions, and push every newer state to them."""
        conversation = SecretConversation(self._feed.state)
        async with aclosing(_events(context, self._feed)) as events:
            async for event in events:
                try:
                    response = (
                        conversation.update(event) if isinstance(event, IdentityState) else conversation.receive(event)
                    )
                except SecretsRefused as refusal:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
                if response is not None:
                    await context.write(response)

    async def fetch_secrets(self, request: DiscoveryRequest, context: grpc.aio.ServicerContext) -> DiscoveryResponse:
        """Answer once, without version and nonce, as SPIRE does."""
        try:
            _check_bounds(request)
            response = _to_response(self._feed.state, request)
        except SecretsRefused as refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        return response


async def _events(
    context: grpc.aio.ServicerContext, feed: IdentityFeed
) -> AsyncGenerator[DiscoveryRequest | IdentityState, None]:
    """Yield requests and newer states as they come, until the client has sent its last request or the feed is closed."""
    request = asyncio.ensure_future(context.read())
    state = asyncio.ensure_future(feed.newer_than(feed.state.version))
    try:
        while True:
            await asyncio.wait({request, state}, return_when=asyncio.FIRST_COMPLETED)
            if state.done():
                newest = state.result()
                if newest is None:
                    return
                yield newest
                state = asyncio.ensure_future(feed.newer_than(newest.version))
            if request.done():
                received = request.result()
                if received is grpc.aio.EOF:
                    return
                yield received
                request = asyncio.ensure_future(context.read())
    finally:
        request.cancel()
        state.cancel()


def _check_bounds(request: DiscoveryRequest) -> None:
    names = request.resource_names
    if len(names) > MAX_NAMES or any(len(name) > MAX_ID_BYTES for name in names):
        raise SecretsRefused(f"expected at most {MAX_NAMES} names of at most {MAX_ID_BYTES} characters")


def _to_response(
    state: IdentityState, request: DiscoveryRequest, version: str = "", nonce: str = ""
) -> DiscoveryResponse:
    resources = [_pack(secret) for secret in build_secrets(state, request.resource_names)]
    return DiscoveryResponse(version_info=version, nonce=nonce, type_url=request.type_url, resources=resources)


def _offers(state: IdentityState) -> list[tuple[Secret, ...]]:
    """List what the workload may have, in SPIRE's order; each entry holds the same thing under its names, best first."""
    svid = state.svid
    domain = svid.spiffe_id.trust_domain
    own = {domain: state.bundle}
    return [
        (
            _validation_context(trust_domain_id(domain), own),
            _validation_context(OWN_BUNDLE, own),
            _validation_context(ALL_BUNDLES, state.bundles),
        ),
        *(
            (_validation_context(trust_domain_id(foreign), {foreign: bundle}),)
            for foreign, bundle in state.federated_bundles.items()
        ),
        (_tls_certificate(svid.spiffe_id.uri, svid), _tls_certificate(DEFAULT_SVID, svid)),
    ]


def _tls_certificate(name: str, svid: X509Svid) -> Secret:
    certificate = TlsCertificate(certificate_chain=_inline(svid.chain_pem), private_key=_inline(svid.private_key_pem))
    return Secret(name=name, tls_certificate=certificate)


def _validation_context(name: str, bundles: Mapping[str, Bundle]) -> Secret:
    """Wrap bundles in Envoy's SPIFFE validator: with it, a CA vouches only for the names of its own trust domain."""
    validator = SPIFFECertValidatorConfig(
        trust_domains=[
            SPIFFECertValidatorConfig.TrustDomain(name=domain, trust_bundle=_inline(to_pem(bundle)))
            for domain, bundle in bundles.items()
        ]
    )
    extension = TypedExtensionConfig(name=SPIFFE_VALIDATOR, typed_config=_pack(validator))
    return Secret(name=name, validation_context=CertificateValidationContext(custom_validator_config=extension))


def _inline(content: bytes) -> DataSource:
    return DataSource(inline_bytes=content)


def _pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _quote_names(names: Iterable[str]) -> str:
    """Write names as SPIRE's status does, cut where a status would grow beyond what clients accept."""
    return " ".join(f'"{name}"' for name in sorted(names))[:MAX_QUOTED_CHARACTERS]


def _quote(text: str) -> str:
    """Write a foreign text for the log: one line, bounded."""
    return ascii(text[:MAX_QUOTED_CHARACTERS])
