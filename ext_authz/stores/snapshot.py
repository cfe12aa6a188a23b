"""What the control store says at one moment, in the form that decisions use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.stores.entry import Entry, Kind, is_session
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations

# Which state of which file; two that are equal hold the same entries.
Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ControlSnapshot:
    """Revocations and quarantine. Whoever decides compares the ends with its own clock."""

    revocations: Revocations
    quarantined: Mapping[SpiffeId, float]  # until: seconds since 1970, may be infinite
    quarantined_sessions: Mapping[str, float]
    read_at: float  # seconds since 1970 at which this was known to be in force
    version: Version


def to_snapshot(entries: Iterable[Entry], read_at: float, version: Version) -> ControlSnapshot:
    """Return the snapshot of entries that are in force."""
    by_kind: dict[Kind, list[Entry]] = {kind: [] for kind in Kind}
    for entry in entries:
        by_kind[entry.kind].append(entry)
    quarantined = by_kind[Kind.QUARANTINE]
    return ControlSnapshot(
        _revocations(by_kind),
        {SpiffeId.parse_workload(each.value): each.keep_until for each in quarantined if not is_session(each.value)},
        {each.value: each.keep_until for each in quarantined if is_session(each.value)},
        read_at,
        version,
    )


def _revocations(by_kind: Mapping[Kind, list[Entry]]) -> Revocations:
    def values(kind: Kind) -> frozenset[str]:
        return frozenset(entry.value for entry in by_kind[kind])

    def marks(kind: Kind) -> dict[str, int]:
        return {entry.value: entry.mark_at for entry in by_kind[kind] if entry.mark_at is not None}

    revocations = Revocations(
        token_ids=values(Kind.TOKEN_ID),
        session_ids=values(Kind.SESSION_ID),
        key_ids=values(Kind.KEY_ID),
        certificates=frozenset(map(bytes.fromhex, values(Kind.CERTIFICATE))),
        subjects=marks(Kind.SUBJECT),
        workloads={SpiffeId.parse_workload(uri): mark for uri, mark in marks(Kind.WORKLOAD).items()},
    )
    # The one object that verification knows to hold nothing.
    return NO_REVOCATIONS if revocations == NO_REVOCATIONS else revocations
