"""The four counters of calls, and what they refuse.

1. Keys are what Envoy verified and what the policy says; nothing that a caller can choose.
2. Looking counts nothing: `check_*` may be called in a pure decision. Counting is done once, after it: `charge` and `note_*`.
3. A call is counted everywhere or nowhere. A denied call does not use up what allowed ones may.

Counters live here, not in the policy: a reload keeps those of rates that did not change.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

from ext_authz.errors import RateExceeded
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.limits.gcra import MAX_KEYS, GcraTable
from ext_authz.policy.rates import Rate
from ext_authz.policy.verdict import Grant

# Characters of a principal that tell callers apart before they are identified; our SPIFFE IDs have under 100. Those that
# agree in so many share a count.
MAX_PRINCIPAL_CHARACTERS = 256


class Wanted(NamedTuple):
    """A call that would be allowed, and what it counts towards."""

    caller: str  # its SPIFFE ID
    caller_rate: Rate | None
    grants: Sequence[Grant]  # the satisfied ones, one of which is enough; none: no cell counts


class Limiter:
    """Counts the calls of one process. Safe for threads: no two calls get the same last place."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self.cells = GcraTable(max_keys)
        self.callers = GcraTable(max_keys)
        self.unknown_callers = GcraTable(max_keys)
        self.failed_verifications = GcraTable(max_keys)
        self._lock = threading.Lock()

    def check_unknown(self, principal: str, rate: Rate, now_ns: int) -> None:
        """Raise RateExceeded for a caller without any grant that has asked too often."""
        with self._lock:
            wait_ns = self.unknown_callers.wait_ns(principal[:MAX_PRINCIPAL_CHARACTERS], rate, now_ns)
        if wait_ns:
            raise RateExceeded(wait_ns, "this caller has no grant, and asked too often")

    def note_unknown(self, principal: str, rate: Rate, now_ns: int) -> None:
        """Count a request of a caller without any grant."""
        with self._lock:
            self.unknown_callers.take(principal[:MAX_PRINCIPAL_CHARACTERS], rate, now_ns)

    def check_verifications(self, caller: SpiffeId, rate: Rate, now_ns: int) -> None:
        """Raise RateExceeded for a caller of whose tokens too many did not hold."""
        with self._lock:
            wait_ns = self.failed_verifications.wait_ns(caller.uri, rate, now_ns)
        if wait_ns:
            raise RateExceeded(wait_ns, "too many tokens of this caller did not hold: no more are looked at for now")

    def note_failed_verification(self, caller: SpiffeId, rate: Rate, now_ns: int) -> None:
        """Count a token that did not hold."""
        with self._lock:
            self.failed_verifications.take(caller.uri, rate, now_ns)

    def check(self, wanted: Wanted, now_ns: int) -> None:
        """Raise RateExceeded when a call would not be allowed now. Counts nothing."""
        with self._lock:
            self._choose(wanted, now_ns)

    def charge(self, wanted: Wanted, now_ns: int) -> Grant | None:
        """Count a call and return the grant that allows it, None where no cell counts. Raises RateExceeded."""
        caller, rate, _ = wanted
        with self._lock:
            grant = self._choose(wanted, now_ns)
            if rate is not None:
                self.callers.charge((caller, rate.text), rate, now_ns)
            if grant is not None and grant.rate is not None:
                self.cells.charge((grant.rate.cell, caller), grant.rate.rate, now_ns)
        return grant

    def _choose(self, wanted: Wanted, now_ns: int) -> Grant | None:
        """Return the grant to charge: one without a rate, else the one that is free first."""
        caller, rate, grants = wanted
        free: Grant | None = None
        cell_wait_ns = 0
        for grant in grants:
            if grant.rate is None:
                free, cell_wait_ns = grant, 0
                break
            wait_ns = self.cells.wait_ns((grant.rate.cell, caller), grant.rate.rate, now_ns)
            if free is None or wait_ns < cell_wait_ns:
                free, cell_wait_ns = grant, wait_ns
        if rate is not None and (wait_ns := self.callers.wait_ns((caller, rate.text), rate, now_ns)):
            raise RateExceeded(max(wait_ns, cell_wait_ns), "the caller made more calls than it may")
        if cell_wait_ns:
            raise RateExceeded(cell_wait_ns)
        return free
