"""Policies that a test writes itself, and snapshots of them."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ext_authz.decision.decide import Snapshot
from ext_authz.errors import PolicyError
from ext_authz.policy.compile import Policy, load
from support.authorizers import default_snapshot

HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
ACTIONS = (
    "---\nkind: ActionRegistry\nactions:\n  search: {http: [POST /v1/search]}\n  write: {http: [POST /v1/documents]}\n"
)


@cache
def written_policy(text: str) -> Policy:
    """Return the policy of one file. Raises PolicyError."""
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text(text)
        return load(Path(name))


def written_snapshot(text: str) -> Snapshot:
    """Return a snapshot of that policy."""
    return replace(default_snapshot(), policy=written_policy(text))


def problems_with(text: str) -> list[str]:
    """Return what is wrong with a policy of one file, without the directory."""
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text(text)
        with pytest.raises(PolicyError) as caught:
            load(Path(name))
        return [problem.replace(f"{name}/", "") for problem in caught.value.problems]
