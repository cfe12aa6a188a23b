"""Keys from addresses in a running server: what is fetched is in force with the next decision."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from ext_authz.authorizer import Authorizer, Observer
from ext_authz.decision.model import Decision
from ext_authz.errors import Reason
from ext_authz.server.key_fetcher import KeyFetcher, Publish
from ext_authz.tokens.keys import KeySet, KeySource

# Refusals that a key which is too new for us can cause.
UNKNOWN_KEY_REASONS = frozenset({Reason.TOKEN_KEY, Reason.OIDC_SIGNATURE})


@asynccontextmanager
async def following_keys(authorizer: Authorizer) -> AsyncIterator[KeyFetcher]:
    """Keep the authorizer's policy supplied with the keys that its addresses hold. Nothing is waited for."""
    async with KeyFetcher(supplying(authorizer)) as fetcher:
        authorizer.observers = (*authorizer.observers, asking_again(fetcher))
        fetcher.follow(authorizer.snapshot.policy.key_sources)
        yield fetcher


def supplying(authorizer: Authorizer) -> Publish:
    """Return what puts keys in force: decisions that began before go on with those that they began with."""

    def publish(found: Mapping[KeySource, KeySet]) -> None:
        snapshot = authorizer.snapshot
        authorizer.snapshot = replace(snapshot, policy=snapshot.policy.with_keys(found))

    return publish


def asking_again(fetcher: KeyFetcher) -> Observer:
    """Return the observer that has keys fetched when somebody showed one that is not known."""

    def observe(decision: Decision) -> None:
        if decision.reason in UNKNOWN_KEY_REASONS:
            fetcher.ask_again()

    return observe
