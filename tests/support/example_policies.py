"""A policy with something of everything, for the commands that explain policies."""

from pathlib import Path

MATRIX = """\
kind: PermissionMatrix
trust_domain: agents.example.com
groups: {auditors: [planner-agent, retrieval-agent]}
matrix:
  planner-agent:
    retrieval-agent: [search, read]
    audit-agent: {actions: [read], delegation: optional}
    database-agent: {actions: [read, write], delegation: required, scopes: ["hr:read", "hr:write"], max_hops: 3}
  retrieval-agent:
    database-agent: {actions: [read], delegation: required}
  "@auditors":
    audit-agent: {actions: [read, search], delegation: forbidden}
deny:
  - {subject: planner-agent, resource: database-agent, action: write}
  - {subject: retrieval-agent, resource: crm-agent, action: "*"}
"""
ACTIONS = """\
kind: ActionRegistry
actions:
  search: {http: ["POST /v1/search"]}
  read: {http: ["GET /records/{id}"]}
  write: {http: ["PUT /records/{id}"]}
"""
# So that cells may require chains; the key is nowhere, which only a decision would notice.
DELEGATION = """\
kind: Delegation
root_issuers: [{id: sts, subjects: "user:*", scopes: [read]}]
required: false
keys: {sts: "https://sts.example.com/jwks"}
"""


def write_example(directory: Path, delegation: str = DELEGATION) -> Path:
    """Write the policy into a directory and return it."""
    (directory / "delegation.yaml").write_text(delegation)
    (directory / "matrix.yaml").write_text(MATRIX)
    (directory / "actions.yaml").write_text(ACTIONS)
    return directory
