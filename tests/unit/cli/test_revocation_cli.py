"""`ext-authz token revoke` and `ext-authz quarantine`."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from ext_authz.cli.revocation import quarantine, revoke
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind
from ext_authz.times import format_moment

POLICIES = Path(__file__).parents[3] / "policies" / "default"
AGENT = "spiffe://agents.example.com/planner-agent"
ID = "3kTMd5vPqXzWnL2aYcR8ug"
OTHER_ID = "b1Qe7ZxTnVkLw0sUjH4yCg"

app = typer.Typer()
app.command()(revoke)
app.command()(quarantine)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlStore]:
    """Return a server's store; the commands find it by their environment."""
    monkeypatch.setenv("EXT_AUTHZ_CONTROL_STORE", str(path))
    monkeypatch.delenv("EXT_AUTHZ_POLICIES", raising=False)
    with ControlStore.open(path, create=True) as opened:
        yield opened


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def in_force(store: ControlStore) -> list[tuple[Kind, str]]:
    return [(entry.kind, entry.value) for entry in store.entries() if entry.is_in_force(time.time())]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--jti", ID, (Kind.TOKEN_ID, ID)),
        ("--sid", ID, (Kind.SESSION_ID, ID)),
        ("--kid", "sts-2026-11", (Kind.KEY_ID, "sts-2026-11")),
        ("--certificate", "ab" * 32, (Kind.CERTIFICATE, "ab" * 32)),
        ("--certificate", ":".join(["AB"] * 32), (Kind.CERTIFICATE, "ab" * 32)),
        ("--subject", "user:4711", (Kind.SUBJECT, "user:4711")),
        ("--workload", AGENT, (Kind.WORKLOAD, AGENT)),
    ],
)
def test_revoke(store: ControlStore, option: str, value: str, expected: tuple[Kind, str]) -> None:
    """Each option puts its kind of entry into force, and the answer says until when."""
    result = run("revoke", option, value)
    assert (0, [expected]) == (result.exit_code, in_force(store))
    assert f"{expected[0]} {expected[1]}" in result.stdout
    assert "revoked, kept until " in result.stdout


def test_revoke_many(store: ControlStore) -> None:
    """One call revokes whatever it names, with one reason."""
    result = run("revoke", "--jti", ID, "--jti", OTHER_ID, "--subject", "user:1", "--because", "INC-4711")
    assert (0, 3) == (result.exit_code, result.stdout.count("because INC-4711"))
    assert {(Kind.TOKEN_ID, ID), (Kind.TOKEN_ID, OTHER_ID), (Kind.SUBJECT, "user:1")} == set(in_force(store))


def test_revoke_is_all_or_nothing(store: ControlStore) -> None:
    """When one value is wrong, all problems are told and nothing is revoked."""
    result = run("revoke", "--jti", ID, "--sid", "short", "--kid", "a b")
    assert (2, []) == (result.exit_code, in_force(store))
    assert ["sid `short`: ", "kid `a b`: "] == [line[: line.index(": ") + 2] for line in result.stderr.splitlines()]


def test_revoke_at(store: ControlStore) -> None:
    """A mark in time is kept, and told."""
    mark = int(time.time()) - 600
    (entry,) = run_json("revoke", "--workload", AGENT, "--at", str(mark))["entries"]
    assert [mark] == [entry.mark_at for entry in store.entries()]
    assert (None, f"{mark % 60:02}Z") == (entry["keep_until"], entry["mark_at"][-3:])


def test_revoke_keep_for(store: ControlStore) -> None:
    """Somebody may say for how long an entry is kept."""
    run("revoke", "--kid", "sts", "--keep-for", "7d")
    (entry,) = store.entries()
    assert 604_800 == entry.keep_until - entry.created_at


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name what it is about"),
        (["--lift"], "name what it is about"),
        (["--list", "--jti", ID], "name nothing"),
        (["--list", "--lift"], "exclude each other"),
        (["--list", "--because", "x"], "--because: has no meaning with --list"),
        (["--lift", "--jti", ID, "--keep-for", "1h"], "--keep-for: has no meaning with --lift"),
        (["--jti", ID, "--at", "5"], "only --subject and --workload have a mark"),
        (["--subject", "user:1", "--at", "yesterday"], "--at: `yesterday`: expected Unix seconds"),
        (["--subject", "user:1", "--at", "4102444800"], "use quarantine"),
        (["--subject", "user:1", "--at", "5"], "has expired"),
        (["--jti", ID, "--keep-for", "soon"], "--keep-for: `soon`: expected a number and"),
        (["--jti", ID, "--because", "two\nlines"], "printable"),
        (["--workload", "planner-agent"], "`planner-agent`: expected a SPIFFE ID, or a name and --policies"),
        (["--workload", "a b", "--policies", str(POLICIES)], "`a b`: not a SPIFFE ID"),
        (["--workload", "a", "--policies", "nowhere"], "nowhere"),
    ],
)
def test_revoke_usage(store: ControlStore, arguments: list[str], sentence: str) -> None:
    """What is not understood exits with 2, says why, and changes nothing."""
    result = run("revoke", *arguments)
    assert (2, "", []) == (result.exit_code, result.stdout, store.entries())
    assert sentence in result.stderr


