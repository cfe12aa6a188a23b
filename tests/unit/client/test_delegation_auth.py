"""Delegation for httpx: every request gets a chain that was made for it, and no other."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.delegations import (
    CRM,
    DROP,
    EVIL,
    MAILER,
    MINTED,
    NOW,
    PLANNER,
    RETRIEVER,
    Authority,
    Showing,
    claims_of,
    forged,
    shown_by_retriever,
    world,
)

import ext_authz.client
from ext_authz.client import DELEGATION_TOKEN, DelegationAuth, LinkSigner, MintingError, Narrowing, SvidFiles
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.svid import KeyedCertificate

AUDIENCES = {"crm": CRM, "Mailer.internal": MAILER}


def sent(auth: httpx.Auth, url: str = "http://crm/", headers: Mapping[str, str] | None = None) -> str:
    """Return the chain that a request carries."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.extend(request.headers.get_list(DELEGATION_TOKEN))
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        client.get(url, auth=auth, headers=headers)
    (chain,) = seen
    return chain


def auth_for(chain: str, agent: Any = None, **options: Any) -> DelegationAuth:
    """Return what the retriever uses at NOW."""
    usual: dict[str, Any] = {"audiences": AUDIENCES, "clock": lambda: NOW}
    return DelegationAuth(chain, agent or world().svids[RETRIEVER], **usual | options)


def test_received_chain_is_passed_on() -> None:
    """A chain that this agent received gets a link for the agent that it calls."""
    received = world().root()
    chain = sent(auth_for(received))
    assert chain.startswith(f"{received}~")
    assert (RETRIEVER, CRM.uri) == (shown_by_retriever(chain).verified().actors[-1], claims_of(chain)["aud"])


def test_each_call_has_a_link_of_its_own() -> None:
    """Two calls never share a link, and each is for its own audience."""
    auth = auth_for(world().root())
    chains = [sent(auth, url) for url in ("http://crm/", "http://crm/", "http://mailer.internal:8080/x?y")]
    assert [CRM.uri, CRM.uri, MAILER.uri] == [claims_of(chain)["aud"] for chain in chains]
    assert 3 == len({claims_of(chain)["jti"] for chain in chains})


