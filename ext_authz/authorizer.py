"""One question in, one answer and one audit record out.

1. `check` never raises and never returns an empty response: every failure on the way becomes a denial.
2. The answer and the record are made from the same decision; a decision that cannot be recorded is withdrawn.
3. Effects (consuming a one-time token, charging a budget) run once, for a would-be allow, before it is answered. Calls are
   counted after them, in this process and at once: a denied call uses up no rate.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from ext_authz.attributes.request import MAX_BODY_BYTES, parse_attributes
from ext_authz.attributes.salvage import salvage_attributes
from ext_authz.audit.record import AuditRecord, to_record
from ext_authz.decision.decide import Call, Snapshot, decide, refuse
from ext_authz.decision.model import Decision
from ext_authz.decision.rates import charge, has_room
from ext_authz.decision.seen import Seen
from ext_authz.decision.shadow import Shadow
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import NotAllowed, Outcome, Reason
from ext_authz.faults import place_of
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.response import emergency_response, to_check_response
from ext_authz.tally import Tally

# Seconds that effects may take when the caller sent no deadline: Envoy's own default for a check.
DEFAULT_EFFECT_SECONDS = 0.2

ID_BYTES = 16
IDS_PER_BLOCK = 256

# Changes something outside for a decision that would allow; raises NotAllowed to stop it.
Effect = Callable[[Decision], Awaitable[None]]
# Is told of a decision that does not allow; changes nothing about it.
Observer = Callable[[Decision], None]

_LOG = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where audit records go."""

    def offer(self, record: AuditRecord) -> bool:
        """Take a record; False when it cannot be kept."""


