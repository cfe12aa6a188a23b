"""SDS and the Workload API over a real socket, asked by a real gRPC client."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from google.rpc.status_pb2 import Status

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.pb import workload_pb2 as pb
from ext_authz.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from ext_authz.pb.secret_pb2 import Secret

PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")
DATABASE = SpiffeId.parse_workload("spiffe://agents.example.com/database-agent")
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
SDS = "/envoy.service.secret.v3.SecretDiscoveryService/"
WORKLOAD_API = "/SpiffeWorkloadAPI/"
SECURITY_HEADER = (("workload.spiffe.io", "true"),)

# Long enough for anything that should come over a local socket, short enough for a test that fails.
WAIT_SECONDS = 5.0
# Long enough to see that nothing comes.
SILENCE_SECONDS = 0.2


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


class SdsStream:
    """Envoy's end of a StreamSecrets call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        codec = (DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString)
        self._call = channel.stream_stream(f"{SDS}StreamSecrets", *codec)()
        self._received = DiscoveryResponse()

    async def subscribe(self, *names: str) -> None:
        """Ask for names; on a stream that has received something, this also acknowledges it."""
        await self._send(names, self._received.version_info)

    async def reject(self, *names: str) -> None:
        await self._send(names, "", Status(code=13, message="bad key"))

    async def receive(self) -> dict[str, Secret]:
        """Wait for a response and return its secrets by name."""
        self._received = await asyncio.wait_for(self._call.read(), WAIT_SECONDS)
        return {secret.name: secret for secret in map(_unpack, self._received.resources)}

    async def is_silent(self) -> bool:
        """Say whether nothing comes for a while. The call is over after this."""
        try:
            await asyncio.wait_for(self._call.read(), SILENCE_SECONDS)
        except TimeoutError:
            return True
        return False

    async def finish(self) -> Any:
        """Close the sending side and return what comes then."""
        await self._call.done_writing()
        return await asyncio.wait_for(self._call.read(), WAIT_SECONDS)

    async def _send(self, names: tuple[str, ...], version: str, error: Status | None = None) -> None:
        request = DiscoveryRequest(
            resource_names=names,
            type_url=TYPE_URL,
            version_info=version,
            response_nonce=self._received.nonce,
            error_detail=error,
        )
        await self._call.write(request)


def _unpack(resource: Any) -> Secret:
    secret = Secret()
    assert resource.Unpack(secret)
    return secret


def serial_number_in(secret: Secret) -> int:
    return x509.load_pem_x509_certificate(secret.tls_certificate.certificate_chain.inline_bytes).serial_number


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def provider(tmp_path: Path, clock: FakeClock) -> AsyncIterator[LocalIdentityProvider]:
    ca = DevelopmentCa.create("agents.example.com", clock)
    partner = DevelopmentCa.create("partner.test", clock)
    bundles = {"partner.test": partner.bundle_pem}
    async with LocalIdentityProvider(ca, [PLANNER, DATABASE], tmp_path, federated_bundles=bundles) as running:
        yield running


@pytest.fixture
async def channel(provider: LocalIdentityProvider) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{provider.socket_path(PLANNER)}") as opened:
        yield opened


def unary(channel: grpc.aio.Channel, method: str, response_type: Any) -> Any:
    return channel.unary_unary(method, lambda message: message.SerializeToString(), response_type.FromString)


def stream(channel: grpc.aio.Channel, method: str, request: Any, response_type: Any) -> Any:
    call = channel.unary_stream(WORKLOAD_API + method, type(request).SerializeToString, response_type.FromString)
    return call(request, metadata=SECURITY_HEADER)


async def test_subscription_gets_the_svid_and_all_bundles(
    provider: LocalIdentityProvider, channel: grpc.aio.Channel
) -> None:
    """One stream can carry two names, and the SVID is the one that the provider holds for this socket's workload."""
    sds = SdsStream(channel)
    await sds.subscribe(PLANNER.uri, "ALL")
    secrets = await sds.receive()
    assert {PLANNER.uri, "ALL"} == set(secrets)
    assert provider.svid(PLANNER).serial_number == serial_number_in(secrets[PLANNER.uri])


async def test_ack_is_followed_by_silence(channel: grpc.aio.Channel) -> None:
    """Nothing is sent to a stream that has what it asked for."""
    sds = SdsStream(channel)
    await sds.subscribe("default")
    await sds.receive()
    await sds.subscribe("default")
    assert await sds.is_silent()


async def test_rotation_is_pushed(provider: LocalIdentityProvider, channel: grpc.aio.Channel) -> None:
    """A rotation reaches an open stream without a request."""
    sds = SdsStream(channel)
    await sds.subscribe("default")
    first = serial_number_in((await sds.receive())["default"])
    provider.rotate()
    assert first != serial_number_in((await sds.receive())["default"])


