"""Authorizers around the default policy, with a recorder that keeps what it was given."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ext_authz.audit.record import AuditRecord
from ext_authz.authorizer import Authorizer
from ext_authz.decision.decide import Snapshot
from ext_authz.identity.identify import Identifier
from ext_authz.injection import load_default_screen
from ext_authz.injection.screen import Screen
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.policy.compile import Policy, load

ROOT = Path(__file__).parents[2]
DEFAULT_POLICY = ROOT / "policies" / "default"
# A moment inside the validity of nothing in particular: no test depends on the date it runs on.
NOW = 1_795_299_009.0


@cache
def default_policy() -> Policy:
    """Return the compiled default policy."""
    return load(DEFAULT_POLICY)


@cache
def default_screen() -> Screen:
    """Return the packaged screen; compiling it takes a moment."""
    return load_default_screen()


@dataclass
class KeptRecords:
    """A recorder for tests: it takes records until it is told to refuse."""

    records: list[AuditRecord] = field(default_factory=list)
    refusing: bool = False

    def offer(self, record: AuditRecord) -> bool:
        """Keep the record."""
        if self.refusing:
            return False
        self.records.append(record)
        return True


def default_snapshot(identifier: Identifier | None = None) -> Snapshot:
    """Return a snapshot of the default policy."""
    return Snapshot(default_policy(), identifier or Identifier(), default_screen())


def new_authorizer(snapshot: Snapshot | None = None) -> tuple[Authorizer, KeptRecords]:
    """Return an authorizer at NOW and what it records."""
    recorder = KeptRecords()
    return Authorizer(snapshot or default_snapshot(), recorder, clock=lambda: NOW), recorder


def answer(authorizer: Authorizer, data: bytes) -> CheckResponse:
    """Return the decoded answer to a serialized CheckRequest."""
    return CheckResponse.FromString(authorizer.check(data))


def reason_of(response: CheckResponse) -> str:
    """Return the reason code that an answer carries to Envoy's access log."""
    return str(response.dynamic_metadata["reason"])
