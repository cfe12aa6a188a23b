"""What was revoked, as a snapshot: exact ids, and marks in time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.identity.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True)
class Revocations:
    """The deny-list. Entries of the first four kinds match exactly; those of the last two match links issued by then."""

    token_ids: frozenset[str] = frozenset()
    session_ids: frozenset[str] = frozenset()
    key_ids: frozenset[str] = frozenset()
    certificates: frozenset[bytes] = frozenset()  # SHA-256
    subjects: Mapping[str, int] = field(default_factory=dict)  # on_behalf_of -> seconds since 1970
    workloads: Mapping[SpiffeId, int] = field(default_factory=dict)


NO_REVOCATIONS = Revocations()
