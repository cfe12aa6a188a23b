"""The rendered configurations in the real Envoy: retrieval-agent's outbound sidecar calls database-agent's inbound one."""

import asyncio
import json
import runpy
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml
from e2e.envoy_process import EnvoyProcess, free_port, short_directory
from e2e.http_agent import serving
from google.rpc.status_pb2 import Status

from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.identity_provider import LocalIdentityProvider
from ext_authz.local.svid import KeyedCertificate
from ext_authz.pb.core_pb2 import HeaderValue, HeaderValueOption
from ext_authz.pb.external_auth_pb2 import CheckRequest, CheckResponse, OkHttpResponse
from ext_authz.render import limits
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar
from ext_authz.render.validation import envoy_path, validate

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENVOY_FOLDER = Path(__file__).parents[2] / "envoy"

TRUST_DOMAIN = "agents.example.com"
DATABASE = SpiffeId.parse_workload(f"spiffe://{TRUST_DOMAIN}/database-agent")
RETRIEVAL = SpiffeId.parse_workload(f"spiffe://{TRUST_DOMAIN}/retrieval-agent")

MAX_BODY_BYTES = 65536
# Generous: two processors are shared with other tests.
AUTHZ_TIMEOUT_SECONDS = 1.0
# What the agent needs to answer on a path that ends with /slow.
SLOW_SECONDS = 1.5


