"""Keys at addresses, fetched in the background: decisions use what was found last, and never wait.

1. What an address says wrongly, or not at all, replaces nothing. What it says rightly replaces everything it said before.
2. Keys count for `max_stale_seconds` after their address was last heard of; then they count no more.
3. An address is asked again before its answer is old, sooner after an error, and at most once a minute because
   somebody showed a key that is not known.
"""

import asyncio
import logging
import math
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx

from ext_authz.server.key_answers import Answer, KeyFetchError, fetch_keys
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource

# Seconds that an answer is fresh: when it does not say, and the bounds of what it may say.
USUAL_FRESH_SECONDS, MIN_FRESH_SECONDS, MAX_FRESH_SECONDS = 300, 60, 3600
# The part of that time after which the next answer is asked for.
REFRESH_AT = 0.8
# Seconds until the next try: after the first error, and after many.
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
# Seconds between two fetches of one address that unknown keys can cause.
UNKNOWN_KEY_SECONDS = 60.0
# Seconds between two rounds over all addresses because of unknown keys: a flood of them costs a comparison each.
WISH_SECONDS = 1.0
# Seconds between two looks at the clock.
LOOK_SECONDS = 0.25

_IN_HAND, _NONE_COUNT = "those in hand still count", "none count now"

_LOG = logging.getLogger(__name__)

Fetch = Callable[[KeySource], Awaitable[Answer]]
Publish = Callable[[Mapping[KeySource, KeySet]], None]


@dataclass(slots=True)
class SourceState:
    """What is known of one address."""

    keys: KeySet = NO_KEYS
    heard_at: float | None = None  # seconds since 1970; None: never
    asked_at: float = 0.0  # on the timer, as the next
    due_at: float = 0.0
    errors: int = 0  # since the last answer
    told: str = ""  # what the log said last about its silence

    def age_seconds(self, now: float) -> float | None:
        """Return how old the keys are, None when there are none."""
        return None if self.heard_at is None else max(0.0, now - self.heard_at)


class KeyFetcher:
    """Follows addresses of keys, each in a task of its own.

    `publish` is called on the event loop with all keys in hand, whenever some of them change or count for longer.
    `clock` says until when keys count, in seconds since 1970; `timer` says when to ask, on a clock that nobody sets.
    """

    def __init__(
        self,
        publish: Publish,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._publish = publish
        self._fetch = fetch or _fetching()
        self._clock = clock
        self._timer = timer
        self._jitter = jitter
        self._states: dict[KeySource, SourceState] = {}
        self._tasks: dict[KeySource, asyncio.Task[None]] = {}
        self._wished_at = -math.inf  # when an unknown key was last looked into

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def found(self) -> Mapping[KeySource, KeySet]:
        """The keys in hand."""
        return {source: state.keys for source, state in self._states.items()}

    @property
    def states(self) -> Mapping[KeySource, SourceState]:
        """What is known of each address, for those who watch the server."""
        return dict(self._states)

    def follow(self, sources: Collection[KeySource]) -> Mapping[KeySource, KeySet]:
        """Follow these addresses and no others, and return the keys in hand."""
        known = {_place(source): state for source, state in self._states.items()}
        for source in self._states.keys() - set(sources):
            self._tasks.pop(source).cancel()
            del self._states[source]
        for source in set(sources) - self._states.keys():
            self._states[source] = _inherited(known.get(_place(source)), source)
            self._tasks[source] = asyncio.create_task(self._follow(source))
        return self.found

    def ask_again(self) -> None:
        """Ask the addresses soon: somebody showed a key that is not known, and it may be new."""
        now = self._timer()
        if now < self._wished_at + WISH_SECONDS:
            return
        self._wished_at = now
        for state in self._states.values():
            state.due_at = min(state.due_at, max(now, state.asked_at + UNKNOWN_KEY_SECONDS))

    async def _follow(self, source: KeySource) -> None:
        while True:
            await self.look(source)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, source: KeySource) -> None:
        """Look once at an address that is followed, and ask it if it is time."""
        state, now = self._states[source], self._clock()
        if self._timer() < state.due_at:
            return
        state.asked_at = self._timer()
        state.due_at = math.inf  # an unknown key that is shown meanwhile asks for the answer after this one
        try:
            self._heard(source, state, await self._fetch(source), now)
        except Exception as error:  # noqa: BLE001  whatever an address makes of it, the others are followed on
            self._failed(source, state, error)

    def _heard(self, source: KeySource, state: SourceState, answer: Answer, now: float) -> None:
        is_news = state.told or state.heard_at is None or state.keys.digest != answer.digest
        state.keys = KeySet(answer.keys, now + source.max_stale_seconds, answer.digest)
        state.heard_at, state.errors, state.told = now, 0, ""
        _make_due(state, state.asked_at + _refresh_seconds(answer.max_age_seconds, source.max_stale_seconds))
        self._publish(self.found)
        if is_news:
            _LOG.info("keys of %s: %d in use", _host(source), len(answer.keys))

    def _failed(self, source: KeySource, state: SourceState, error: Exception) -> None:
        step = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(state.errors, 10))
        _make_due(state, self._timer() + step * (1 + self._jitter()) / 2)
        state.errors += 1
        what_stays = _IN_HAND if self._clock() <= state.keys.usable_until else _NONE_COUNT
        if what_stays != state.told:
            state.told = what_stays
            problem = str(error) if isinstance(error, KeyFetchError) else type(error).__name__
            _LOG.error("keys of %s cannot be fetched, %s: %s", _host(source), what_stays, problem)


def _make_due(state: SourceState, at: float) -> None:
    """Ask again then, or sooner where somebody wishes it."""
    state.due_at = min(state.due_at, at)


def _fetching() -> Fetch:
    """Return what fetches over the network. The certificates of CAs are loaded with the first address, not without any."""
    tls: list[ssl.SSLContext] = []

    async def fetch(source: KeySource) -> Answer:
        if not tls:
            tls.append(await asyncio.to_thread(httpx.create_ssl_context))
        return await fetch_keys(source, tls[0])

    return fetch


def _refresh_seconds(max_age_seconds: int | None, max_stale_seconds: int) -> float:
    fresh = USUAL_FRESH_SECONDS if max_age_seconds is None else max_age_seconds
    return REFRESH_AT * min(max(fresh, MIN_FRESH_SECONDS), MAX_FRESH_SECONDS, max_stale_seconds)


def _place(source: KeySource) -> KeySource:
    """Return a source without what a policy says about the time that its keys count."""
    return source._replace(max_stale_seconds=0)


def _inherited(known: SourceState | None, source: KeySource) -> SourceState:
    """Return the state of a new source: the keys of one that differs in time alone stay in hand."""
    if known is None or known.heard_at is None:
        return SourceState()
    keys = known.keys._replace(usable_until=known.heard_at + source.max_stale_seconds)
    return SourceState(keys, known.heard_at, known.asked_at, told=known.told)


def _host(source: KeySource) -> str:
    return urlsplit(source.url).hostname or ""
