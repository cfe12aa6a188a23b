"""The exported RBAC filters in a real Envoy let exactly those calls pass that the policy grants."""

import ssl
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml
from e2e.envoy_process import EnvoyProcess, free_port, short_directory

from ext_authz.documents.loader import load_policy
from ext_authz.errors import Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.policy.compile import Policy, compile_policy
from ext_authz.policy.export.envoy_rbac import to_envoy_rbac
from ext_authz.policy.export.model import calls_of
from ext_authz.policy.request import AuthorizationRequest, Context

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
kind: PermissionMatrix
trust_domain: agents.example.com
groups: {readers: [planner, auditor]}
matrix:
  "@readers":
    crm: [read, purge]
  clerk:
    crm: [read, upload]
  mailer:
    crm: [cancel]
  planner:
    mailer: [read]
  ns/*/sa/reader:
    crm: [read]
deny:
- {subject: auditor, resource: crm, action: purge}
- {subject: mallory, resource: crm, action: "*"}
- {subject: "ns/b.c/sa/*", resource: crm, action: "*"}
---
kind: ActionRegistry
actions:
  read: {http: ["GET /records/{id}", "GET /records", "GET /v1.0/{table}/rows/{id}", "GET /all/**"]}
  cancel: {http: ["GET /records/{id}:cancel", "DELETE /all/{id}:cancel"]}
  purge: {http: ["DELETE /records/{id}"]}
  upload: {http: ["PUT /files/{name}"]}
"""
CRM = SpiffeId.parse_workload("spiffe://agents.example.com/crm")
CALLERS = (
    *("planner", "auditor", "clerk", "mallory", "mailer", "crm"),
    *(
        "ns/a/sa/reader",
        "ns/.../sa/reader",
        "ns/b.c/sa/reader",
        "ns/b-c/sa/reader",
        "ns/a/b/sa/reader",
        "ns/a/sa/reader/x",
    ),
)
METHODS = ("GET", "DELETE", "PUT", "POST")
PATHS = (
    *("/records", "/records/", "/records/1", "/records/1/2", "/records/1?x=/records", "/Records/1"),
    *(
        "/v1.0/users/rows/7",
        "/v1x0/users/rows/7",
        "/v1.0/users/rows/",
        "/files/a.txt",
        "/files",
        "/",
        "/records/x.y-z_~",
        "/records/1:cancel",
        "/records/1%3Acancel",
        "/records/1:cancel:x",
        "/records/:cancel",
        "/records/cancel",
        "/all/",
        "/all",
        "/all/1",
        "/all/1/2/3",
        "/all/1/",
        "/all/1:cancel",
        "/all/1/2:cancel",
    ),
)


def policy(directory: Path) -> tuple[Policy, str]:
    """Return the compiled policy, and its export for the CRM's sidecar."""
    (directory / "policy.yaml").write_text(POLICY)
    documents = load_policy(directory)
    compiled = compile_policy(documents)
    return compiled, to_envoy_rbac(calls_of(documents, compiled), CRM).text


def configuration(directory: Path, port: int, filters: str) -> str:
    """Return an Envoy that answers whatever its filters let pass, over mutual TLS."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "crm",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [*yaml.safe_load(filters), router],
    }
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(directory / "crm" / "svid.pem")},
                    "private_key": {"filename": str(directory / "crm" / "svid_key.pem")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(directory / "bundle.pem")}},
        },
    }
    listener = {
        "name": "inbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            }
        ],
    }
    admin = {"address": {"pipe": {"path": str(directory / "admin.sock")}}}
    return yaml.safe_dump({"admin": admin, "static_resources": {"listeners": [listener]}})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sidecar() -> AsyncIterator[tuple[Policy, Path, int]]:
    """Run Envoy with the exported filters."""
    ca = DevelopmentCa.create("agents.example.com")
    with short_directory() as directory:
        for name in CALLERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
            ca.issue(SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}")).write_to(directory / name)
        (directory / "bundle.pem").write_bytes(ca.bundle_pem)
        (directory / "policies").mkdir()
        compiled, filters = policy(directory / "policies")
        port = free_port()
        async with EnvoyProcess("rbac", configuration(directory, port, filters), directory):
            yield compiled, directory, port


def granted(compiled: Policy, caller: str, method: str, path: str) -> bool:
    """Whether our own engine allows a call."""
    route = compiled.registry.routes.find(method, path.partition("?")[0], CRM)
    if route is None or route.action is None:
        return False
    subject = SpiffeId.parse_workload(f"spiffe://agents.example.com/{caller}")
    return (
        compiled.matrix.evaluate(AuthorizationRequest(subject, route.action.name, CRM, Context(0))).reason
        is Reason.ALLOWED
    )


@pytest.mark.parametrize("caller", CALLERS)
async def test_envoy_agrees_with_the_engine(sidecar: tuple[Policy, Path, int], caller: str) -> None:
    """For every method and path, the real Envoy answers 200 exactly where the engine allows."""
    compiled, directory, port = sidecar
    trust = ssl.create_default_context(cafile=str(directory / "bundle.pem"))
    trust.check_hostname = False
    trust.load_cert_chain(directory / caller / "svid.pem", directory / caller / "svid_key.pem")
    async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trust) as client:
        for method, path in product(METHODS, PATHS):
            answer = await client.request(method, path)
            expected = 200 if granted(compiled, caller, method, path) else 403
            assert (method, path, expected) == (method, path, answer.status_code)