class CannedAuthz:
    """An authorization server that allows everything, remembers the questions, and can be slow or down."""

    def __init__(self, socket_path: Path) -> None:
        self._address = f"unix:{socket_path}"
        self._server = grpc.aio.server()
        self.delay_seconds = 0.0
        self.asked: list[CheckRequest] = []
        self.answer = allow()

    async def start(self) -> None:
        method = grpc.unary_unary_rpc_method_handler(self._check)
        handler = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": method})
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _check(self, request: bytes, _context: object) -> bytes:
        self.asked.append(CheckRequest.FromString(request))
        await asyncio.sleep(self.delay_seconds)
        return self.answer.SerializeToString()

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers of the last question, as they came."""
        header_map = self.asked[-1].attributes.request.http.header_map
        return [(header.key, header.raw_value) for header in header_map.headers]


class EchoHandler(BaseHTTPRequestHandler):
    """The agent behind the inbound sidecar: answers with what it got."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = self._discard_body()
        if self.path.endswith("/slow"):
            time.sleep(SLOW_SECONDS)
        content = json.dumps({"path": self.path, "headers": self.headers.items(), "size": size}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with suppress(BrokenPipeError):  # whoever waited for /slow may have left
            self.wfile.write(content)

    do_GET = do_POST  # noqa: N815  (the library's name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Print nothing."""

    def _discard_body(self) -> int:
        if self.headers.get("transfer-encoding") != "chunked":
            return len(self.rfile.read(int(self.headers.get("content-length", 0))))
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size + 2)) - 2
        self.rfile.readline()
        return total


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything that runs."""

    ca: DevelopmentCa
    directory: Path
    authz: CannedAuthz
    inbound: EnvoyProcess
    outbound: EnvoyProcess
    inbound_sidecar: InboundSidecar
    inbound_port: int
    outbound_port: int

    def through_outbound(self, host: str = "database-agent") -> httpx.AsyncClient:
        """Call as the agent does: plain HTTP to its own sidecar."""
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.outbound_port}", headers={"host": host})

    def direct(self, certificate: KeyedCertificate | None = None, *, http2: bool = False) -> httpx.AsyncClient:
        """Call the inbound sidecar as an attacker with an SVID can: with any bytes."""
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.inbound_port}",
            headers={"host": "database-agent"},
            verify=self._client_tls(certificate or self.ca.issue(RETRIEVAL)),
            http1=not http2,
            http2=http2,
        )

    def anonymous(self) -> httpx.AsyncClient:
        """Call the inbound sidecar without a certificate."""
        return httpx.AsyncClient(base_url=f"https://127.0.0.1:{self.inbound_port}", verify=self._client_tls(None))

    def _client_tls(self, certificate: KeyedCertificate | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.bundle_pem.decode())
        context.check_hostname = False  # the peer's name is its SPIFFE ID
        if certificate is not None:
            with short_directory() as directory:
                context.load_cert_chain(*certificate.write_to(directory))
        return context


def allow(*headers: tuple[str, str]) -> CheckResponse:
    """Allow, and set headers."""
    options = [
        HeaderValueOption(
            header=HeaderValue(key=key, value=value), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        )
        for key, value in headers
    ]
    return CheckResponse(status=Status(code=0), ok_response=OkHttpResponse(headers=options))


@asynccontextmanager
async def running_authz(socket_path: Path) -> AsyncIterator[CannedAuthz]:
    authz = CannedAuthz(socket_path)
    await authz.start()
    try:
        yield authz
    finally:
        await authz.stop()


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(20):
        while not await is_so():  # noqa: ASYNC110  (nothing of ours could set an event)
            await asyncio.sleep(0.1)


async def answers(client: httpx.AsyncClient, path: str) -> bool:
    return (await client.get(path)).status_code == httpx.codes.OK


async def logged(log: Path, text: str) -> bool:
    return text in await asyncio.to_thread(log.read_text, encoding="utf-8")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Mesh]:
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    with short_directory() as directory, serving(EchoHandler) as app_port:
        provider = LocalIdentityProvider(ca, [DATABASE, RETRIEVAL], directory / "sds")
        inbound_port, outbound_port = free_port(), free_port()
        inbound = InboundSidecar.parse(
            spiffe_id=DATABASE.uri,
            listen=f"127.0.0.1:{inbound_port}",
            app=f"127.0.0.1:{app_port}",
            authz=f"unix:{directory}/authz.sock",
            admin=f"unix:{directory}/in.sock",
            certificates=f"unix:{provider.socket_path(DATABASE)}",
            timeout=f"{AUTHZ_TIMEOUT_SECONDS}s",
            streams=["/v1/stream"],
            access_log=f"{directory}/inbound-access.json",
        )
        outbound = OutboundSidecar.parse(
            spiffe_id=RETRIEVAL.uri,
            listen=f"127.0.0.1:{outbound_port}",
            admin=f"unix:{directory}/out.sock",
            certificates=f"unix:{provider.socket_path(RETRIEVAL)}",
            upstreams=[f"database-agent=127.0.0.1:{inbound_port},{DATABASE}"],
            access_log=f"{directory}/outbound-access.json",
        )
        async with (
            provider,
            running_authz(directory / "authz.sock") as authz,
            EnvoyProcess("inbound", render(inbound), directory) as inbound_envoy,
            EnvoyProcess("outbound", render(outbound), directory) as outbound_envoy,
        ):
            yield Mesh(ca, directory, authz, inbound_envoy, outbound_envoy, inbound, inbound_port, outbound_port)


@pytest.mark.parametrize("name", ["inbound.yaml", "outbound.yaml"])
async def test_examples_are_up_to_date(name: str) -> None:
    """The committed examples are what the renderer writes today, byte by byte; `make envoy` renders them anew."""
    examples = runpy.run_path(str(ENVOY_FOLDER / "render_examples.py"))["EXAMPLES"]

    assert (ENVOY_FOLDER / name).read_bytes() == render(examples[name]).encode()


@pytest.fixture(scope="module")
def certificates() -> Iterator[FileCertificates]:
    ca = DevelopmentCa.create(TRUST_DOMAIN)
    with short_directory() as directory:
        bundle = directory / "bundle.pem"
        bundle.write_bytes(ca.bundle_pem)
        certificate, private_key = ca.issue(DATABASE).write_to(directory)
        yield FileCertificates(certificate, private_key, {TRUST_DOMAIN: bundle})


def with_files(certificates: FileCertificates) -> dict[str, Any]:
    """Render an inbound sidecar that reads its certificates from files."""
    sidecar = InboundSidecar.parse(
        spiffe_id=DATABASE.uri,
        listen="127.0.0.1:8443",
        app="127.0.0.1:8080",
        authz="127.0.0.1:9191",
        admin="unix:/run/envoy/admin.sock",
        certificates=certificates,
        federated=["partner.example.net"],
        streams=["/v1/stream", "/pkg.Service"],
        app_http2=True,
    )
    configuration = yaml.safe_load(render(sidecar))
    assert isinstance(configuration, dict)
    return configuration


async def test_envoy_accepts_a_rendering_with_files(certificates: FileCertificates) -> None:
    """Envoy's validation builds the whole TLS context of a rendering with certificate files, and accepts it."""
    assert [] == validate(with_files(certificates), certificates, envoy_path())


