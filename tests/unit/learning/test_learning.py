"""Learning: what counts as an observation, how routes are found, and that a proposal allows what was seen and nothing else."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.authorizers import DEFAULT_POLICY, default_snapshot, new_authorizer
from support.check_requests import QUESTION
from typer.testing import CliRunner, Result

from ext_authz.audit.jsonlines import to_line
from ext_authz.cli.main import app
from ext_authz.documents.loader import load_policy
from ext_authz.identity.names import Names
from ext_authz.learning.observations import MAX_LINE_BYTES, Observations, Request
from ext_authz.learning.proposal import propose
from ext_authz.learning.routes import new_actions
from ext_authz.policy.compile import Policy, compile_policy

TD = "spiffe://agents.example.com"
NAMES = Names("agents.example.com")


def access(path: str = "/records/17", method: str = "GET", **changes: Any) -> dict[str, Any]:
    """Return an entry of an access log."""
    entry = {"peer": f"{TD}/planner", "local": f"{TD}/crm", "method": method, "path": path, "status": 200}
    return entry | changes


def record(**changes: Any) -> dict[str, Any]:
    """Return an audit record of an allowed call; a change to None leaves an attribute out."""
    attributes = {
        "agent.caller": f"{TD}/planner-agent",
        "agent.target": f"{TD}/retrieval-agent",
        "agent.action": "search",
        "ext_authz.reason": "allowed",
        "ext_authz.caller_verified": True,
        "ext_authz.method": "POST",
        "request.path": "/v1/search",
    }
    changed = attributes | {
        name.replace("__", ".").replace("authz_", "ext_authz."): value for name, value in changes.items()
    }
    return {
        "name": "a2a.policy.decision",
        "attributes": {key: value for key, value in changed.items() if value is not None},
    }


def observed(*entries: Any, with_missing: bool = False) -> Observations:
    """Read lines; what is no text is written as JSON."""
    observations = Observations()
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    observations.add(io.BytesIO("".join(f"{line}\n" for line in lines).encode()), with_missing=with_missing)
    return observations


def learn(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["learn", *map(str, arguments)])


REFUSED: dict[str, tuple[str, Any]] = {
    "garbage": ("not_understood", "garbage"),
    "empty line": ("not_understood", ""),
    "list": ("not_understood", "[1]"),
    "deep nesting": ("not_understood", "[" * 50_000),
    "long line": ("not_understood", json.dumps(access()) + " " * MAX_LINE_BYTES),
    "another object": ("not_understood", {"peer": f"{TD}/planner"}),
    "path in two readings": ("not_understood", access("/a/../b")),
    "encoded slash": ("not_understood", access("/a%2fb")),
    "path that is no path": ("not_understood", access("records")),
    "lower-case method": ("not_understood", access(method="get")),
    "method of no letters": ("not_understood", access(method="GET /x")),
    "path that is a number": ("not_understood", access(path=1)),  # type: ignore[arg-type]
    "two names in the certificate": ("without_identity", access(peer=f"{TD}/a,{TD}/b")),
    "no certificate": ("without_identity", access(peer="-")),
    "null": ("without_identity", access(peer=None)),
    "only a trust domain": ("without_identity", access(local=TD)),
    "refused by the workload": ("unsuccessful", access(status=404)),
    "no status": ("unsuccessful", access(status="200")),
    "true as status": ("unsuccessful", access(status=True)),
    "denied": ("unsuccessful", record(authz_reason="denied_by_rule")),
    "not granted": ("unsuccessful", record(authz_reason="not_in_matrix")),
    "only Envoy's word": ("without_identity", record(authz_caller_verified=None)),
    "record without a target": ("without_identity", record(agent__target=None)),
    "record without a path": ("not_understood", record(request__path=None)),
    "record with a list for an action": ("not_understood", record(agent__action=["search"])),
}


@pytest.mark.parametrize(("counter", "entry"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_count(counter: str, entry: Any) -> None:
    """A line that is no successful call between verified workloads is counted as what it is, and teaches nothing."""
    observations = observed(entry)
    assert (1, 1, 0) == (observations.lines, getattr(observations, counter), len(observations.counts))


def test_denied_calls_count_only_when_asked_for() -> None:
    """Calls that no rule granted teach when that is wanted; calls that were refused for what they carried never do."""
    missing = [record(authz_reason="not_in_matrix"), record(authz_reason="action_unregistered", agent__action=None)]
    others = [
        record(authz_reason=reason) for reason in ("denied_by_rule", "injection_detected", "revoked", "token_scope")
    ]
    observations = observed(*missing, *others, with_missing=True)
    assert (2, 4) == (observations.counts.total(), observations.unsuccessful)


def test_reads_the_records_of_this_server(tmp_path: Path) -> None:
    """What the server records of an allowed call is an observation of that call."""
    authorizer, kept = new_authorizer(default_snapshot())
    authorizer.check(QUESTION.serialized())
    observations = observed(to_line(kept.records[0]).decode().strip())
    [request] = observations.counts
    assert QUESTION.caller == request.subject.uri
    assert request.action


def test_no_more_different_requests_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of paths is counted and left out; what is known already still counts."""
    monkeypatch.setattr("ext_authz.learning.observations.MAX_DISTINCT", 2)
    observations = observed(*(access(f"/a{index}") for index in range(5)), access("/a0"))
    assert (2, 3, 3) == (len(observations.counts), observations.beyond_bound, observations.counts.total())


