"""Metrics for Prometheus, made when they are asked for: decisions only count plain numbers.

1. No label's value comes from a request: reasons, outcomes and digests are ours, so the number of series has a bound.
2. The endpoint reads and never writes. It is open to whoever can connect, so it listens on this machine unless the
   settings say `insecure`.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from ext_authz.audit.writer import AuditWriter
from ext_authz.authorizer import Authorizer
from ext_authz.errors import Reason, SettingsError
from ext_authz.server.reload import PolicyReloader
from ext_authz.server.shadow import ShadowReloader
from ext_authz.settings import Settings
from ext_authz.tally import BOUNDS_NS

# Seconds that a client may be silent; each holds a thread meanwhile.
CLIENT_SECONDS = 5.0


class ServerMetrics:
    """Reads the parts of a running server."""

    def __init__(
        self,
        settings: Settings,
        authorizer: Authorizer,
        audit: AuditWriter,
        reloader: PolicyReloader,
        *,
        shadow: ShadowReloader | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._authorizer = authorizer
        self._audit = audit
        self._reloader = reloader
        self._shadow = shadow
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        yield from self._decisions()
        yield from self._policy()
        yield from self._audit_queue()
        yield from self._limits()
        yield from self._shadow_policy()
        if self._settings.control_store is not None:
            fresh_until = self._authorizer.snapshot.controls.fresh_until
            age_seconds = self._clock() - (fresh_until - self._settings.max_control_age_seconds)
            yield _gauge("control_store_age_seconds", "Since the control store was last read.", age_seconds)

    def _decisions(self) -> Iterator[Metric]:
        tally = self._authorizer.tally
        decisions = CounterMetricFamily(
            "ext_authz_decisions", "Answers by outcome and reason.", labels=("outcome", "reason")
        )
        for name, count in tally.reasons.items():
            decisions.add_metric((Reason(name).meaning.outcome.value, name), count)
        yield decisions
        yield _counter("unanswered_checks", "Checks that failed before a decision: no record.", tally.unanswered)
        duration = HistogramMetricFamily("ext_authz_decision_duration_seconds", "Time that a decision took.")
        buckets, total = [], 0
        for bound, count in zip((*(f"{ns / 1e9:g}" for ns in BOUNDS_NS), "+Inf"), tuple(tally.buckets), strict=True):
            total += count
            buckets.append((bound, float(total)))
        duration.add_metric((), buckets, sum_value=tally.total_ns / 1e9)
        yield duration

    def _policy(self) -> Iterator[Metric]:
        policy, reloader = self._authorizer.snapshot.policy, self._reloader
        info = GaugeMetricFamily("ext_authz_policy_info", "The policy that decides.", labels=("digest",))
        info.add_metric((policy.digest,), 1)
        yield info
        yield _gauge("policy_grants", "Calls that the policy grants.", policy.grant_count)
        yield _gauge("policy_loaded_timestamp_seconds", "When that policy was loaded.", reloader.loaded_at)
        yield _gauge(
            "policy_reload_failed", "1 while the active policy is not what its directory says.", not reloader.is_current
        )
        yield _counter("policy_reload_failures", "Reloads that kept the last good policy.", reloader.failures)

    def _audit_queue(self) -> Iterator[Metric]:
        yield _gauge("audit_waiting_records", "Records that wait to be written.", self._audit.waiting)
        yield _gauge("audit_max_waiting_records", "How many may wait.", self._settings.audit_max_waiting)
        yield _counter("audit_refused_records", "Records that found no room: decisions withdrawn.", self._audit.refused)

    def _limits(self) -> Iterator[Metric]:
        limiter = self._authorizer.snapshot.limiter
        tables = {
            "cell": limiter.cells,
            "caller": limiter.callers,
            "unknown_callers": limiter.unknown_callers,
            "failed_verifications": limiter.failed_verifications,
        }
        keys = GaugeMetricFamily("ext_authz_limit_keys", "Counters of calls in use.", labels=("limit",))
        shared = CounterMetricFamily("ext_authz_limit_shared", "Calls that shared a counter.", labels=("limit",))
        for name, table in tables.items():
            keys.add_metric((name,), len(table))
            shared.add_metric((name,), table.shared)
        yield keys
        yield shared

    def _shadow_policy(self) -> Iterator[Metric]:
        shadow = self._authorizer.shadow
        if shadow is None or self._shadow is None:
            return
        info = GaugeMetricFamily("ext_authz_shadow_policy_info", "The shadow policy.", labels=("digest",))
        candidate = shadow.candidate
        if candidate is not None:
            info.add_metric((candidate.digest,), 1)
        yield info
        yield _gauge(
            "shadow_policy_failed",
            "1 while the shadow policy is not what its directory says.",
            not self._shadow.is_current,
        )
        differences = CounterMetricFamily(
            "ext_authz_shadow_differences",
            "Decisions that the shadow policy would have made otherwise.",
            labels=("change",),
        )
        differences.add_metric(("newly_allowed",), shadow.newly_allowed)
        differences.add_metric(("newly_denied",), shadow.newly_denied)
        differences.add_metric(("other_reason",), shadow.other_reason)
        yield differences
        yield _counter("shadow_given_up", "Comparisons that took too long, or could not be made.", shadow.given_up)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ext_authz_{name}", documentation, value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"ext_authz_{name}", documentation, value)


class _Handler(WSGIRequestHandler):
    """Says nothing on standard error, and does not wait for ever."""

    timeout = CLIENT_SECONDS

    def log_message(self, *_: object) -> None:
        """Log nothing: a scrape every few seconds is no news."""


@contextmanager
def serving_metrics(listen: str | None, metrics: ServerMetrics) -> Iterator[str | None]:
    """Serve metrics at HOST:PORT from a thread until the end of the block; yield the address. None: nothing is served.

    Raises SettingsError when the address cannot be used.
    """
    if listen is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    host, _, port = listen.rpartition(":")
    server_class = _Ipv6Server if host.startswith("[") else ThreadingWSGIServer
    try:
        server = make_server(host.strip("[]"), int(port), make_wsgi_app(registry), server_class, _Handler)
    except OSError as error:
        raise SettingsError([f"metrics_listen: cannot bind `{listen}`: {error.strerror}"]) from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Ipv6Server(ThreadingWSGIServer):
    address_family = socket.AF_INET6