async def test_envoy_refuses_a_garbage_curve(certificates: FileCertificates) -> None:
    """The validation is not blind: a curve that does not exist is refused."""
    configuration = with_files(certificates)
    [chain] = configuration["static_resources"]["listeners"][0]["filter_chains"]
    chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"]["ecdh_curves"] = ["garbage"]

    [refusal] = validate(configuration, certificates, envoy_path())

    assert "garbage" in refusal


async def test_missing_envoy_is_an_error(certificates: FileCertificates) -> None:
    """An Envoy that does not run has accepted nothing."""
    with pytest.raises(ConfigurationError, match="`/nonexistent` did not run"):
        validate(with_files(certificates), certificates, Path("/nonexistent"))


@pytest.mark.parametrize("name", ["inbound.yaml", "outbound.yaml"])
async def test_envoy_accepts_the_examples(name: str, certificates: FileCertificates) -> None:
    """With certificate files in the place of SDS, Envoy accepts the committed examples."""
    configuration = yaml.safe_load((ENVOY_FOLDER / name).read_text(encoding="utf-8"))

    assert [] == validate(configuration, certificates, envoy_path())


async def test_call_goes_through_both_sidecars(mesh: Mesh) -> None:
    """A call reaches the agent over TLS 1.3 with the hybrid key exchange, and no SDS update was refused."""
    async with mesh.through_outbound() as client:
        response = await client.post("/records", json={"id": 7})

    assert (200, "/records") == (response.status_code, response.json()["path"])
    handshakes = await mesh.inbound.stats(r"^listener\..*\.ssl\.(versions|curves)\.")
    assert {"TLSv1.3", "X25519MLKEM768"} == {name.partition(".ssl.")[2].partition(".")[2] for name in handshakes}
    for envoy in (mesh.inbound, mesh.outbound):
        rejected = await envoy.stats(r"update_rejected$")
        assert rejected
        assert {0} == set(rejected.values())


async def test_question_to_the_authorization_server(mesh: Mesh) -> None:
    """The server gets principals, certificate, raw headers with duplicates apart, the whole body, and where it arrived."""
    async with mesh.through_outbound() as client:
        headers = [("host", "database-agent"), ("x-dup", "a"), ("x-dup", "b"), ("cookie", "secret=1")]
        await client.post("/records?page=1", content=b"\xffbody", headers=headers)

    attributes = mesh.authz.asked[-1].attributes
    assert (RETRIEVAL.uri, DATABASE.uri) == (attributes.source.principal, attributes.destination.principal)
    assert attributes.source.certificate.startswith("-----BEGIN%20CERTIFICATE-----")
    assert {"direction": "inbound", "workload": DATABASE.uri} == dict(attributes.context_extensions)
    http = attributes.request.http
    assert ("POST", "/records?page=1", "database-agent", "https") == (http.method, http.path, http.host, http.scheme)
    assert (b"\xffbody", 5) == (http.raw_body, http.size)
    assert not http.headers
    assert [b"a", b"b"] == [value for key, value in mesh.authz.headers() if key == "x-dup"]
    assert "cookie" not in dict(mesh.authz.headers())
    xfcc = dict(mesh.authz.headers())["x-forwarded-client-cert"].decode()
    assert xfcc.startswith(f"By={DATABASE};Hash=")
    assert xfcc.endswith(f";URI={RETRIEVAL}")


FORGED = {
    "x-authz-subject": "spiffe://agents.example.com/admin-agent",
    "X-Authz-Anything": "forged",
    "x-envoy-auth-partial-body": "false",
    "x-forwarded-client-cert": "By=spiffe://forged/a;URI=spiffe://forged/b",
}


async def test_forged_headers_are_gone_before_the_check(mesh: Mesh) -> None:
    """The inbound sidecar removes a caller's own x-authz-* and XFCC before ext_authz sees the request."""
    async with mesh.direct() as client:
        response = await client.get("/records", headers=FORGED)

    assert 200 == response.status_code
    seen = dict(mesh.authz.headers())
    assert not [name for name in seen if name.startswith("x-authz-") or name == "x-envoy-auth-partial-body"]
    assert b"forged" not in seen["x-forwarded-client-cert"]


async def test_outbound_sidecar_removes_forged_headers(mesh: Mesh) -> None:
    """What an agent forges does not leave its pod."""
    async with mesh.through_outbound() as client:
        await client.get("/records", headers=FORGED)

    assert not [value for _, value in mesh.authz.headers() if b"forged" in value or b"admin-agent" in value]


