"""What one call of `check(bytes)` costs, without transport and without audit."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, repeat

from bench import requests
from bench.snapshot import Discarded, snapshot
from ext_authz.authorizer import Authorizer
from ext_authz.decision.shadow import Shadow
from ext_authz.policy.limits import CallLimits
from ext_authz.policy.rates import Rate

WARM_UP = 500
CALLS = 10_000
CALLS_WITH_NEW_BODIES = 1_500


@dataclass(frozen=True, slots=True)
class Cost:
    """One row: wall time by percentile, and processor time, in microseconds a call."""

    name: str
    p50: float
    p99: float
    cpu: float


def measure() -> Iterator[Cost]:
    """Measure each kind of request, warm."""
    check = Authorizer(snapshot(), Discarded()).check
    yield _cost("allow, small JSON body", check, repeat(requests.ALLOW), CALLS)
    yield _cost("allow, no body", check, repeat(requests.ALLOW_WITHOUT_BODY), CALLS)
    yield _cost("deny, not in matrix", check, repeat(requests.DENY), CALLS)
    yield _cost("allow, 4 kB body seen before", check, repeat(requests.ALLOW_4K_SEEN), CALLS)
    yield _cost("allow, calls counted", _counting().check, repeat(requests.ALLOW), CALLS)
    yield _cost("allow, beside a shadow policy", _shadowed().check, repeat(requests.ALLOW), CALLS)
    yield _cost("allow, 4 kB body never seen", check, requests.new_bodies(), CALLS_WITH_NEW_BODIES)


def _counting() -> Authorizer:
    """Return an authorizer whose policy counts every call."""
    active = snapshot()
    limits = CallLimits(usual=Rate.parse("999999/s"), unknown_callers=Rate.parse("30/min"))
    return Authorizer(replace(active, policy=replace(active.policy, limits=limits)), Discarded())


def _shadowed() -> Authorizer:
    """Return an authorizer with a shadow policy that says the same."""
    authorizer = Authorizer(snapshot(), Discarded())
    authorizer.shadow = Shadow(snapshot().policy)
    return authorizer


def _cost(name: str, check: Callable[[bytes], bytes], data: Iterable[bytes], calls: int) -> Cost:
    prepared = list(islice(data, WARM_UP + calls))
    for each in prepared[:WARM_UP]:
        check(each)
    times_ns = []
    cpu_started = time.process_time_ns()
    for each in prepared[WARM_UP:]:
        started = time.perf_counter_ns()
        check(each)
        times_ns.append(time.perf_counter_ns() - started)
    cpu_ns = time.process_time_ns() - cpu_started
    percentiles = statistics.quantiles(times_ns, n=100)
    return Cost(name, percentiles[49] / 1000, percentiles[98] / 1000, cpu_ns / calls / 1000)
