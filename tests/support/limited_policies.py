"""Policies that say how often, and an authorizer whose time stands still until a test moves it."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from ext_authz.authorizer import Authorizer
from ext_authz.errors import Reason
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.policy.compile import Policy, load
from support.authorizers import NOW, KeptRecords, default_snapshot
from support.check_requests import TRUST_DOMAIN, Question

ACTIONS = """
kind: ActionRegistry
actions:
  search: {http: ["POST /v1/search"]}
  fetch: {http: ["GET /v1/documents"]}
"""
SECOND_NS = 1_000_000_000


def limited_policy(matrix: str, limits: str = "") -> Policy:
    """Compile what stands under `matrix:`, in YAML, and a Limits document with these keys."""
    documents = [f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\nmatrix:\n{matrix}\n", ACTIONS]
    if limits:
        documents.append(f"kind: Limits\n{limits}\n")
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text("---\n".join(documents))
        return load(Path(name))


@dataclass
class StoppedTime:
    """A clock in nanoseconds that a test moves."""

    now_ns: int = 5 * SECOND_NS

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ns

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * SECOND_NS)


@dataclass
class Limited:
    """An authorizer under one policy, its clock and its records."""

    policy: Policy
    time: StoppedTime = field(default_factory=StoppedTime)
    recorder: KeptRecords = field(default_factory=KeptRecords)

    def __post_init__(self) -> None:
        snapshot = replace(default_snapshot(), policy=self.policy)
        self.authorizer = Authorizer(snapshot, self.recorder, clock=lambda: NOW, timer=self.time)

    def answer(self, question: Question) -> CheckResponse:
        """Ask once and return the answer."""
        return CheckResponse.FromString(self.authorizer.check(question.serialized()))

    def ask(self, question: Question, times: int = 1) -> list[Reason]:
        """Ask several times and return the reasons."""
        before = len(self.recorder.records)
        for _ in range(times):
            self.answer(question)
        return [record.reason for record in self.recorder.records[before:]]