async def test_headers_of_the_authorization_server_reach_the_agent(mesh: Mesh) -> None:
    """The server may set x-authz-* headers, and the agent gets them."""
    mesh.authz.answer = allow(("x-authz-subject", RETRIEVAL.uri))
    try:
        async with mesh.through_outbound() as client:
            response = await client.get("/records")
    finally:
        mesh.authz.answer = allow()

    assert RETRIEVAL.uri == dict(response.json()["headers"])["x-authz-subject"]


@pytest.mark.parametrize("name", ["authorization", "host", "x-forwarded-client-cert", "cookie"])
async def test_other_headers_of_the_authorization_server_are_refused(mesh: Mesh, name: str) -> None:
    """An answer that sets any other header denies the request."""
    mesh.authz.answer = allow((name, "value"))
    try:
        async with mesh.direct() as client:
            response = await client.get("/records")
    finally:
        mesh.authz.answer = allow()

    assert 500 == response.status_code


async def test_slow_authorization_server_is_an_outage(mesh: Mesh) -> None:
    """No answer in time is 503, which is no denial."""
    mesh.authz.delay_seconds = 3 * AUTHZ_TIMEOUT_SECONDS
    try:
        async with mesh.direct() as client:
            response = await client.get("/records")
    finally:
        mesh.authz.delay_seconds = 0

    assert 503 == response.status_code


async def test_missing_authorization_server_is_an_outage(mesh: Mesh) -> None:
    """A server that is down is 503; once it is back, calls pass again."""
    async with mesh.direct() as client:
        await mesh.authz.stop()
        try:
            response = await client.get("/records")
        finally:
            await mesh.authz.start()
        assert 503 == response.status_code
        await eventually(lambda: answers(client, "/records"))


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("size", "status"), [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413), (MAX_BODY_BYTES + 16384, 413)]
)
async def test_body_limit_is_exact(mesh: Mesh, size: int, status: int, *, http2: bool) -> None:
    """The first byte too many is refused on every protocol: ext_authz alone would let one more HTTP/2 frame pass, unseen."""
    async with mesh.direct(http2=http2) as client:
        response = await client.post("/records", content=bytes(size))

    assert status == response.status_code
    assert (status == 200) == (len(mesh.authz.asked[-1].attributes.request.http.raw_body) == size)


@pytest.mark.parametrize("http2", [False, True])
async def test_stream_bodies_are_not_buffered(mesh: Mesh, *, http2: bool) -> None:
    """On a stream path a large body reaches the agent, and the server is asked before it comes."""
    async with mesh.direct(http2=http2) as client:
        response = await client.post("/v1/stream/upload", content=bytes(300_000))
        beside = await client.post("/v1/streaming", content=bytes(MAX_BODY_BYTES + 1))

    assert (200, 300_000) == (response.status_code, response.json()["size"])
    assert b"" == mesh.authz.asked[-1].attributes.request.http.raw_body
    assert 413 == beside.status_code


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/records%2fadmin", {}), ("/records%5cadmin", {}), ("/records", {"x_authz_subject": "forged"})],
)
async def test_ambiguous_requests_are_refused(mesh: Mesh, path: str, headers: dict[str, str]) -> None:
    """Escaped slashes and underscores in header names are 400, at both sidecars."""
    async with mesh.direct() as direct, mesh.through_outbound() as through:
        statuses = [(await client.get(path, headers=headers)).status_code for client in (direct, through)]

    assert [400, 400] == statuses


async def test_path_is_normalised_before_the_check(mesh: Mesh) -> None:
    """What the server judges is what the agent gets."""
    async with mesh.direct() as client:
        request = client.build_request("GET", "/")
        request.extensions = {"target": b"/a/..//records/%61"}
        response = await client.send(request)

    assert "/records/a" == mesh.authz.asked[-1].attributes.request.http.path == response.json()["path"]