@pytest.mark.parametrize(
    "agent", [[AGENT], ["planner-agent", "--policies", str(POLICIES)], ["/planner-agent", "--policies", str(POLICIES)]]
)
def test_quarantine(store: ControlStore, agent: list[str]) -> None:
    """An agent is named by its SPIFFE ID, or as the policy names it."""
    result = run("quarantine", *agent, "--because", "odd queries")
    assert (0, f"in quarantine until it is lifted: {AGENT}, because odd queries\n") == (
        result.exit_code,
        result.stdout,
    )
    assert [Entry(Kind.QUARANTINE, AGENT, None, math.inf, "odd queries", store.entries()[0].created_at)] == (
        store.entries()
    )


def test_quarantine_for_a_while(store: ControlStore) -> None:
    """A quarantine may end by itself."""
    result = run("quarantine", "--session", ID, "--for", "1h")
    (entry,) = store.entries()
    assert (0, 3600, ID) == (result.exit_code, entry.keep_until - entry.created_at, entry.value)


def test_a_session_is_no_name(store: ControlStore) -> None:
    """An argument that looks like a session id is still an agent's name."""
    assert 2 == run("quarantine", ID).exit_code
    assert [] == store.entries()


def test_lift(store: ControlStore) -> None:
    """What is lifted is out of force; what was not in force exits with 1."""
    store.add(Entry.new(Kind.QUARANTINE, AGENT, time.time()), Entry.new(Kind.TOKEN_ID, ID, time.time()))
    assert (0, f"lifted: quarantine {AGENT}\n") == (
        (result := run("quarantine", AGENT, "--lift")).exit_code,
        result.stdout,
    )
    assert (1, f"not in force: quarantine {AGENT}\n") == (
        (again := run("quarantine", AGENT, "--lift")).exit_code,
        again.stdout,
    )
    assert [(Kind.TOKEN_ID, ID)] == in_force(store)


def test_lift_for_programs(store: ControlStore) -> None:
    """Each target says whether it was in force."""
    store.add(Entry.new(Kind.TOKEN_ID, ID, time.time()))
    result = run("revoke", "--lift", "--jti", ID, "--jti", OTHER_ID, "--json")
    expected = [
        {"kind": "jti", "value": ID, "lifted": True},
        {"kind": "jti", "value": OTHER_ID, "lifted": False},
    ]
    assert (1, {"entries": expected}) == (result.exit_code, json.loads(result.stdout))


def test_lists_are_apart(store: ControlStore) -> None:
    """Each command lists its own entries."""
    store.add(Entry.new(Kind.QUARANTINE, AGENT, time.time()), Entry.new(Kind.TOKEN_ID, ID, time.time()))
    assert [[AGENT], [ID]] == [
        [entry["value"] for entry in run_json(command, "--list")["entries"]] for command in ("quarantine", "revoke")
    ]


def test_a_list_tells_what_was_lifted_and_not_what_has_ended(store: ControlStore) -> None:
    """Who comes to the next shift sees what the last one took back."""
    past = time.time() - 60
    store.add(Entry.new(Kind.TOKEN_ID, ID, past), Entry.new(Kind.TOKEN_ID, OTHER_ID, past, keep_seconds=1))
    store.lift(Kind.TOKEN_ID, ID, past + 0.5)
    lifted_at = format_moment(past + 0.5)
    assert f"lifted at {lifted_at}: jti {ID}\n" == run("revoke", "--list").stdout
    assert [lifted_at] == [each["lifted_at"] for each in run_json("revoke", "--list")["entries"]]


def test_an_empty_list(store: ControlStore) -> None:
    """An empty list is an answer."""
    assert [(0, "nothing\n"), (0, '{\n  "entries": []\n}\n')] == [
        (result.exit_code, result.stdout)
        for result in (run("quarantine", "--list"), run("quarantine", "--list", "--json"))
    ]


def test_members_for_programs(store: ControlStore) -> None:
    """Programs read times in RFC 3339, and null where there is none."""
    (entry,) = run_json("quarantine", AGENT)["entries"]
    assert {"kind": "quarantine", "value": AGENT, "mark_at": None, "keep_until": None, "because": ""} == {
        name: value for name, value in entry.items() if name not in {"created_at", "lifted_at"}
    }
    assert (None, "Z") == (entry["lifted_at"], entry["created_at"][-1])


@pytest.mark.parametrize("command", [("revoke", "--jti", ID), ("quarantine", AGENT)])
def test_the_store_is_not_made(path: Path, command: tuple[str, ...]) -> None:
    """A mistyped path is an error: no server would ever look into the new file."""
    result = run(*command, "--store", str(path))
    assert (2, f"{path}: no such file: servers make it when they start\n") == (result.exit_code, result.stderr)
    assert not path.exists()


def test_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store must be named."""
    monkeypatch.delenv("EXT_AUTHZ_CONTROL_STORE", raising=False)
    result = run("quarantine", AGENT)
    assert 2 == result.exit_code
    assert "--store" in result.stderr


@pytest.mark.parametrize("command", ["revoke", "quarantine"])
def test_help_has_examples(command: str) -> None:
    """The help shows calls that can be copied."""
    assert 3 == run(command, "--help").stdout.count("Example: ext-authz")