class Authorizer:
    """Decides, answers and records. `snapshot` may be replaced at any time; a decision uses the one it began with."""

    def __init__(
        self,
        snapshot: Snapshot,
        recorder: Recorder,
        *,
        effects: tuple[Effect, ...] = (),
        observers: tuple[Observer, ...] = (),
        max_body_bytes: int = MAX_BODY_BYTES,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.snapshot = snapshot
        self.effects = effects
        self.tally = Tally()
        self.shadow: Shadow | None = None
        self.observers = observers
        self._recorder = recorder
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._timer = timer
        self._decision_ids = _random_ids()

    def check(self, data: bytes, remaining_seconds: float | None = None, peer: SpiffeId | None = None) -> bytes:
        """Answer a serialized CheckRequest with a serialized CheckResponse, without effects.

        `remaining_seconds` is what is left of the caller's deadline. `peer` is the identity of the sidecar that asks,
        where the transport proves one: it may only ask about its own workload.
        """
        try:
            snapshot, call = self.snapshot, self._call(remaining_seconds, peer)
            decision = self._decide(data, snapshot, call)
            return self._conclude(charge(decision, snapshot.policy, snapshot.limiter, call.stopwatch.started_ns))
        except Exception as error:  # noqa: BLE001  rule 1
            return self._answer_without_decision(error)

    async def check_with_effects(
        self, data: bytes, remaining_seconds: float | None = None, peer: SpiffeId | None = None
    ) -> bytes:
        """Answer like `check`, and run the effects of a would-be allow before it is answered and recorded."""
        try:
            snapshot, call = self.snapshot, self._call(remaining_seconds, peer)
            policy, limiter, started_ns = snapshot.policy, snapshot.limiter, call.stopwatch.started_ns
            decision = self._decide(data, snapshot, call)
            if decision.meaning.outcome is Outcome.ALLOW:  # what its rate will refuse must use up nothing
                decision = has_room(decision, policy, limiter, started_ns)
            if decision.meaning.outcome is Outcome.ALLOW:
                decision = await self._apply_or_record(decision, remaining_seconds)
            return self._conclude(charge(decision, policy, limiter, started_ns))
        except Exception as error:  # noqa: BLE001  rule 1
            return self._answer_without_decision(error)

    def _answer_without_decision(self, error: Exception) -> bytes:
        """Deny where no decision could be made at all: without a clock or a snapshot there is nothing to record."""
        self.tally.unanswered += 1
        _LOG.error("a check failed outside of its stages: %s", place_of(error))
        return emergency_response()

    def _call(self, remaining_seconds: float | None, peer: SpiffeId | None) -> Call:
        deadline_ns = None if remaining_seconds is None else self._timer() + int(remaining_seconds * 1e9)
        seen = None if self.shadow is None else Seen()
        return Call(next(self._decision_ids), self._clock(), Stopwatch(self._timer, deadline_ns), peer, seen)

    def _decide(self, data: bytes, snapshot: Snapshot, call: Call) -> Decision:
        stopwatch = call.stopwatch
        try:
            attributes = parse_attributes(data, self._max_body_bytes)
            stopwatch.split("attributes")
        except Exception as error:  # noqa: BLE001  rule 1
            return refuse(salvage_attributes(data), snapshot, call, error)
        decision = decide(attributes, snapshot, call)
        return decision if self.shadow is None else self.shadow.compared(decision, snapshot, call)

    async def _apply_or_record(self, decision: Decision, remaining_seconds: float | None) -> Decision:
        """Run the effects; a caller that gives up meanwhile leaves a record all the same."""
        try:
            return await self._apply(decision, remaining_seconds)
        except asyncio.CancelledError:
            self._conclude(decision.overruled(Reason.DEADLINE, "the caller gave up"))
            raise

    async def _apply(self, decision: Decision, remaining_seconds: float | None) -> Decision:
        try:
            async with asyncio.timeout(DEFAULT_EFFECT_SECONDS if remaining_seconds is None else remaining_seconds):
                for effect in self.effects:
                    await effect(decision)
        except NotAllowed as refusal:
            return decision.refused(refusal)
        except TimeoutError:
            return decision.overruled(Reason.DEADLINE)
        except Exception as error:  # noqa: BLE001  rule 1
            return decision.overruled(Reason.INTERNAL_ERROR, fault=place_of(error))
        return decision

    def _conclude(self, decision: Decision) -> bytes:
        """Answer and record one decision."""
        try:
            response = to_check_response(decision)
        except Exception as error:  # noqa: BLE001  rule 1
            decision = decision.overruled(Reason.INTERNAL_ERROR, fault=place_of(error))
            response = emergency_response()
        if decision.fault:
            _LOG.error("decision %s failed inside: %s", decision.decision_id, decision.fault)
        if self.observers and decision.reason is not Reason.ALLOWED:
            self._tell(decision)
        if not self._recorded(decision):
            return self._withdrawn(decision)
        self.tally.count(decision.reason, decision.elapsed_ns)
        return response

    def _tell(self, decision: Decision) -> None:
        for observe in self.observers:
            try:
                observe(decision)
            except Exception as error:  # noqa: BLE001  rule 1
                _LOG.error("decision %s could not be observed: %s", decision.decision_id, place_of(error))

    def _recorded(self, decision: Decision) -> bool:
        try:
            return self._recorder.offer(to_record(decision))
        except Exception as error:  # noqa: BLE001  rule 1
            _LOG.error("decision %s could not be recorded: %s", decision.decision_id, place_of(error))
            return False

    def _withdrawn(self, decision: Decision) -> bytes:
        self.tally.count(Reason.AUDIT_UNAVAILABLE, decision.elapsed_ns)
        try:
            return to_check_response(decision.overruled(Reason.AUDIT_UNAVAILABLE))
        except Exception:  # noqa: BLE001  rule 1
            return emergency_response()


def _random_ids() -> Iterator[str]:
    """Yield ids of 128 random bits in hexadecimal.

    They are drawn from the system in blocks: each draw lets go of the interpreter, and under load another thread takes it.
    """
    while True:
        block = os.urandom(ID_BYTES * IDS_PER_BLOCK).hex()
        for start in range(0, len(block), 2 * ID_BYTES):
            yield block[start : start + 2 * ID_BYTES]
