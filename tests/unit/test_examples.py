"""The examples run as they stand: what they send is verified as a server would, at the machine's own clock."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from examples.autogen_tool import SUMMARIZER, summarize
from examples.crewai_tool import DATABASE, PLANNER, read_record
from examples.keyless_tool import SUMMARIZER as KEYLESS
from examples.keyless_tool import read_record as read_record_without_key
from examples.langgraph_tool import AGENTS, search
from ext_authz.client import DELEGATION_TOKEN, LinkSigner, Narrowing, Root, SvidFiles, attenuate, mint_root
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.tokens.chain import Delegation, DelegationTrust, Presentation, verify_chain
from ext_authz.tokens.exchange_names import DELEGATION_CHAIN_TYPE
from ext_authz.tokens.keys import KeySet, TrustedKeys
from ext_authz.tokens.signature import VerificationKey

STS = SpiffeId.parse_workload("spiffe://agents.example.com/delegation-sts")
RETRIEVAL = AGENTS["retrieval-agent"]
STS_KEY = ed25519.Ed25519PrivateKey.generate()
CA = DevelopmentCa.create("agents.example.com")
TRUST = DelegationTrust(
    TrustedKeys(
        {STS: KeySet({"sts-1": VerificationKey.register(STS_KEY.public_key(), "Ed25519")})},
        {CA.trust_domain: CA.bundle},
    ),
    root_issuers=frozenset({STS}),
    minters=frozenset({STS}),
)


@pytest.fixture
def svid(tmp_path: Path) -> SvidFiles:
    CA.issue(PLANNER).write_to(tmp_path)
    return SvidFiles(tmp_path)


def root(audience: SpiffeId, actor: SpiffeId | None = None) -> str:
    granted = Root(
        on_behalf_of="user:alice",
        audience=audience,
        actor=actor,
        scopes=["search", "summarize", "read"],
        allowed_targets=[PLANNER, RETRIEVAL, SUMMARIZER, DATABASE],
    )
    return mint_root(LinkSigner.with_key_id(STS, "sts-1", STS_KEY), granted, time.time())


def answering(
    destination: SpiffeId, answer: object, seen: list[Delegation]
) -> Callable[[httpx.Request], httpx.Response]:
    """Return an agent behind a sidecar: it verifies what the planner sends, and answers."""

    def respond(request: httpx.Request) -> httpx.Response:
        presentation = Presentation(PLANNER, destination, time.time())
        seen.append(verify_chain(request.headers[DELEGATION_TOKEN], presentation, TRUST))
        return httpx.Response(200, text=json.dumps(answer))

    return respond


def test_langgraph(svid: SvidFiles) -> None:
    """The tool passes on what the run was started with."""
    seen: list[Delegation] = []
    with httpx.Client(transport=httpx.MockTransport(answering(RETRIEVAL, ["a document"], seen))) as client:
        assert ["a document"] == search("revenue", {"configurable": {"delegation": root(PLANNER)}}, client, svid)
    (delegation,) = seen
    assert ("user:alice", (PLANNER,)) == (delegation.on_behalf_of, delegation.actors)


async def test_autogen(svid: SvidFiles) -> None:
    """The tool gives one scope, for one call that goes no further."""
    seen: list[Delegation] = []
    transport = httpx.MockTransport(answering(SUMMARIZER, {"summary": "short"}, seen))
    async with httpx.AsyncClient(transport=transport) as client:
        assert "short" == await summarize(root(PLANNER), client, "long", svid)
    (delegation,) = seen
    assert (frozenset({"summarize"}), 0) == (delegation.scopes, delegation.depth)


def test_crewai() -> None:
    """The tool presents what the token service made for it."""
    seen: list[Delegation] = []
    with httpx.Client(transport=httpx.MockTransport(answering(DATABASE, {"id": 42}, seen))) as client:
        assert {"id": 42} == read_record(42, root(DATABASE, actor=PLANNER), client)
    (delegation,) = seen
    assert 1 == delegation.hops


async def test_keyless() -> None:
    """The tool has no key: the exchange, asked through the same sidecar, names it as the actor of a link of its own."""
    seen: list[Delegation] = []
    received = root(KEYLESS, PLANNER)
    exchange = LinkSigner.with_key_id(STS, "sts-1", STS_KEY)

    def respond(request: httpx.Request) -> httpx.Response:
        if request.headers["host"] == "token-exchange":
            form = dict(parse_qsl(request.content.decode()))
            assert (received, "read") == (form["subject_token"], form["scope"])
            narrowing = Narrowing(actor=KEYLESS, scopes=["read"], lifetime_seconds=60)
            chain = attenuate(exchange, received, DATABASE, narrowing, time.time())
            return httpx.Response(200, json={"access_token": chain, "issued_token_type": DELEGATION_CHAIN_TYPE})
        presentation = Presentation(KEYLESS, DATABASE, time.time())
        seen.append(verify_chain(request.headers[DELEGATION_TOKEN], presentation, TRUST))
        return httpx.Response(200, json={"id": 42})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://127.0.0.1:15001") as sidecar:
        assert {"id": 42} == await read_record_without_key(42, received, sidecar)
    (delegation,) = seen
    assert ((PLANNER, KEYLESS), frozenset({"read"})) == (delegation.actors, delegation.scopes)