ROUTES: dict[str, tuple[set[tuple[str, str]], list[str]]] = {
    "numbers": ({("records.id.get", "GET /records/{record}")}, ["/records/1", "/records/22"]),
    "list and item": (
        {("records.get", "GET /records"), ("records.id.get", "GET /records/{record}")},
        ["/records", "/records/1"],
    ),
    "a name where values stand": (
        {("records.id.get", "GET /records/{record}"), ("records.id.get", "GET /records/export")},
        ["/records/1", "/records/export"],
    ),
    "two values": ({("a.id.b.id.get", "GET /a/{a}/b/{b}")}, ["/a/1/b/2"]),
    "two values in a row": ({("id.id.get", "GET /{id}/{id_}")}, ["/1/2"]),
    "UUIDs": ({("s.id.get", "GET /s/{id}")}, ["/s/6f1c9d3e-8a2b-4c5d-9e0f-1a2b3c4d5e6f"]),
    "names": ({("v1.search.get", "GET /v1/search"), ("v1.fetch.get", "GET /v1/fetch")}, ["/v1/search", "/v1/fetch"]),
    "root": ({("get", "GET /")}, ["/"]),
    "many names": ({("files.id.get", "GET /files/{file}")}, [f"/files/{chr(97 + index)}x" for index in range(13)]),
    "a long word": (
        {("v1.authentication-methods.get", "GET /v1/authentication-methods")},
        ["/v1/authentication-methods"],
    ),
}


@pytest.mark.parametrize(("expected", "paths"), ROUTES.values(), ids=ROUTES)
def test_routes(expected: set[tuple[str, str]], paths: list[str]) -> None:
    """Identifiers and crowds of names become parameters; routes that one request could fit share an action."""
    assert expected == set(new_actions([("GET", path, "") for path in paths], {}))


def test_new_routes_keep_clear_of_registered_ones() -> None:
    """No new route fits requests of a registered action, and no new action takes its name."""
    entries = {"export.id.get": {"http": ["GET /export/{name}/x"]}, "head": {"http": ["GET /records/head"]}}
    found = new_actions([("GET", "/records/17", ""), ("GET", "/export/9", "")], entries)
    assert [("records.17.get", "GET /records/17"), ("new.export.id.get", "GET /export/{export}")] == found