async def test_asynchronous_client() -> None:
    """The same object serves both kinds of clients."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers[DELEGATION_TOKEN])
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=auth_for(world().root())) as client:
        await client.post("http://crm/", json={})
    assert CRM.uri == claims_of(seen[0])["aud"]


def test_call_through_a_sidecar() -> None:
    """The name that the sidecar routes by says who is called, not the address of the sidecar."""
    chain = sent(auth_for(world().root()), "http://127.0.0.1:15001/", {"host": "CRM:443"})
    assert CRM.uri == claims_of(chain)["aud"]


def test_audience_that_is_said() -> None:
    """With one audience for all requests, names do not matter."""
    assert MAILER.uri == claims_of(sent(auth_for(world().root(), audience=MAILER), "http://whatever/"))["aud"]


@pytest.mark.parametrize("url", ["http://unknown/", "http://crm.evil.test/", "http://[::1]:80/", "http://127.0.0.1/"])
def test_unknown_host(url: str) -> None:
    """A host without a SPIFFE ID gets no request at all."""
    with pytest.raises(MintingError, match="no SPIFFE ID is known for host"):
        sent(auth_for(world().root()), url)


def test_narrowing() -> None:
    """What each call gives can be narrowed; a link lives five minutes unless it is said otherwise."""
    assert NOW + 300 == claims_of(sent(auth_for(world().root())))["exp"]
    chain = sent(auth_for(world().root(), narrowing=Narrowing(scopes=["kb:search"], depth=0, lifetime_seconds=5)))
    claims = claims_of(chain)
    assert (["kb:search"], 0, NOW + 5) == (claims["scope"], claims["delegation_depth"], claims["exp"])


def test_chain_that_does_not_give_enough() -> None:
    """What cannot be passed on is not sent."""
    with pytest.raises(MintingError, match="does not give scope `admin`"):
        sent(auth_for(world().root(), narrowing=Narrowing(scopes=["admin"])))
    with pytest.raises(MintingError, match="does not give target"):
        sent(auth_for(world().root(), audience=EVIL))
    with pytest.raises(MintingError, match="the chain has expired"):
        sent(auth_for(world().root(), clock=lambda: MINTED + 900))


@pytest.mark.parametrize("agent", [PLANNER, world().svids[PLANNER]], ids=["without a key", "with a key"])
def test_act_form_goes_as_it_is(agent: SpiffeId | LinkSigner) -> None:
    """A chain whose holder is this agent goes to its audience unchanged: no link is needed, and no key."""
    chain = world().root()
    assert chain == sent(auth_for(chain, agent, audience=RETRIEVER))
    assert Showing(chain).verified()


def test_own_chain_goes_as_it_is() -> None:
    """A chain that this agent started for the very agent that it calls needs no further link."""
    w = world()
    chain = forged(w.root(), w.planner_root, claims={"iss": PLANNER.uri, "act": DROP})
    assert chain == sent(auth_for(chain, w.planner_root, audience=RETRIEVER))


def test_act_form_for_another_audience() -> None:
    """A chain in act form is for one audience; for another one it has to be exchanged."""
    with pytest.raises(MintingError, match=f"the chain is for calls of `{RETRIEVER}`: exchange it for one for `{CRM}`"):
        sent(auth_for(world().root(), PLANNER))


def test_received_token_is_never_sent_on() -> None:
    """Neither a chain in the request nor one for somebody else leaves unchanged, whoever asks."""
    received = world().root()
    with pytest.raises(MintingError, match="a received token is never sent on"):
        sent(auth_for(received), headers={DELEGATION_TOKEN: received})
    with pytest.raises(MintingError, match=f"`{EVIL}` cannot pass it on"):
        sent(auth_for(received, world().svids[EVIL]))
    with pytest.raises(MintingError, match="has no key to pass the chain on"):
        sent(auth_for(received, RETRIEVER))


@pytest.mark.parametrize("text", ["", "junk", "a.b.c"])
def test_what_is_no_chain(text: str) -> None:
    """What is no chain is not sent."""
    with pytest.raises(MintingError, match="link 0 of the delegation chain"):
        sent(auth_for(text))


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No token reaches a log or a repr, at any level."""
    with caplog.at_level(logging.DEBUG):
        chain = sent(auth := auth_for(world().root()))
    text = caplog.text + repr(auth) + str(vars(httpx.Request("GET", "http://crm/", headers={})))
    assert [] == [segment for segment in chain.replace("~", ".").split(".") if segment in text]


def test_grant_with_files(tmp_path: Path) -> None:
    """A grant and the files of a SPIFFE helper are all that an agent needs."""
    w = world()
    certificate, key = Authority.of(w.ca).svid([PLANNER.uri])
    KeyedCertificate(certificate=certificate, private_key=key).write_to(tmp_path)
    chain = sent(auth_for(w.grant(), SvidFiles(tmp_path)))
    assert (PLANNER,) == Showing(chain, PLANNER, CRM).verified().actors


def test_public_names() -> None:
    """What the package offers to agents, and nothing that cannot be imported."""
    assert [
        *(
            "DELEGATION_TOKEN",
            "DelegationAuth",
            "Exchange",
            "ExchangeError",
            "LinkSigner",
            "MintingError",
            "Narrowing",
            "PrivateKey",
            "Root",
        ),
        *("SvidFiles", "attenuate", "certificate_sha256", "generate_private_key", "load_certificates"),
        *("load_private_key", "mint_root", "private_key_pem", "public_jwk"),
    ] == ext_authz.client.__all__
    assert [] == [name for name in ext_authz.client.__all__ if not hasattr(ext_authz.client, name)]
