"""One running demo world for all tests of a module: seventeen processes take seconds to start."""

from collections.abc import AsyncIterator

import pytest_asyncio
from support.authorizers import DEFAULT_POLICY

from ext_authz.local.demo.world import World, running_world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """Everything that `ext-authz demo` starts."""
    async with running_world(DEFAULT_POLICY) as running:
        yield running
