"""The admin application: entries in, entries out, and every problem named."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ext_authz.admin.app import MAX_BODY_BYTES, controls_app
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind

NOW = 1_795_299_009.0
SESSION = "3kTMd5vPqXzWnL2aYcR8ug"
AGENT = "spiffe://agents.example.com/planner-agent"


@dataclass
class Admin:
    """The application, and how often it let the server look at the store."""

    store: ControlStore
    looks: int = 0
    can_be_read: bool = True

    async def look(self) -> bool:
        self.looks += 1
        return self.can_be_read

    async def send(self, line: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a request; `body` is JSON, or bytes as they are."""
        method, path = line.split(" ")
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if body is not None else {}
        transport = httpx.ASGITransport(
            app=controls_app(self.store, self.look, lambda: NOW), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return await client.request(method, path, content=content, headers=headers | options.get("headers", {}))

    async def problems(self, line: str, body: Any = None, **options: Any) -> tuple[int, list[str]]:
        """Return status and problems of a refusal."""
        response = await self.send(line, body, **options)
        document = response.json()
        assert "application/problem+json" == response.headers["content-type"]
        assert (response.status_code, "; ".join(document["problems"])) == (document["status"], document["detail"])
        return response.status_code, document["problems"]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with ControlStore.open(tmp_path / "control" / "control.db", create=True) as store:
        yield Admin(store)


async def test_revoked_and_lifted(admin: Admin) -> None:
    """An entry is written, listed, in force when it is answered, and lifted again."""
    added = await admin.send("POST /v1/controls", {"kind": "sid", "value": SESSION, "because": "INC-4711"})
    assert (201, 1) == (added.status_code, admin.looks)
    assert {"kind": "sid", "value": SESSION, "because": "INC-4711", "mark_at": None}.items() <= added.json().items()
    assert [Entry.new(Kind.SESSION_ID, SESSION, NOW, because="INC-4711")] == admin.store.entries()
    assert [added.json()] == (await admin.send("GET /v1/controls")).json()["entries"]
    lifted = await admin.send(f"DELETE /v1/controls/sid/{SESSION}")
    assert (200, True, 2) == (lifted.status_code, lifted.json()["lifted"], admin.looks)
    assert "2026-11-21T22:10:09Z" == (await admin.send("GET /v1/controls")).json()["entries"][0]["lifted_at"]
    assert (404, ["it is not in force"]) == await admin.problems(f"DELETE /v1/controls/sid/{SESSION}")


async def test_marks_and_ends(admin: Admin) -> None:
    """Times are those of the command line: a moment, and a span from now."""
    workload = {"kind": "workload", "value": AGENT, "mark_at": "2026-11-21T22:00:00Z"}
    quarantined = {"kind": "quarantine", "value": AGENT, "keep_for": "1h"}
    for body in (workload, quarantined):
        assert 201 == (await admin.send("POST /v1/controls", body)).status_code
    entries = {entry.kind: entry for entry in admin.store.entries()}
    assert (NOW - 609, math.inf) == (entries[Kind.WORKLOAD].mark_at, entries[Kind.WORKLOAD].keep_until)
    assert NOW + 3600 == entries[Kind.QUARANTINE].keep_until


@pytest.mark.parametrize("path", [AGENT, AGENT.replace("/", "%2F").replace(":", "%3A")])
async def test_spiffe_id_in_the_path(admin: Admin, path: str) -> None:
    """A SPIFFE ID stands in the path as it is, or encoded."""
    await admin.send("POST /v1/controls", {"kind": "quarantine", "value": AGENT})
    assert 200 == (await admin.send(f"DELETE /v1/controls/quarantine/{path}")).status_code


async def test_writing_again_never_weakens(admin: Admin) -> None:
    """The answer is what is in force, which is the longer of two."""
    for span in ("2h", "1h"):
        answer = await admin.send("POST /v1/controls", {"kind": "quarantine", "value": AGENT, "keep_for": span})
    assert "2026-11-22T00:10:09Z" == answer.json()["keep_until"]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, ["kind: missing", "value: missing"]),
        ({"kind": "sid"}, ["value: missing"]),
        ({"kind": "sid", "value": "short"}, ["sid: an id has 16 to 64 letters, digits, - and _"]),
        ({"kind": "sid", "value": 7}, ["value: expected text"]),
        ({"kind": "sid", "value": None}, ["value: expected text"]),
        (
            {"kind": "kind", "value": 1, "mark_at": "noon", "keep_for": "soon", "because": "a\u2028b", "until": "then"},
            [
                "until: no such member, expected kind, value, mark_at, keep_for, because",
                "kind: expected jti, sid, kid, certificate, subject, workload, quarantine",
                "value: expected text",
                "mark_at: expected Unix seconds, or a time with its zone such as 2026-11-22T12:00:00Z",
                "keep_for: expected a number and s, m, h or d, such as 1h",
                "because: a reason has at most 200 characters, all of them printable",
            ],
        ),
        (
            {"kind": "sid", "value": SESSION, "mark_at": "2026-11-21T22:00:00Z"},
            ["sid: a sid is revoked as a whole: it has no mark in time"],
        ),
        (
            {"kind": "workload", "value": AGENT, "mark_at": "2026-11-22T22:00:00Z"},
            ["workload: a mark lies in the past: to stop what comes later, use quarantine"],
        ),
        (
            {"kind": "sid", "value": SESSION, "two words": "x"},
            ["a member: no such member, expected kind, value, mark_at, keep_for, because"],
        ),
    ],
    ids=str,
)
async def test_wrong_entry(admin: Admin, body: dict[str, Any], problems: list[str]) -> None:
    """Every problem of an entry is named at once, and nothing is written."""
    assert (400, problems) == await admin.problems("POST /v1/controls", body)
    assert ([], 0) == (admin.store.entries(), admin.looks)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"x"',
        b'{"kind": "sid", "kind": "jti"}',
        b'{"kind": 1.5}',
        b"\xff",
        b'{"a":{"b":{"c":{"d":{}}}}}',
    ],
    ids=repr,
)
async def test_body_that_is_no_object(admin: Admin, body: bytes) -> None:
    """A body is one strict JSON object."""
    status, (problem,) = await admin.problems("POST /v1/controls", body)
    assert (400, True) == (status, problem.startswith("the body is no entry: "))