paths = st.lists(
    st.sampled_from(["records", "export", "17", "9", "a1b2c3d4e5", "v1", "x.y", "no", "files", "A"]),
    min_size=0,
    max_size=4,
).map(lambda segments: "/" + "/".join(segments))
agents = st.sampled_from(["planner", "crm", "no", "ns/tools/sa/x", "A_b"]).map(lambda name: f"{TD}/{name}")
entries = st.builds(
    lambda path, method, peer, local: access(path, method, peer=peer, local=local),
    paths,
    st.sampled_from(["GET", "POST"]),
    agents,
    agents,
)


def allows(policy: Policy, request: Request) -> bool:
    """Whether a policy knows the action of a request and grants it."""
    route = policy.registry.routes.find(request.method, request.path, request.resource)
    if route is None or route.action is None:
        return False
    return (request.subject.uri, request.resource.uri, route.action.name) in policy.matrix.grants


@settings(max_examples=200, deadline=None)
@given(st.lists(entries, min_size=1, max_size=25))
def test_proposal_allows_what_was_seen(tmp_path_factory: pytest.TempPathFactory, seen: list[dict[str, Any]]) -> None:
    """Every proposal loads, allows every request that was seen, and grants only pairs that were seen to talk."""
    directory = tmp_path_factory.mktemp("proposal")
    observations = observed(*seen)
    (directory / "proposal.yaml").write_text(propose(observations, NAMES, None).to_yaml(few=2))
    policy = compile_policy(load_policy(directory))
    assert [] == [request for request in observations.counts if not allows(policy, request)]
    pairs = {(request.subject.uri, request.resource.uri) for request in observations.counts}
    assert pairs == {key[:2] for key in policy.matrix.grants}


def test_conditions_stay(tmp_path: Path) -> None:
    """A proposal against a policy keeps what its cells ask, narrows groups to who was seen, and leaves out the rest."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "all.yaml").write_text(
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\ngroups: {g: [planner, auditor]}\nmatrix:\n"
        "  '@g':\n    crm: {actions: [read, purge], delegation: forbidden, max_hops: 2}\n"
        "  planner:\n    crm: [read]\n    mailer: [send]\n"
        "deny: [{subject: auditor, resource: crm, action: '*'}]\n---\n"
        "kind: ActionRegistry\nactions:\n  read: {http: ['GET /records/{id}'], scope: 'crm:read'}\n"
        "  purge: {http: ['DELETE /records/{id}']}\n  send: {asserted: true}\n"
    )
    log = tmp_path / "access.jsonl"
    log.write_text(
        "\n".join(json.dumps(each) for each in (access(), access(peer=f"{TD}/auditor"), access("/new", "POST")))
    )
    result = learn(log, "--policies", policies, "--few", "0")
    assert 0 == result.exit_code
    assert (
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\nmatrix:\n  planner:\n"
        '    crm: {"actions": ["read"], "delegation": "forbidden", "max_hops": 2}\n'
        "---\nkind: PermissionMatrix\ntrust_domain: agents.example.com\nmatrix:\n  planner:\n"
        '    crm: ["new.post", "read"]\n'
        '---\nkind: ActionRegistry\nactions:\n  new.post: {"http": ["POST /new"]}\n'
        '  read: {"http": ["GET /records/{id}"], "scope": "crm:read"}\n'
    ) == result.stdout
    told = result.stderr.splitlines()
    assert "+ planner -> crm: new.post" in told
    assert "! auditor -> crm: read: seen, and denied (all.yaml:10); not proposed" in told
    assert "- planner -> mailer: send (all.yaml:9): granted, and never seen" in told
    assert "- planner -> crm: purge (all.yaml:6): granted, and never seen" in told
    changes = json.loads(learn(log, "--policies", policies, "--json").stdout)
    assert [{"subject": "planner", "resource": "crm", "action": "new.post"}] == changes["new"]
    assert ["auditor"] == [each["subject"] for each in changes["denied"]]


def test_calls_to_endpoints(tmp_path: Path) -> None:
    """A call to an endpoint keeps the action of its record, and its endpoint; one without a record proposes nothing."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "all.yaml").write_text(
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\n---\n"
        "kind: ActionRegistry\npresets: [openai]\nendpoints: {mcp: [POST /mcp], a2a: {http: [/v1]}}\nactions:\n"
        "  search: {mcp: {tools: [search]}}\n  follow: {a2a: [tasks/get]}\n"
    )
    log = tmp_path / "access.jsonl"
    seen = (
        access("/mcp", "POST"),
        access("/v1/message:send", "POST"),
        access("/v1/tasks/7"),
        access("/v1/embeddings", "POST"),
        record(request__path="/mcp"),
    )
    log.write_text("\n".join(json.dumps(each) for each in seen))
    result = learn(log, "--policies", policies, "--few", "0")
    assert 0 == result.exit_code, result.stderr
    assert (
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\nmatrix:\n"
        '  planner:\n    crm: ["follow", "llm.embed"]\n'
        '  planner-agent:\n    retrieval-agent: ["search"]\n'
        '---\nkind: ActionRegistry\nactions:\n  follow: {"a2a": ["tasks/get"]}\n'
        '  llm.embed: {"http": ["POST /v1/embeddings"], "scope": "llm:read"}\n  search: {"mcp": {"tools": ["search"]}}\n'
        '---\nkind: ActionRegistry\nendpoints: {"mcp": ["POST /mcp"], "a2a": {"http": ["/v1"]}}\n'
    ) == result.stdout


