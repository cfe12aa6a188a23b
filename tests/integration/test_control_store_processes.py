"""One control store, several processes: writers at once, a writer that is killed, a server that follows."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ext_authz.server.control import ControlWatcher
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind
from ext_authz.stores.snapshot import ControlSnapshot

NOW = 1_795_299_009.5
PROCESSES = 4
CHAINS = 200
PREAMBLE = """
import sys
from pathlib import Path
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind
path, now = Path(sys.argv[1]), float(sys.argv[2])
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start(path: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that runs a script around the store."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, path, str(NOW), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def run_at_once(path: Path, script: str, processes: int = PROCESSES) -> list[str]:
    """Run a script in several processes that begin together, and return what each printed."""
    started = [start(path, script, str(number)) for number in range(processes)]
    for process in started:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in started:  # communicate() would wait for the first one's end
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate()[0] for process in started]
    assert [0] * processes == [process.returncode for process in started]
    return printed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "control.db"
    ControlStore.open(path, create=True).close()
    return path


def test_a_chain_is_used_by_one_process(path: Path) -> None:
    """Of four processes that use each of 200 one-time chains, exactly one gets it."""
    script = f"""
store = ControlStore.open(path)
ready()
for chain in range({CHAINS}):
    if store.consume_once("root_of_the_chain", f"leaf_of_chain_{{chain:04}}", now + 60):
        print(chain)
"""
    winners = [int(line) for printed in run_at_once(path, script) for line in printed.split()]
    assert list(range(CHAINS)) == sorted(winners)


def test_writers_at_once(path: Path) -> None:
    """Entries that two processes write at once are all there, while a third one reads."""
    script = """
store = ControlStore.open(path)
ready()
for number in range(50):
    store.add(Entry.new(Kind.SUBJECT, f"user:{sys.argv[3]}-{number}", now))
    assert store.snapshot(now).revocations.subjects.keys() >= {f"user:{sys.argv[3]}-{number}"}
"""
    run_at_once(path, script, processes=2)
    with ControlStore.open(path) as store:
        assert {f"user:{process}-{n}" for process in range(2) for n in range(50)} == set(
            store.snapshot(NOW).revocations.subjects
        )


def test_processes_that_make_the_file_at_once(tmp_path: Path) -> None:
    """Four servers that start together share one file, and what each writes into it stays."""
    script = """
ready()
store = ControlStore.open(path, create=True)
store.add(Entry.new(Kind.SUBJECT, f"user:{sys.argv[3]}", now))
"""
    path = tmp_path / "new" / "control.db"
    run_at_once(path, script)
    with ControlStore.open(path) as store:
        assert {f"user:{process}" for process in range(PROCESSES)} == set(store.snapshot(NOW).revocations.subjects)
    assert [path] == list(path.parent.iterdir())


def test_a_writer_that_is_killed(path: Path) -> None:
    """What a killed process had not finished is not there, what it had finished is, and others go on."""
    script = """
store = ControlStore.open(path)
store.add(Entry.new(Kind.SUBJECT, "user:finished", now))
with store._database.writing() as connection:
    connection.execute("PRAGMA cache_size = 10")  # so that unfinished pages reach the disk
    for number in range(5000):
        store._put(connection, Entry.new(Kind.SUBJECT, f"user:{number}", now))
    assert path.with_name("control.db-wal").stat().st_size > 100_000
    ready()
"""
    writer = start(path, script)
    assert writer.stdout is not None
    assert "ready\n" == writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()

    with ControlStore.open(path) as store:
        assert {"user:finished"} == set(store.snapshot(NOW).revocations.subjects)
        store.add(Entry.new(Kind.SUBJECT, "user:later", NOW))
        with store._database.reading() as connection:
            assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    with ControlStore.open(path) as store:
        assert {"user:finished", "user:later"} == set(store.snapshot(NOW).revocations.subjects)


async def test_a_server_follows_within_a_second(path: Path) -> None:
    """From the moment at which another process is told that an entry is written, a server takes less than a second."""
    published: list[tuple[float, ControlSnapshot]] = []
    last_came = asyncio.Event()

    def publish(changed: ControlSnapshot) -> None:
        published.append((time.monotonic(), changed))
        if len(changed.revocations.subjects) == 3:
            last_came.set()

    store = ControlStore.open(path)
    watcher = ControlWatcher(store, store.snapshot(NOW), publish)
    watching = asyncio.create_task(watcher.watch())
    script = """
import time
store = ControlStore.open(path)
ready()
for number in range(3):
    store.add(Entry.new(Kind.SUBJECT, f"user:{number}", time.time()))
    print(time.monotonic(), flush=True)
    time.sleep(0.4)
"""
    printed = await asyncio.to_thread(run_at_once, path, script, 1)
    await asyncio.wait_for(last_came.wait(), 10)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    store.close()

    written = [float(line) for line in printed[0].split()]
    delays = [seen - told for told, (seen, _) in zip(written, published, strict=True)]
    assert all(delay < 1 for delay in delays), delays
    assert [1, 2, 3] == [len(changed.revocations.subjects) for _, changed in published]
    assert watcher.age_seconds < 1


async def test_an_entry_of_another_moment_is_not_lost(path: Path) -> None:
    """A change between the reading at start and the first look is seen."""
    store = ControlStore.open(path)
    snapshot = store.snapshot(NOW)
    with ControlStore.open(path) as operator:
        operator.add(Entry.new(Kind.QUARANTINE, "spiffe://agents.example.com/planner-agent", NOW))
    published: list[ControlSnapshot] = []
    watcher = ControlWatcher(store, snapshot, published.append, clock=lambda: NOW)
    await watcher.look()
    store.close()
    assert [1] == [len(changed.quarantined) for changed in published]
