"""Registries that a policy includes by name."""

from pathlib import Path
from typing import get_args

import pytest
from support.check_requests import agent

from ext_authz.action.jsonrpc import Protocol, RpcCall
from ext_authz.attributes.salvage import NOTHING
from ext_authz.documents.loader import PRESETS, load_policy
from ext_authz.documents.models import ActionRegistry, Preset
from ext_authz.errors import PolicyError, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load

NAMES = get_args(Preset)
RESOURCE = SpiffeId.parse_workload(agent("retrieval-agent"))
MATRIX = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n---\n"
ENDPOINTS = "endpoints: {mcp: [POST /mcp], a2a: {jsonrpc: [POST /a2a], http: [/a2a/v1], grpc: true}}\n"


def write(directory: Path, *registries: str) -> Path:
    """Write a policy with these registries, each in a file of its own."""
    (directory / "0.yaml").write_text(MATRIX)
    for number, registry in enumerate(registries, 1):
        (directory / f"{number}.yaml").write_text(f"kind: ActionRegistry\n{registry}")
    return directory


def problems_of(directory: Path) -> list[str]:
    """Return what is wrong with a policy, paths shortened."""
    with pytest.raises(PolicyError) as caught:
        load(directory)
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def test_every_name_has_a_file_and_every_file_a_name() -> None:
    """What an author may write is what the package has."""
    assert {f"{name}.yaml" for name in NAMES} == {path.name for path in PRESETS.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_preset_alone(tmp_path: Path, name: str) -> None:
    """Each preset loads beside endpoints and nothing else, and registers actions."""
    policy = load(write(tmp_path, f"presets: [{name}]\n{ENDPOINTS}"))
    assert policy.registry.actions


@pytest.fixture(scope="module")
def every_preset(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Load all presets into one policy."""
    return load(write(tmp_path_factory.mktemp("policy"), f"presets: [{', '.join(NAMES)}]\n{ENDPOINTS}"))


HTTP = {
    ("POST", "/v1/chat/completions"): "llm.chat",
    ("POST", "/v1/completions"): "llm.complete",
    ("POST", "/v1/responses"): "llm.respond",
    ("POST", "/v1/embeddings"): "llm.embed",
    ("GET", "/v1/models"): "llm.models",
    ("GET", "/v1/models/m"): "llm.models",
    ("DELETE", "/v1/models/m"): None,
    ("POST", "/v1/fine_tuning/jobs"): "llm.fine-tune",
    ("POST", "/v1/fine_tuning/jobs/j/cancel"): "llm.fine-tune",
    ("POST", "/v1/files"): None,
    ("POST", "/ap/v1/agent/tasks"): "task.create",
    ("GET", "/ap/v1/agent/tasks/1"): "task.read",
    ("POST", "/ap/v1/agent/tasks/1/steps"): "task.step",
    ("GET", "/ap/v1/agent/tasks/1/artifacts/2"): "artifact.read",
    ("POST", "/ap/v1/agent/tasks/1/artifacts"): "artifact.write",
    ("POST", "/collections/docs/points/query"): "vector.query",
    ("POST", "/collections/docs/points"): "vector.query",
    ("PUT", "/collections/docs/points"): "vector.upsert",
    ("POST", "/collections/docs/points/delete"): "vector.delete",
    ("POST", "/collections/docs/points/batch"): None,
    ("PUT", "/collections/docs"): None,
    ("DELETE", "/collections/docs"): None,
    ("POST", "/query"): "vector.query",
    ("POST", "/vectors/upsert"): "vector.upsert",
    ("POST", "/vectors/delete"): "vector.delete",
    ("POST", "/api/v2/tenants/t/databases/d/collections/c/query"): "vector.query",
    ("POST", "/api/v2/tenants/t/databases/d/collections/c/upsert"): "vector.upsert",
    ("POST", "/api/v2/tenants/t/databases/d/collections/c/delete"): "vector.delete",
    ("DELETE", "/api/v2/tenants/t/databases/d/collections/c"): None,
    ("POST", "/v1/graphql"): "vector.query",
    ("POST", "/v1/batch/objects"): "vector.upsert",
    ("DELETE", "/v1/batch/objects"): "vector.delete",
    ("DELETE", "/v1/schema/C"): None,
    ("GET", "/.well-known/agent-card.json"): "a2a.card",
    ("POST", "/a2a/v1/message:send"): "a2a.send",
    ("GET", "/a2a/v1/tasks/7:subscribe"): "a2a.read",
    ("POST", "/a2a/v1/tasks/7:cancel"): "a2a.cancel",
}


@pytest.mark.parametrize(("request_line", "name"), HTTP.items(), ids=str)
def test_request_of_a_preset(every_preset: Policy, request_line: tuple[str, str], name: str | None) -> None:
    """A preset knows the calls of its protocol, and none that does more than the action's name says."""
    method, path = request_line
    attributes = NOTHING._replace(method=method, path=path)
    try:
        found: str | None = every_preset.registry.resolve(attributes, RESOURCE).name
    except Refusal:
        found = None
    assert name == found


CALLS = {
    RpcCall(Protocol.MCP, method="initialize"): "mcp.session",
    RpcCall(Protocol.MCP, method="tools/list"): "mcp.list",
    RpcCall(Protocol.MCP, method="prompts/get"): "mcp.prompt",
    RpcCall(Protocol.MCP, method="resources/read"): "mcp.read",
    RpcCall(Protocol.MCP, method="subscriptions/listen"): "mcp.subscribe",
    RpcCall(Protocol.MCP): "mcp.answer",
    RpcCall(Protocol.MCP, method="tools/call", tool="search"): None,
    RpcCall(Protocol.A2A, method="SendMessage"): "a2a.send",
    RpcCall(Protocol.A2A, method="tasks/get"): "a2a.read",
    RpcCall(Protocol.A2A, method="CancelTask"): "a2a.cancel",
    RpcCall(Protocol.A2A, method="tasks/pushNotificationConfig/set"): "a2a.notify",
}


@pytest.mark.parametrize(("call", "name"), CALLS.items(), ids=str)
def test_call_of_a_preset(every_preset: Policy, call: RpcCall, name: str | None) -> None:
    """The methods of MCP and A2A have actions; tools have none, since nobody knows what they do."""
    try:
        found: str | None = every_preset.registry.resolve(NOTHING, RESOURCE, call).name
    except Refusal:
        found = None
    assert name == found


def test_scopes_of_models(every_preset: Policy) -> None:
    """Reading and training ask a chain for different scopes."""
    scopes = {name: action.scope for name, action in every_preset.registry.actions.items() if name.startswith("llm.")}
    assert {"llm.fine-tune"} == {name for name, scope in scopes.items() if scope == "llm:fine-tune"}
    assert {"llm:read", "llm:fine-tune"} == set(scopes.values())


def test_preset_counts_once_however_often_it_is_named(tmp_path: Path) -> None:
    """Two documents may name the same preset."""
    documents = load_policy(write(tmp_path, "presets: [openai]\n", "presets: [openai, openai]\n"))
    assert ["preset openai"] == [source.path for source in documents.of(ActionRegistry) if source.is_preset]


def test_action_of_a_document_with_the_name_of_one_of_a_preset(tmp_path: Path) -> None:
    """A preset's action cannot be replaced; the document's is the one that stands twice."""
    text = "presets: [openai]\nactions:\n  llm.chat: {http: [POST /chat]}\n  mine: {http: [POST /v1/embeddings]}\n"
    assert [
        "1.yaml:4:3: action `llm.chat` is registered twice, first in preset openai:5",
        "1.yaml:5:17: a request for `POST /v1/embeddings` could also be action `llm.embed` (preset openai:8)",
    ] == problems_of(write(tmp_path, text))


def test_preset_without_its_endpoint(tmp_path: Path) -> None:
    """A preset of calls needs an endpoint, as written entries do, and says so once."""
    assert [
        'preset mcp:5:17: no mcp endpoint is declared: write where it is, such as `endpoints: {mcp: ["POST /mcp"]}`'
    ] == problems_of(write(tmp_path, "presets: [mcp]\n"))


def test_registry_of_nothing(tmp_path: Path) -> None:
    """A document registers something, includes something or says where something is."""
    assert [
        "1.yaml:1:1: nothing is registered here: write `actions`, `presets` or `endpoints`",
    ] == problems_of(write(tmp_path, "version: 1\n"))


def test_digest_covers_presets(tmp_path: Path) -> None:
    """The digest of a policy changes with the content of the presets that it names, and of no others."""
    presets, directory = tmp_path / "presets", tmp_path / "policy"
    presets.mkdir()
    directory.mkdir()
    for path in PRESETS.iterdir():
        (presets / path.name).write_bytes(path.read_bytes())
    write(directory, "presets: [openai]\n")
    before = load_policy(directory).digest
    assert before == load_policy(directory, presets).digest
    (presets / "mcp.yaml").write_text("changed")
    assert before == load_policy(directory, presets).digest
    with (presets / "openai.yaml").open("a") as file:
        file.write("# changed\n")
    assert before != load_policy(directory, presets).digest
    assert before != load_policy(write(directory, "presets: [mcp]\n")).digest