async def test_body_too_large(admin: Admin) -> None:
    """A body is read up to its bound."""
    body = json.dumps({"kind": "sid", "value": SESSION}).encode()
    fits = body + b" " * (MAX_BODY_BYTES - len(body))
    assert [201, 413] == [(await admin.send("POST /v1/controls", each)).status_code for each in (fits, fits + b" ")]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /", 404),
        ("GET /v1/controls/sid/x", 405),
        ("PUT /v1/controls", 405),
        ("DELETE /v1/controls/sid/short", 400),
        (f"DELETE /v1/controls/session/{SESSION}", 404),
        (f"DELETE /v1/controls/sid/{SESSION}", 404),
    ],
)
async def test_other_requests(admin: Admin, line: str, status: int) -> None:
    """What is not served is a problem document too."""
    assert status == (await admin.problems(line))[0]


async def test_content_type(admin: Admin) -> None:
    """A form, as any web page could send it, is no entry."""
    body = {"kind": "sid", "value": SESSION}
    assert 415 == (await admin.problems("POST /v1/controls", body, headers={"content-type": "text/plain"}))[0]


async def test_change_that_is_not_in_force(admin: Admin) -> None:
    """When the server cannot read what was written, the answer says so and is no success."""
    admin.can_be_read = False
    status, (problem,) = await admin.problems("POST /v1/controls", {"kind": "sid", "value": SESSION})
    assert (503, True, 1) == (status, problem.startswith("written, and not in force"), len(admin.store.entries()))


async def test_store_that_is_gone(admin: Admin, tmp_path: Path) -> None:
    """A store that cannot be used is our fault, and is said."""
    for file in (tmp_path / "control").iterdir():
        file.unlink()
    for line, body in (("GET /v1/controls", None), ("POST /v1/controls", {"kind": "sid", "value": SESSION})):
        status, (problem,) = await admin.problems(line, body)
        assert (503, True) == (status, "no such file" in problem)


async def test_fault_inside(admin: Admin, caplog: pytest.LogCaptureFixture) -> None:
    """What fails inside is a problem document that says nothing of it, and a line in the log with type and place."""
    admin.store.entries = None  # type: ignore[method-assign,assignment]
    assert 500 == (await admin.problems("GET /v1/controls"))[0]
    assert "an admin request failed inside: TypeError" in caplog.text
