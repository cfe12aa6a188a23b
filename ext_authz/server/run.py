"""The life of the server: load, listen, serve, reload, drain."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ext_authz.audit.event import Announcer
from ext_authz.audit.jsonlines import JsonLinesSink
from ext_authz.audit.spans import otlp_sink
from ext_authz.audit.writer import AuditWriter, Sink
from ext_authz.authorizer import Authorizer
from ext_authz.decision.decide import Snapshot
from ext_authz.decision.shadow import Shadow
from ext_authz.errors import SettingsError
from ext_authz.identity.identify import Identifier
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.identity.xfcc import XfccMode
from ext_authz.injection import load_default_screen
from ext_authz.policy.compile import load
from ext_authz.server.controls import Look, following_store
from ext_authz.server.file_watch import directory_stamps
from ext_authz.server.key_fetcher import KeyFetcher
from ext_authz.server.keys import following_keys
from ext_authz.server.listener import listening
from ext_authz.server.memory import settle_memory
from ext_authz.server.metrics import ServerMetrics, serving_metrics
from ext_authz.server.reload import PolicyReloader
from ext_authz.server.service import SERVICE_NAME, authorization_handler
from ext_authz.server.shadow import ShadowReloader
from ext_authz.settings import Settings
from ext_authz.tokens.key_files import Stamps

# Bytes of a CheckRequest beside its body: headers, certificate, attributes. Envoy sends at most 60 KiB of headers.
MAX_ENVELOPE_BYTES = 256 * 1024
# Checks on one connection at a time; a sidecar that needs more opens another.
MAX_STREAMS_PER_CONNECTION = 1024
# The name by which grpc.health.v1 says whether the active policy is what its directory says.
POLICY_HEALTH = "ext_authz.policy"
# Seconds for writing the audit records that wait at the end; with the drain this stays under Kubernetes' usual limits.
AUDIT_CLOSE_SECONDS = 3

_LOG = logging.getLogger(__name__)


def load_snapshot(settings: Settings) -> Snapshot:
    """Load everything that decisions rest on. Raises PolicyError, SettingsError."""
    return Snapshot(policy=load(settings.policies), identifier=_identifier(settings), screen=load_default_screen())


@asynccontextmanager
async def _alone(_: Look) -> AsyncIterator[None]:
    yield


async def serve(
    settings: Settings,
    started: Callable[[str], None] = lambda _: None,
    beside: Callable[[Look], AbstractAsyncContextManager[None]] = _alone,
) -> None:
    """Serve until SIGTERM or SIGINT. `started` is called with the address once checks are answered.

    `beside` is what runs for as long; it is given what puts changes of the control store into force at once.
    Raises PolicyError or SettingsError before anything is served.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes before there is anything to reload must not end us
    before = directory_stamps(settings.policies)
    snapshot = load_snapshot(settings)
    recorder = AuditWriter(_sinks(settings), settings.audit_max_waiting)
    try:
        authorizer = Authorizer(snapshot, recorder, max_body_bytes=settings.max_body_bytes)
        async with (
            following_store(settings.control_store, settings.max_control_age_seconds, authorizer) as look,
            following_keys(authorizer) as keys,
            beside(look),
        ):
            settle_memory()
            await _serve(settings, authorizer, (keys, before), recorder, started)
    finally:
        await asyncio.to_thread(recorder.close, AUDIT_CLOSE_SECONDS)
    _LOG.info("stopped")


