"""The control store against a plain dictionary: any order of any operations gives the same."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.stores.control import LIFTED_SECONDS, ControlStore
from ext_authz.stores.entry import KEPT_SECONDS, MARKED, Entry, Kind
from ext_authz.tokens.chain import LEEWAY_SECONDS

START = 1_795_299_009
AGENTS = ("spiffe://agents.example.com/a", "spiffe://agents.example.com/b")
IDS = ("a" * 16, "b" * 16)
VALUES = {
    Kind.TOKEN_ID: IDS,
    Kind.SESSION_ID: IDS,
    Kind.KEY_ID: ("k1", "k2"),
    Kind.CERTIFICATE: ("aa" * 32, "bb" * 32),
    Kind.SUBJECT: ("user:a", "user:b"),
    Kind.WORKLOAD: AGENTS,
    Kind.QUARANTINE: (*AGENTS, *IDS),
}
TARGETS = st.sampled_from([(kind, value) for kind, values in VALUES.items() for value in values])
SPANS = st.sampled_from([1, 29, 30, 31, 3600, LIFTED_SECONDS])


class ControlStoreMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        path = Path(self._directory.name, "control.db")
        self.writer = ControlStore.open(path, create=True)
        self.reader = ControlStore.open(path)
        self.now = float(START)
        self.entries: dict[tuple[Kind, str], Entry] = {}
        self.consumed: dict[tuple[str, str], float] = {}

    def teardown(self) -> None:
        self.writer.close()
        self.reader.close()
        self._directory.cleanup()

    @rule(seconds=SPANS)
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(what=TARGETS, age=st.integers(0, 3600), keep=st.none() | SPANS)
    def add(self, what: tuple[Kind, str], age: int, keep: int | None) -> None:
        kind, value = what
        mark = int(self.now) - age if kind in MARKED else None
        end = self.now + keep if keep else (self.now if mark is None else mark) + KEPT_SECONDS[kind]
        expected = Entry(kind, value, mark, end, "", self.now)
        older = self.entries.get(what)
        if older is not None and older.lifted_at is None and older.keep_until > self.now:
            latest = None if mark is None or older.mark_at is None else max(mark, older.mark_at)
            expected = replace(expected, mark_at=latest, keep_until=max(end, older.keep_until))
        assert [expected] == self.writer.add(Entry.new(kind, value, self.now, mark_at=mark, keep_seconds=keep))
        self.entries[what] = expected

    @rule(what=TARGETS)
    def lift(self, what: tuple[Kind, str]) -> None:
        entry = self.entries.get(what)
        in_force = entry is not None and entry.lifted_at is None and entry.keep_until > self.now
        assert in_force == self.writer.lift(*what, self.now)
        if entry is not None and in_force:
            self.entries[what] = replace(entry, lifted_at=self.now)

    @rule()
    def purge(self) -> None:
        horizon = self.now - LEEWAY_SECONDS
        gone = [
            target
            for target, entry in self.entries.items()
            if entry.keep_until <= horizon or (entry.lifted_at or math.inf) <= self.now - LIFTED_SECONDS
        ]
        forgotten = [use for use, end in self.consumed.items() if end <= horizon]
        assert len(gone) + len(forgotten) == self.writer.purge(self.now)
        for target in gone:
            del self.entries[target]
        for use in forgotten:
            del self.consumed[use]

    @rule(root=st.sampled_from(IDS), leaf=st.sampled_from(IDS), seconds=SPANS)
    def consume(self, root: str, leaf: str, seconds: int) -> None:
        assert ((root, leaf) not in self.consumed) == self.writer.consume_once(root, leaf, self.now + seconds)
        self.consumed.setdefault((root, leaf), self.now + seconds)

    @invariant()
    def lists_what_is_there(self) -> None:
        assert set(self.entries.values()) == set(self.reader.entries())

    @invariant()
    def snapshot_is_what_is_in_force(self) -> None:
        in_force = [each for each in self.entries.values() if each.lifted_at is None and each.keep_until > self.now]

        def values(kind: Kind) -> set[str]:
            return {each.value for each in in_force if each.kind is kind}

        def marks(kind: Kind) -> dict[str, int | None]:
            return {each.value: each.mark_at for each in in_force if each.kind is kind}

        snapshot = self.reader.snapshot(self.now)
        revocations = snapshot.revocations
        assert values(Kind.TOKEN_ID) == revocations.token_ids
        assert values(Kind.SESSION_ID) == revocations.session_ids
        assert values(Kind.KEY_ID) == revocations.key_ids
        assert values(Kind.CERTIFICATE) == {digest.hex() for digest in revocations.certificates}
        assert marks(Kind.SUBJECT) == revocations.subjects
        assert marks(Kind.WORKLOAD) == {workload.uri: mark for workload, mark in revocations.workloads.items()}
        quarantined = {each.value: each.keep_until for each in in_force if each.kind is Kind.QUARANTINE}
        agents = {uri: until for uri, until in quarantined.items() if uri in AGENTS}
        assert agents == {workload.uri: until for workload, until in snapshot.quarantined.items()}
        assert quarantined.keys() - agents.keys() == snapshot.quarantined_sessions.keys()
        assert all(type(workload) is SpiffeId for workload in snapshot.quarantined)


ControlStoreMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestControlStore = ControlStoreMachine.TestCase
