"""Audit JSON lines read back: what is damaged is counted and named, and never ends the reading."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.authorizers import NOW
from support.check_requests import QUESTION, agent
from support.delegated_policies import calling, delegated_snapshot
from support.delegations import PLANNER, SESSION, STS, USER, world
from support.recorded import recorded

from ext_authz.errors import Reason
from ext_authz.review.records import MAX_LINE_BYTES, RecordedDecision, RecordFile


def lines_of(directory: Path) -> list[bytes]:
    """Return the lines of two records: without a chain and with one."""
    file = directory / "written.jsonl"
    file.unlink(missing_ok=True)
    recorded(file, [QUESTION])
    recorded(file, [calling(world().root())], delegated_snapshot())
    return file.read_bytes().splitlines(keepends=True)


def read(path: Path, content: bytes) -> tuple[list[RecordedDecision], list[str]]:
    """Return the decisions of a file, and what it says of the other lines."""
    path.write_bytes(content)
    file = RecordFile(path)
    return list(file), list(map(str, file.flaws))


def test_reads_what_was_written(tmp_path: Path) -> None:
    """A record comes back with who, whom, what, why, when, and the authority of its chain."""
    (plain, chained), flaws = read(tmp_path / "a", b"".join(lines_of(tmp_path)))
    assert [] == flaws
    assert (1, Reason.ALLOWED, NOW) == (plain.line, plain.reason, plain.decided_at)
    assert (agent("planner-agent"), agent("retrieval-agent"), "search") == (plain.caller, plain.target, plain.action)
    assert ("POST", "/v1/search", True, None) == (plain.method, plain.path, plain.caller_verified, plain.delegation)
    assert "matrix.yaml:11 planner-agent -> retrieval-agent: search" == plain.rule
    assert chained.delegation is not None
    assert (USER, SESSION, 1) == (*chained.delegation[:2], chained.delegation.hops)
    assert ((PLANNER,), STS) == (chained.delegation.actors, chained.delegation.root_issuer)


def test_damaged_lines(tmp_path: Path) -> None:
    """Each kind of line that is no record is counted with its first line; the records around it are read."""
    first, second = lines_of(tmp_path)
    damaged: dict[str, Any] = json.loads(second)
    del damaged["attributes"]["ext_authz.hops"]
    lines = [
        b"\n",
        first,
        b"null\n",
        b'{"name": "other.span", "attributes": {}}\n',
        b'{"name": "a2a.policy.decision", "attributes": []}\n',
        json.dumps(damaged).encode() + b"\n",
        b"x" * (3 * MAX_LINE_BYTES) + b"\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        first.rstrip().ljust(MAX_LINE_BYTES) + b"\n",
        second,
        first[:40],
    ]
    found, flaws = read(tmp_path / "a", b"".join(lines))
    assert [2, 11, 12] == [record.line for record in found]
    assert [
        "3: the line is no record of a decision (3 lines in all)",
        "6: the line lacks what every record of a decision has",
        f"7: the line has more than {MAX_LINE_BYTES} bytes",
        "8: the line is not JSON (3 lines in all)",
        "13: the line is cut short",
    ] == flaws


WRONG: list[Any] = [
    *("x", "", 5, None, True, [], {}, 1.5, ["a", 5], 10**400, "2026-01-01T00:00:00", "spiffe://a", "allowed"),
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever stands in a member, and wherever a line is cut, the next record is read."""
    directory = tmp_path_factory.getbasetemp()
    first, second = _written(directory)
    line = data.draw(st.sampled_from([first, second]))
    if data.draw(st.booleans()):
        value = json.loads(line)
        members = data.draw(st.sampled_from([value, value["attributes"]]))
        members[data.draw(st.sampled_from(sorted(members)))] = data.draw(st.sampled_from(WRONG))
        line = json.dumps(value).encode() + b"\n"
    else:
        at = data.draw(st.integers(0, len(line) - 1))
        line = line[:at] + data.draw(st.binary(max_size=4)).replace(b"\n", b"") + line[at + 1 :].rstrip() + b"\n"
    found, flaws = read(directory / "any", line + first)
    assert _written(directory)[0] == first
    assert json.loads(first)["attributes"]["ext_authz.decision_id"] == found[-1].decision_id
    assert len(found) + len(flaws) in (1, 2)


_WRITTEN: list[bytes] = []


def _written(directory: Path) -> list[bytes]:
    if not _WRITTEN:
        _WRITTEN.extend(lines_of(directory))
    return _WRITTEN


def test_memory_is_that_of_one_line(tmp_path: Path) -> None:
    """A line of 200 MB, and a file of many, are read without being held."""
    path = tmp_path / "large"
    [first, _] = lines_of(tmp_path)
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + first)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file_of_records = RecordFile(path)
    assert 1 == len(list(file_of_records))
    assert 20_000 > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes on Linux
    assert [f"1: the line has more than {MAX_LINE_BYTES} bytes"] == list(map(str, file_of_records.flaws))


def test_file_may_be_read_twice(tmp_path: Path) -> None:
    """Flaws are those of the last reading."""
    path = tmp_path / "a"
    path.write_bytes(b"x\n" + lines_of(tmp_path)[0])
    file = RecordFile(path)
    for _ in range(2):
        assert 1 == len(list(file))
    assert ["1: the line is not JSON"] == list(map(str, file.flaws))
