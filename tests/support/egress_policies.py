"""A policy with outbound calls, and questions of an outbound sidecar about them."""

from collections.abc import Mapping
from dataclasses import replace

from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.decision.decide import Snapshot
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.pb.external_auth_pb2 import CheckRequest
from support.authorizers import default_snapshot
from support.check_requests import agent
from support.written_policies import ACTIONS, HEAD, written_policy

PLANNER = SpiffeId.parse_workload(agent("planner-agent"))
OTHER = SpiffeId.parse_workload(agent("audit-agent"))
EGRESS = """---
kind: EgressAllowlist
groups: {readers: [audit-agent, auditor]}
egress:
  planner-agent:
    - {hosts: [api.example.com, "*.search.example.com"], methods: [GET, POST], paths: ["/v1/**"]}
    - {hosts: [retrieval-agent], ports: [8443], methods: [POST]}
    - {hosts: [prompts.example.com], methods: [GET], screen: nothing}
    - {hosts: ["192.0.2.7", "[2001:db8::1]"], ports: [80, 443], methods: [GET]}
  "@readers":
    - {hosts: [news.example.com], methods: [GET]}
"""
POLICY = HEAD + ACTIONS + EGRESS


def egress_snapshot(policy: str = POLICY, controls: Controls = NO_CONTROLS) -> Snapshot:
    """Return a snapshot of the policy."""
    return replace(default_snapshot(), policy=written_policy(policy), controls=controls)


def outbound(
    host: str = "api.example.com",
    path: str = "/v1/items",
    *,
    method: str = "GET",
    scheme: str = "https",
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    """Return the CheckRequest of an outbound sidecar: no certificate on either side, as its listener takes plain HTTP."""
    request = CheckRequest()
    attributes = request.attributes
    http = attributes.request.http
    http.method, http.path, http.host, http.scheme, http.raw_body = method, path, host, scheme, body
    lines = {":authority": host, ":path": path, ":method": method, ":scheme": scheme, **(headers or {})}
    for key, value in lines.items():
        http.header_map.headers.add(key=key, raw_value=value.encode())
    asked = {"direction": "egress", "workload": PLANNER.uri} | dict(extensions or {})
    for key, value in asked.items():
        attributes.context_extensions[key] = value
    return request.SerializeToString()