async def _serve(
    settings: Settings,
    authorizer: Authorizer,
    sources: tuple[KeyFetcher, Stamps],
    recorder: AuditWriter,
    started: Callable[[str], None],
) -> None:
    keys, before = sources
    server = grpc_server(settings)
    has_client_ca, peer = settings.tls_client_ca is not None, _socket_workload(settings)
    server.add_generic_rpc_handlers((authorization_handler(authorizer, authenticates_peers=has_client_ca, peer=peer),))
    health_servicer = await _add_health(server)
    announcer = Announcer(recorder.offer)
    reloader = PolicyReloader(
        settings.policies,
        authorizer,
        keys,
        announcer=announcer,
        told=_policy_health(health_servicer),
        before=before,
    )
    shadow = await _shadow(settings.shadow, authorizer, announcer)
    reloaders: list[PolicyReloader | ShadowReloader] = [reloader, *([shadow] if shadow else [])]
    metrics = ServerMetrics(settings, authorizer, recorder, reloader, shadow=shadow)
    stopping = _stop_on_signals()
    with serving_metrics(settings.metrics_listen, metrics) as metrics_address, listening(server, settings) as address:
        await server.start()
        async with asyncio.TaskGroup() as background:
            _reload_on_hangup(background, reloaders)
            watching = [background.create_task(each.watch()) for each in reloaders if settings.watch]
            policy = authorizer.snapshot.policy
            _LOG.info("listening on %s: %d grants, digest %s", address, policy.grant_count, policy.digest[:12])
            if metrics_address is not None:
                _LOG.info("metrics on http://%s/metrics", metrics_address)
            started(address)
            await stopping.wait()
            _LOG.info("draining")
            await health_servicer.enter_graceful_shutdown()
            await server.stop(settings.drain_seconds)
            for task in watching:
                task.cancel()


def grpc_server(settings: Settings) -> grpc.aio.Server:
    """Return a server with the limits of the settings, without services and addresses."""
    options = (
        ("grpc.max_receive_message_length", settings.max_body_bytes + MAX_ENVELOPE_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # Envoy's keepalive comes every 10 s
        ("grpc.keepalive_permit_without_calls", 1),
    )
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_concurrent_checks)


async def _add_health(server: grpc.aio.Server) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", SERVICE_NAME, POLICY_HEALTH):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return servicer


def _policy_health(servicer: health.aio.HealthServicer) -> Callable[[bool], Awaitable[None]]:
    """Return what shows in health details whether the active policy is what its directory says."""
    statuses = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
    return lambda is_current: servicer.set(POLICY_HEALTH, statuses[is_current])


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _shadow(directory: Path | None, authorizer: Authorizer, announcer: Announcer) -> ShadowReloader | None:
    """Load the candidate of shadow mode; serving goes on whatever comes of it."""
    if directory is None:
        return None
    authorizer.shadow = Shadow()
    reloader = ShadowReloader(directory, authorizer.shadow, announcer)
    await reloader.reload()
    return reloader


def _reload_on_hangup(background: asyncio.TaskGroup, reloaders: Sequence[PolicyReloader | ShadowReloader]) -> None:
    def reload() -> None:
        for reloader in reloaders:
            background.create_task(reloader.reload())

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _identifier(settings: Settings) -> Identifier:
    workloads, problems = set(), []
    for text in settings.workloads:
        try:
            workloads.add(SpiffeId.parse_workload(text))
        except SpiffeIdError as error:
            problems.append(f"workloads: {error}")
    if problems:
        raise SettingsError(problems)
    return Identifier(XfccMode(settings.xfcc_mode), settings.require_xfcc, frozenset(workloads))


def _socket_workload(settings: Settings) -> SpiffeId | None:
    if settings.socket_workload is None:
        return None
    try:
        return SpiffeId.parse_workload(settings.socket_workload)
    except SpiffeIdError as error:
        raise SettingsError([f"socket_workload: {error}"]) from None


def _sinks(settings: Settings) -> list[Sink]:
    sinks: list[Sink] = []
    # An empty variable counts as absent (OpenTelemetry specification, "Environment Variable Specification").
    has_collector = any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    if has_collector and os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        raise SettingsError(["OTEL_SDK_DISABLED: no audit span is made with it: unset it or the OTLP endpoint"])
    if settings.audit_file is not None:
        try:
            sinks.append(JsonLinesSink.to_file(settings.audit_file))
        except OSError as error:
            raise SettingsError([f"audit_file: cannot write `{settings.audit_file}`: {error.strerror}"]) from None
    if has_collector:
        sinks.append(otlp_sink())
    return sinks or [JsonLinesSink.to_stdout()]
