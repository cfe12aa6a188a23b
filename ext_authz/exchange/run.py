"""The life of the exchange: load, listen, follow its files and the control store, drain."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ext_authz.errors import ConfigurationError, SettingsError
from ext_authz.exchange.admission import ExchangeSnapshot, problems_of
from ext_authz.exchange.app import exchange_app
from ext_authz.exchange.journal import Journal
from ext_authz.exchange.keys import KeyRing
from ext_authz.exchange.service import Exchange
from ext_authz.exchange.settings import ExchangeSettings
from ext_authz.policy.compile import Policy, load
from ext_authz.server.control import LOOK_SECONDS, ControlWatcher
from ext_authz.server.controls import controls_of
from ext_authz.server.file_watch import FileWatch, directory_changes, directory_stamps
from ext_authz.server.key_fetcher import KeyFetcher
from ext_authz.settings import UNIX_PREFIX
from ext_authz.sockets import bound_unix_socket, group_id
from ext_authz.stores.control import ControlStore
from ext_authz.stores.once import OnceRegister
from ext_authz.tokens.chain import LinkCache
from ext_authz.tokens.key_files import Stamps, stamps_now
from ext_authz.tokens.keys import KeySet, KeySource
from ext_authz.web import serving

# Milliseconds between two looks at files that the policy names elsewhere.
LOOK_MILLISECONDS = 250

_LOG = logging.getLogger(__name__)


async def serve_exchange(settings: ExchangeSettings, started: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT. `started` is called with the address once requests are answered.

    Raises ConfigurationError with all problems before anything is served.
    """
    stopping = _stop_on_signals()
    before = directory_stamps(settings.policies, settings.keys)
    policy, keys = _loaded(settings)
    with _journal(settings) as journal, ControlStore.open(settings.control_store, create=True) as store:
        once = OnceRegister.open(settings.control_store)
        watcher = ControlWatcher(store, store.snapshot(time.time()), lambda _: None)
        controls = controls_of(watcher.current, settings.max_control_age_seconds)
        fetcher = KeyFetcher(lambda found: _put_in_force(exchange, found))
        exchange = Exchange(
            ExchangeSnapshot(settings.spiffe_id, policy, keys, controls), once, journal, unknown_key=fetcher.ask_again
        )
        fetcher.follow(policy.key_sources)
        try:
            with _listening(settings) as listener:
                async with fetcher, serving(exchange_app(exchange), listener), asyncio.TaskGroup() as background:
                    following = [
                        background.create_task(_follow_store(exchange, watcher, settings.max_control_age_seconds)),
                        background.create_task(_follow_files(exchange, settings, fetcher, before)),
                    ]
                    address = _address_of(settings, listener)
                    _LOG.info("listening on %s: %d keys, digest %s", address, len(keys.keys), policy.digest[:12])
                    started(address)
                    await stopping.wait()
                    _LOG.info("draining")
                    for task in following:
                        task.cancel()
        finally:
            await once.close()
    _LOG.info("stopped")


def _loaded(settings: ExchangeSettings) -> tuple[Policy, KeyRing]:
    """Load policy and keys. Raises ConfigurationError with the problems of both."""
    problems: list[str] = []
    policy = keys = None
    try:
        policy = load(settings.policies)
        problems += problems_of(settings.spiffe_id, policy)
    except ConfigurationError as error:
        problems += error.problems
    try:
        keys = KeyRing.load(settings.keys)
    except ConfigurationError as error:
        problems += error.problems
    if problems or policy is None or keys is None:
        raise ConfigurationError(problems)
    return policy, keys


async def _follow_store(exchange: Exchange, watcher: ControlWatcher, max_age_seconds: float) -> None:
    while True:
        if await watcher.look():
            exchange.snapshot = replace(exchange.snapshot, controls=controls_of(watcher.current, max_age_seconds))
        await asyncio.sleep(LOOK_SECONDS)


def _put_in_force(exchange: Exchange, found: Mapping[KeySource, KeySet]) -> None:
    """Let keys that were fetched count from now on."""
    policy = exchange.snapshot.policy.with_keys(found)
    exchange.snapshot = replace(exchange.snapshot, policy=policy, cache=LinkCache())


async def _follow_files(exchange: Exchange, settings: ExchangeSettings, fetcher: KeyFetcher, before: Stamps) -> None:
    """Read policy and keys again whenever a file of their directories, or one that the policy names, changes."""
    elsewhere = FileWatch(exchange.snapshot.policy.watched_files)
    async for has_changed in directory_changes(
        settings.policies, settings.keys, before=before, every=LOOK_MILLISECONDS
    ):
        if not (has_changed or elsewhere.is_change(await asyncio.to_thread(stamps_now, elsewhere.expected))):
            continue
        policy = await _reload(exchange, settings, fetcher)
        if policy is not None:
            elsewhere.expect(policy.watched_files)


async def _reload(exchange: Exchange, settings: ExchangeSettings, fetcher: KeyFetcher) -> Policy | None:
    """Swap in what the directories hold now, and return it; what is bad keeps what was there."""
    try:
        policy, keys = await asyncio.to_thread(_loaded, settings)
    except ConfigurationError as error:
        for problem in error.problems:
            _LOG.error("not reloaded: %s", problem)
        return None
    except Exception as error:  # noqa: BLE001  whatever a file makes the loaders do, serving goes on
        _LOG.error("not reloaded: %s", type(error).__name__)
        return None
    if (policy.digest, keys) != (exchange.snapshot.policy.digest, exchange.snapshot.keys):
        policy = policy.with_keys(fetcher.follow(policy.key_sources))
        exchange.snapshot = replace(exchange.snapshot, policy=policy, keys=keys, cache=LinkCache())
        _LOG.info("reloaded: %d keys, digest %s", len(keys.keys), policy.digest[:12])
    return policy


@contextmanager
def _journal(settings: ExchangeSettings) -> Iterator[Journal]:
    try:
        journal = Journal.open(settings.audit_file)
    except OSError as error:
        raise SettingsError([f"--audit-file: cannot write `{settings.audit_file}`: {error.strerror}"]) from None
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def _listening(settings: ExchangeSettings) -> Iterator[socket.socket]:
    if settings.listen.startswith(UNIX_PREFIX):
        path = Path(settings.listen.removeprefix(UNIX_PREFIX))
        with bound_unix_socket("--listen", path, group_id(settings.socket_group)) as bound:
            yield bound
        return
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise SettingsError([f"--listen: cannot bind `{settings.listen}`: {error.strerror}"]) from None
    with bound:
        yield bound


def _address_of(settings: ExchangeSettings, listener: socket.socket) -> str:
    """Return the address with the port that was chosen for port 0."""
    if settings.listen.startswith(UNIX_PREFIX):
        return settings.listen
    return f"{settings.listen.rpartition(':')[0]}:{listener.getsockname()[1]}"


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # files are followed: there is nothing to reload by hand
    return stopping