async def test_unknown_host_does_not_leave(mesh: Mesh) -> None:
    """A host outside the allow-list is a problem document with the reason egress_denied."""
    async with mesh.through_outbound("evil.example.com") as client:
        response = await client.get("/records")

    assert (403, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert ("egress_denied", 403) == (response.json()["reason"], response.json()["status"])


async def test_unknown_host_does_not_arrive(mesh: Mesh) -> None:
    """The inbound sidecar answers for its agent's names only."""
    async with mesh.direct() as client:
        assert 404 == (await client.get("/records", headers={"host": "other-agent"})).status_code


async def test_trace_is_refused_though_the_server_allows(mesh: Mesh) -> None:
    """RBAC stands behind the authorization server."""
    async with mesh.direct() as client:
        assert 403 == (await client.request("TRACE", "/records")).status_code


async def test_strangers_get_no_connection(mesh: Mesh) -> None:
    """No certificate, a wrong CA, an expired SVID, another trust domain by our own CA: the connection is refused."""
    yesterday = mesh.ca.now() - timedelta(days=1)
    expired = mesh.ca.issue_unchecked([RETRIEVAL.uri], not_before=yesterday, expires_at=yesterday + timedelta(hours=1))
    strangers = [
        mesh.anonymous(),
        mesh.direct(DevelopmentCa.create(TRUST_DOMAIN).issue(RETRIEVAL)),
        mesh.direct(expired),
        mesh.direct(mesh.ca.issue_unchecked(["spiffe://other.example.com/retrieval-agent"])),
    ]
    for client in strangers:
        async with client:
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await client.get("/records")


@pytest.mark.parametrize("path", ["/quitquitquit", "/logging", "/runtime_modify?a=b", "/healthcheck/fail"])
async def test_admin_interface_cannot_switch_the_sidecar_off(mesh: Mesh, path: str) -> None:
    """Only what reads is allowed on the admin interface."""
    assert 403 == (await mesh.inbound.admin.post(path)).status_code
    assert "LIVE" == await mesh.inbound.state()


async def test_sockets_are_private(mesh: Mesh) -> None:
    """Only the user that runs Envoy can open the admin interface."""
    assert 0o600 == (mesh.directory / "in.sock").stat().st_mode & 0o777


async def test_access_log_names_caller_and_never_the_query(mesh: Mesh) -> None:
    """A line says who called; what stood in the query is in no line."""
    async with mesh.through_outbound() as client:
        await client.get("/audited?token=secret")
    log = mesh.directory / "inbound-access.json"
    await eventually(lambda: logged(log, "/audited"))

    text = log.read_text(encoding="utf-8")
    [line] = [parsed for parsed in map(json.loads, text.splitlines()) if parsed["path"] == "/audited"]
    assert ("GET", 200, RETRIEVAL.uri, "TLSv1.3") == (line["method"], line["status"], line["peer"], line["tls_version"])
    assert "secret" not in text


def beside(mesh: Mesh, port: int, **changes: Any) -> InboundSidecar:
    """Describe another inbound sidecar of the same agent."""
    fields: dict[str, Any] = {
        "spiffe_id": DATABASE.uri,
        "listen": f"127.0.0.1:{port}",
        "app": str(mesh.inbound_sidecar.app),
        "authz": str(mesh.inbound_sidecar.authz),
        "admin": f"unix:{mesh.directory}/beside.sock",
        "certificates": f"unix:{mesh.directory}/sds/database-agent.sock",
        "timeout": f"{AUTHZ_TIMEOUT_SECONDS}s",
        "access_log": "/dev/null",
    }
    return InboundSidecar.parse(**fields | changes)


async def test_caller_over_its_rate_waits(mesh: Mesh) -> None:
    """Beyond its calls a second a caller gets 429, and another caller is not affected."""
    port = free_port()
    sidecar = beside(mesh, port, caller_rate=1)
    other = mesh.ca.issue(SpiffeId.parse_workload(f"spiffe://{TRUST_DOMAIN}/planner-agent"))
    async with (
        EnvoyProcess("beside", render(sidecar), mesh.directory),
        mesh.direct() as first,
        mesh.direct(other) as second,
    ):
        first.base_url = second.base_url = f"https://127.0.0.1:{port}"
        statuses = [(await first.get("/records")).status_code for _ in range(4)]
        assert 200 == (await second.get("/records")).status_code

    assert (200, 429) == (statuses[0], statuses[-1])


async def test_only_streams_outlast_a_call(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a call ends it on every path but those of streams, which have a limit of their own."""
    monkeypatch.setattr(limits, "CALL", timedelta(seconds=SLOW_SECONDS / 3))
    port = free_port()
    sidecar = beside(mesh, port, streams=["/long"], stream_limit=f"{SLOW_SECONDS * 10}s")
    async with EnvoyProcess("beside", render(sidecar), mesh.directory), mesh.direct() as client:
        client.base_url = httpx.URL(f"https://127.0.0.1:{port}")
        statuses = [(await client.get(path)).status_code for path in ("/long/slow", "/slow")]

    assert [200, 504] == statuses