async def test_rejected_secret_comes_again_only_when_it_changed(
    provider: LocalIdentityProvider, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    """After a NACK the stream waits for the next rotation; the log says what Envoy said."""
    sds = SdsStream(channel)
    await sds.subscribe("default")
    first = serial_number_in((await sds.receive())["default"])
    with caplog.at_level(logging.WARNING):
        await sds.reject("default")
        await asyncio.sleep(SILENCE_SECONDS)
    assert caplog.messages == ["Envoy rejected the secrets '\"default\"': 'bad key'"]
    provider.rotate()
    assert first != serial_number_in((await sds.receive())["default"])


async def test_names_may_be_added_on_an_open_stream(channel: grpc.aio.Channel) -> None:
    """A longer list of names is answered at once, and in full."""
    sds = SdsStream(channel)
    await sds.subscribe("default")
    await sds.receive()
    await sds.subscribe("default", "ROOTCA")
    assert {"default", "ROOTCA"} == set(await sds.receive())


@pytest.mark.parametrize("name", ["nope", DATABASE.uri])
async def test_unknown_name_ends_the_stream(channel: grpc.aio.Channel, name: str) -> None:
    """The name of another workload is as unknown as one that nobody has: INVALID_ARGUMENT, as SPIRE answers."""
    sds = SdsStream(channel)
    await sds.subscribe("default", name)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sds.receive()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f'workload is not authorized for the requested identities ["{name}"]' == error.value.details()


async def test_stream_ends_when_the_client_is_done(channel: grpc.aio.Channel) -> None:
    """A client that closes its side ends the call without an error."""
    sds = SdsStream(channel)
    await sds.subscribe("default")
    await sds.receive()
    assert await sds.finish() is grpc.aio.EOF


async def test_fetch_answers_once(channel: grpc.aio.Channel) -> None:
    """FetchSecrets has neither version nor nonce, and refuses what the stream refuses."""
    fetch = unary(channel, f"{SDS}FetchSecrets", DiscoveryResponse)
    response = await fetch(DiscoveryRequest(resource_names=["ROOTCA"], type_url=TYPE_URL))
    assert (response.version_info, response.nonce, len(response.resources)) == ("", "", 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await fetch(DiscoveryRequest(resource_names=["x" * 3000]))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_delta_is_not_implemented(channel: grpc.aio.Channel) -> None:
    """The incremental protocol is refused, as SPIRE refuses it."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unary(channel, f"{SDS}DeltaSecrets", DiscoveryResponse)(DiscoveryRequest())
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_oversized_request_is_refused(channel: grpc.aio.Channel) -> None:
    """A request of more than 256 KiB is not read."""
    fetch = unary(channel, f"{SDS}FetchSecrets", DiscoveryResponse)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await fetch(DiscoveryRequest(type_url="x" * 300_000))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_x509_svid_is_streamed(provider: LocalIdentityProvider, channel: grpc.aio.Channel) -> None:
    """The Workload API gives certificate, key and bundles as DER, and pushes the next SVID on a rotation."""
    call = stream(channel, "FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
    first = await asyncio.wait_for(call.read(), WAIT_SECONDS)
    [svid] = first.svids
    certificate = x509.load_der_x509_certificate(svid.x509_svid)
    assert PLANNER.uri == svid.spiffe_id
    assert certificate.public_key() == load_der_private_key(svid.x509_svid_key, None).public_key()
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(svid.bundle))
    assert list(first.federated_bundles) == ["spiffe://partner.test"]
    provider.rotate()
    second = await asyncio.wait_for(call.read(), WAIT_SECONDS)
    assert svid.x509_svid != second.svids[0].x509_svid


async def test_x509_bundles_are_pushed_when_they_change(
    provider: LocalIdentityProvider, channel: grpc.aio.Channel
) -> None:
    """A rotation of SVIDs leaves the bundle stream silent; a change of the federated bundles is pushed."""
    call = stream(channel, "FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
    first = await asyncio.wait_for(call.read(), WAIT_SECONDS)
    assert {"spiffe://agents.example.com", "spiffe://partner.test"} == set(first.bundles)
    provider.rotate()
    await asyncio.sleep(SILENCE_SECONDS)
    provider.set_federated_bundles({})
    second = await asyncio.wait_for(call.read(), WAIT_SECONDS)
    assert list(second.bundles) == ["spiffe://agents.example.com"]


async def test_jwt_svid_validates_at_another_workload(
    provider: LocalIdentityProvider, channel: grpc.aio.Channel
) -> None:
    """A JWT-SVID fetched on one socket validates on another's, for its audience, with its claims."""
    fetch = unary(channel, f"{WORKLOAD_API}FetchJWTSVID", pb.JWTSVIDResponse)
    request = pb.JWTSVIDRequest(audience=[DATABASE.uri], spiffe_id=PLANNER.uri)
    [svid] = (await fetch(request, metadata=SECURITY_HEADER)).svids
    async with grpc.aio.insecure_channel(f"unix:{provider.socket_path(DATABASE)}") as database:
        validate = unary(database, f"{WORKLOAD_API}ValidateJWTSVID", pb.ValidateJWTSVIDResponse)
        question = pb.ValidateJWTSVIDRequest(audience=DATABASE.uri, svid=svid.svid)
        answer = await validate(question, metadata=SECURITY_HEADER)
    assert PLANNER.uri == answer.spiffe_id
    assert [DATABASE.uri] == list(answer.claims["aud"])


async def test_jwt_bundle_is_streamed(channel: grpc.aio.Channel) -> None:
    """The trust domain's key set comes at once."""
    call = stream(channel, "FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse)
    bundles = (await asyncio.wait_for(call.read(), WAIT_SECONDS)).bundles
    [key] = json.loads(bundles["spiffe://agents.example.com"])["keys"]
    assert (key["use"], key["crv"]) == ("jwt-svid", "P-256")


@pytest.mark.parametrize(
    ("method", "request_message", "code"),
    [
        ("FetchJWTSVID", pb.JWTSVIDRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"] * 17), grpc.StatusCode.INVALID_ARGUMENT),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a" * 257]), grpc.StatusCode.INVALID_ARGUMENT),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"], spiffe_id="nope"), grpc.StatusCode.INVALID_ARGUMENT),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"], spiffe_id=DATABASE.uri), grpc.StatusCode.PERMISSION_DENIED),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(svid="x"), grpc.StatusCode.INVALID_ARGUMENT),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a"), grpc.StatusCode.INVALID_ARGUMENT),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a", svid="x"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_bad_jwt_requests_are_refused(
    channel: grpc.aio.Channel, method: str, request_message: Any, code: grpc.StatusCode
) -> None:
    """No audience, too many or too long ones, no or another workload's ID, no token: each has SPIRE's status."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unary(channel, WORKLOAD_API + method, pb.JWTSVIDResponse)(request_message, metadata=SECURITY_HEADER)
    assert code == error.value.code()


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "True"),), SECURITY_HEADER * 2])
@pytest.mark.parametrize(
    "method", ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles", "FetchJWTSVID", "ValidateJWTSVID"]
)
async def test_security_header_is_required(
    channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    """Every method of the Workload API refuses a call without exactly one `workload.spiffe.io: true`."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unary(channel, WORKLOAD_API + method, pb.JWTSVIDResponse)(pb.JWTSVIDRequest(), metadata=metadata)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "security header missing from request"


