"""A policy that changes while the server starts: after it was read, and before anybody watches."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.authorizers import default_snapshot, new_authorizer

from ext_authz.audit.event import Announcer
from ext_authz.policy.compile import load
from ext_authz.server.file_watch import directory_changes, directory_stamps
from ext_authz.server.keys import following_keys
from ext_authz.server.reload import PolicyReloader

POLICY = """
kind: PermissionMatrix
trust_domain: agents.example.com
matrix: {a: {b: [read]}}
---
kind: ActionRegistry
actions: {read: {asserted: true}}
"""
SECONDS = 10


@pytest.mark.parametrize("name", ["policy.yaml", "more.yaml"])
async def test_change_before_the_watch(tmp_path: Path, name: str) -> None:
    """A file that was changed or added between loading and watching is read once the watch stands."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    before = directory_stamps(tmp_path)
    policy = load(tmp_path)
    authorizer, _ = new_authorizer(replace(default_snapshot(), policy=policy))
    with (tmp_path / name).open("a") as file:
        file.write("---\nkind: PermissionMatrix\nmatrix: {b: {a: [read]}}\n")
    reloaded = asyncio.Event()

    async def told(_: bool) -> None:  # noqa: FBT001
        reloaded.set()

    async with following_keys(authorizer) as keys, asyncio.timeout(SECONDS):
        announcer = Announcer(lambda _: True)
        reloader = PolicyReloader(tmp_path, authorizer, keys, announcer=announcer, told=told, before=before)
        watching = asyncio.create_task(reloader.watch())
        await reloaded.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert 2 == authorizer.snapshot.policy.grant_count


async def test_nothing_changed_meanwhile(tmp_path: Path) -> None:
    """Where nothing changed since the directory was read, the first thing a watch says is that; then it tells each change once."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    async with asyncio.timeout(SECONDS):
        changes = directory_changes(tmp_path, before=directory_stamps(tmp_path), every=100)
        assert not await anext(changes)
        (tmp_path / "policy.yaml").write_text(f"{POLICY}# changed\n")
        while not await anext(changes):
            pass
        assert not await anext(changes)
        await changes.aclose()
