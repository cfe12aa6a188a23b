"""Every call of the demo through real sidecars, and what the authorization server records of it."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from ext_authz.local.demo.calls import CALLS, PLANNER, RETRIEVAL, Ask, Call, call_of_tool, make_call, through
from ext_authz.local.demo.world import AGENTS, World, spiffe_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SEARCH = through(PLANNER, Ask(RETRIEVAL, "POST /v1/search", body=b'{"query": "revenue"}'))
_OUTAGE_SECONDS = 1.0


def _records(path: Path) -> dict[str, dict[str, object]]:
    """Return the attributes of all records by decision id."""
    attributes = [json.loads(line)["attributes"] for line in path.read_text().splitlines()]
    return {each["ext_authz.decision_id"]: each for each in attributes}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.what)
async def test_demo_call(world: World, call: Call) -> None:
    """Each call of the demo gets the status and the reason that the demo promises."""
    row = await make_call(call, world)

    assert call.expected == row.got


async def test_demo_covers_what_was_promised() -> None:
    """The demo makes at least sixteen calls, between at least six agents."""
    assert len(CALLS) >= 16
    assert len({agent for call in CALLS for agent in (call.caller, call.target) if agent.endswith("-agent")}) >= 6


async def test_call_of_a_tool_is_recorded(world: World) -> None:
    """An MCP call is answered in JSON-RPC, allowed or not, and its record names the method and the tool."""
    allowed = (await through(RETRIEVAL, call_of_tool("recall"))(world)).json()
    denied = (await through(RETRIEVAL, call_of_tool("forget"))(world)).json()
    await asyncio.sleep(0.3)
    records = _records(world.audit_file)

    assert "recall" == allowed["result"]["action"]
    assert "action_unregistered" == denied["error"]["data"]["reason"]
    for answer, tool in ((allowed["result"], "recall"), (denied["error"]["data"], "forget")):
        record = records[answer["decision_id"]]
        assert ("tools/call", tool) == (record["ext_authz.rpc_method"], record["ext_authz.tool"])


async def test_writes_to_the_vector_store_are_for_its_writer(world: World) -> None:
    """Who reads the store writes nothing in it, whatever it says in a header."""
    claims = {"x-authz-subject": spiffe_id("ingest-agent").uri, "x-agent-action": "vector.delete"}
    ask = Ask("vector-store-agent", "POST /collections/papers/points/delete", claims, b'{"points": [7]}')

    response = await through(RETRIEVAL, ask)(world)

    assert (403, "not_in_matrix") == (response.status_code, response.json()["reason"])


async def test_allow_is_recorded_under_the_id_that_the_agent_saw(world: World) -> None:
    """The decision id that reaches the agent is the one of the audit record, and so is the subject."""
    answer = (await _SEARCH(world)).json()
    await asyncio.sleep(0.3)

    record = _records(world.audit_file)[answer["decision_id"]]

    assert spiffe_id(PLANNER).uri == answer["subject"] == record["agent.caller"]
    assert spiffe_id(RETRIEVAL).uri == record["agent.target"]
    assert record["agent.action"] == "search"


async def test_denial_names_its_decision(world: World) -> None:
    """A denied caller learns reason and decision id, and Envoy's access log carries both."""
    response = await through(PLANNER, Ask("database-agent", "GET /records/42"))(world)
    problem = response.json()
    await asyncio.sleep(0.3)

    lines = [json.loads(line) for line in (world.directory / "database-agent-access.jsonl").read_text().splitlines()]
    logged = [line for line in lines if problem["decision_id"] in line.values()]

    assert response.headers["content-type"] == "application/problem+json"
    assert problem["reason"] == "not_in_matrix"
    assert len(logged) == 1
    assert "not_in_matrix" in logged[0].values()
    assert _records(world.audit_file)[problem["decision_id"]]["ext_authz.reason"] == "not_in_matrix"


async def test_frozen_server_is_an_outage(world: World) -> None:
    """A server that hangs is 503 after the sidecar's timeout, never an allow and never 403, and it recovers."""
    server = world.authorization_server
    assert server is not None
    server.send_signal(signal.SIGSTOP)
    try:
        frozen = await _SEARCH(world)
    finally:
        server.send_signal(signal.SIGCONT)
    await asyncio.sleep(_OUTAGE_SECONDS)

    assert frozen.status_code == 503
    assert (await _SEARCH(world)).status_code == 200


async def test_no_secret_bundle_was_rejected(world: World) -> None:
    """Every sidecar took the identity that it was given: Envoy rejected no update."""
    admins = sorted(world.directory.glob("*.adm"))
    assert 2 * len(AGENTS) + 1 == len(admins)
    for admin in admins:
        transport = httpx.AsyncHTTPTransport(uds=str(admin))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            stats = (await client.get("/stats", params={"filter": "update_rejected"})).text
        assert stats, "no such statistic: the sidecar takes nothing from SDS"
        assert [] == [line for line in stats.splitlines() if not line.endswith(": 0")]


async def test_exchange_is_recorded(world: World) -> None:
    """The exchange of an agent without a key leaves a line with its client, as the real sidecar named it, and its user."""
    lines = (world.directory / "exchanges.jsonl").read_text().splitlines()
    records = [json.loads(line)["attributes"] for line in lines]
    issued = [record for record in records if record["exchange.outcome"] == "issued"]
    assert issued
    assert {(spiffe_id(RETRIEVAL).uri, "user:alice", "append")} == {
        (record["agent.caller"], record["ext_authz.on_behalf_of"], record["exchange.mode"]) for record in issued
    }


async def test_burst_is_decided_one_by_one(world: World) -> None:
    """Under a burst every request gets its own decision and its own record."""
    answers = await asyncio.gather(*(_SEARCH(world) for _ in range(40)))
    await asyncio.sleep(0.3)
    ids = {answer.json()["decision_id"] for answer in answers}

    assert {200} == {answer.status_code for answer in answers}
    assert len(ids) == 40
    assert ids <= _records(world.audit_file).keys()
