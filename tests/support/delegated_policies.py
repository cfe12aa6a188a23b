"""A policy with delegation for the world of tests/support/delegations.py, and the questions that agents of it ask."""

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.decision.decide import Snapshot
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.tokens.jws import encode_base64url
from support.authorizers import default_snapshot
from support.check_requests import QUESTION, Question
from support.delegations import PLANNER, RETRIEVER, TRUST_DOMAIN, world

POLICY = f"""
kind: PermissionMatrix
trust_domain: {TRUST_DOMAIN}
groups: {{anybody: [planner, evil]}}
matrix:
  "@anybody":
    retriever: [search, tickets, secrets]
  retriever:
    crm: {{actions: [search], scopes: ["tickets:read"], max_hops: 2}}
  crm:
    mailer: {{actions: [search], max_hops: 2}}
  planner:
    crm: {{actions: [search], delegation: optional}}
    mailer: {{actions: [search], delegation: forbidden}}
---
kind: ActionRegistry
actions:
  search: {{http: ["POST /v1/search"], scope: "kb:search"}}
  tickets: {{http: ["POST /v1/tickets"], scope: "tickets:read"}}
  secrets: {{http: ["POST /v1/secrets"]}}
---
kind: Delegation
root_issuers: [{{id: delegation-sts, subjects: "user:*"}}]
minters: [delegation-sts]
keys: {{delegation-sts: sts.jwks.json}}
bundles: {{{TRUST_DOMAIN}: bundle.pem}}
"""


@cache
def delegated_policy() -> Policy:
    """Return the compiled policy, with the keys of this run."""
    x = encode_base64url(world().sts_key.public_key().public_bytes_raw())
    key_set = {"keys": [{"kid": "sts-1", "kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "x": x}]}
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text(POLICY)
        Path(name, "sts.jwks.json").write_text(json.dumps(key_set))
        Path(name, "bundle.pem").write_bytes(world().ca.bundle_pem)
        return load(Path(name))


def delegated_snapshot(controls: Controls = NO_CONTROLS) -> Snapshot:
    """Return a snapshot of that policy."""
    return replace(default_snapshot(), policy=delegated_policy(), controls=controls)


def calling(chain: str | None, caller: SpiffeId = PLANNER, target: SpiffeId = RETRIEVER, **changes: Any) -> Question:
    """Return what a call with a chain makes Envoy ask; None: without one."""
    certificate = world().certificates[caller]
    sha256 = certificate.fingerprint(hashes.SHA256()).hex()
    question = QUESTION.but(
        caller=caller.uri,
        target=target.uri,
        certificate=quote(certificate.public_bytes(Encoding.PEM).decode(), safe=""),
        xfcc=f"By={target.uri};Hash={sha256};URI={caller.uri}",
        headers=[] if chain is None else [("x-delegation-token", chain)],
    )
    return question.but(**changes)