async def test_svids_are_renewed_at_half_their_life(tmp_path: Path) -> None:
    """Without anybody's doing, an open stream gets a new SVID within the life of the old one, again and again."""
    ca = DevelopmentCa.create("agents.example.com")
    ttl = timedelta(seconds=1)
    async with (
        LocalIdentityProvider(ca, [PLANNER], tmp_path, svid_ttl=ttl) as provider,
        grpc.aio.insecure_channel(f"unix:{provider.socket_path(PLANNER)}") as channel,
    ):
        sds = SdsStream(channel)
        await sds.subscribe("default")
        serial_numbers = {serial_number_in((await sds.receive())["default"]) for _ in range(3)}
    assert len(serial_numbers) == 3


async def test_failed_renewal_is_logged_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the CA has expired, each attempt says so in the log, and the streams stay open."""
    ca = DevelopmentCa.create("agents.example.com", ttl=timedelta(seconds=1.5))
    with caplog.at_level(logging.ERROR):
        async with LocalIdentityProvider(ca, [PLANNER], tmp_path, svid_ttl=timedelta(seconds=0.4)):
            await asyncio.sleep(2.2)
    assert len(caplog.messages) > 1
    assert caplog.messages[0].startswith("no SVID was renewed: the development CA expired")


async def test_stop_ends_open_streams(tmp_path: Path, clock: FakeClock) -> None:
    """Leaving the provider ends every stream; the client sees the end, or that the server is gone."""
    ca = DevelopmentCa.create("agents.example.com", clock)
    provider = LocalIdentityProvider(ca, [PLANNER], tmp_path)
    async with provider:
        channel = grpc.aio.insecure_channel(f"unix:{provider.socket_path(PLANNER)}")
        sds = SdsStream(channel)
        await sds.subscribe("default")
        await sds.receive()
        call = stream(channel, "FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse)
        await call.read()
    assert await is_over(sds.finish())
    assert await is_over(call.read())
    await channel.close()


async def is_over(answer: Awaitable[Any]) -> bool:
    """Whether a stream has come to its end, or nobody is there any more to end it."""
    try:
        return await answer is grpc.aio.EOF
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