def test_few_observations_are_marked(tmp_path: Path) -> None:
    """A cell that rests on fewer observations than asked for says so, with their number."""
    log = tmp_path / "access.jsonl"
    log.write_text("\n".join(json.dumps(each) for each in [access()] * 3 + [access("/x")]))
    marked = learn(log, "--trust-domain", "agents.example.com", "--few", "3").stdout
    assert '    crm: ["records.id.get", "x.get"]  # few observations: x.get 1\n' in marked


def test_command_line(tmp_path: Path) -> None:
    """Nothing to learn from is 1, what cannot be read is 2, and nobody's file is written."""
    log = tmp_path / "access.jsonl"
    log.write_text("garbage\n")
    before = sorted(DEFAULT_POLICY.iterdir())
    assert 1 == learn(log, "--policies", DEFAULT_POLICY).exit_code
    assert 2 == learn(log).exit_code
    assert 2 == learn(log, "--trust-domain", "A B").exit_code
    assert 2 == learn(tmp_path / "nothing", "--policies", DEFAULT_POLICY).exit_code
    assert (before, [log]) == (sorted(DEFAULT_POLICY.iterdir()), list(tmp_path.iterdir()))


def test_endpoints(tmp_path: Path) -> None:
    """A request to an endpoint teaches only where a record says which action it was; then the endpoint is proposed too."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "all.yaml").write_text(
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\nmatrix: {planner: {crm: [search, query]}}\n---\n"
        "kind: ActionRegistry\nendpoints: {mcp: ['POST /mcp']}\nactions:\n  search: {mcp: {tools: [search]}}\n"
        "  query: {grpc: [search.v1.Index/Query]}\n"
    )
    told = record(agent__caller=f"{TD}/planner", agent__target=f"{TD}/crm", request__path="/mcp")
    log = tmp_path / "mixed.jsonl"
    grpc = access("/search.v1.Index/Query", "POST")
    log.write_text("\n".join(json.dumps(each) for each in (access("/mcp", "POST"), grpc, told)))
    result = learn(log, "--policies", policies)
    assert (0, True) == (result.exit_code, "1 calls went to endpoints" in result.stderr)
    proposal = tmp_path / "proposal"
    proposal.mkdir()
    (proposal / "policy.yaml").write_text(result.stdout)
    proposed = compile_policy(load_policy(proposal))
    assert {"search", "query"} == {key[2] for key in proposed.matrix.grants}
    assert proposed.registry.has_endpoints
