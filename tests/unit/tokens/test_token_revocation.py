"""The deny-list: what an entry takes away, and what it leaves."""

from dataclasses import replace

import pytest
from support.delegations import (
    CRM,
    MAILER,
    MINTED,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    STS,
    USER,
    Authority,
    Showing,
    claims_of,
    forged,
    shown_by_crm,
    shown_by_retriever,
    with_certificates,
    world,
)

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations


def is_revoked(showing: Showing, revocations: Revocations) -> bool:
    """Whether the deny-list, and nothing else, stops the chain."""
    assert showing.verified()
    try:
        return not replace(showing, revocations=revocations).verified()
    except Refusal as refusal:
        return refusal.reason is Reason.TOKEN_REVOKED


def test_nothing_is_revoked_at_first() -> None:
    """An empty list takes nothing away, whether it is the empty one or another."""
    showing = shown_by_crm(world().three_links())
    assert [False, False] == [is_revoked(showing, entries) for entries in (NO_REVOCATIONS, Revocations())]


@pytest.mark.parametrize(
    "entries",
    [
        Revocations(token_ids=frozenset({"another-token-id"}), session_ids=frozenset({"another-session-id"})),
        Revocations(key_ids=frozenset({"sts-2"}), certificates=frozenset({bytes(32)})),
        Revocations(subjects={"user:another": NOW}, workloads={MAILER: NOW}),
    ],
)
def test_entries_about_others(entries: Revocations) -> None:
    """Entries match exactly: what they do not name goes on."""
    assert not is_revoked(shown_by_crm(world().three_links()), entries)


def test_kinds_are_not_mixed_up() -> None:
    """An id of one kind says nothing about ids of another."""
    chain = world().two_links()
    ids = frozenset({claims_of(chain)["jti"], claims_of(chain)["sid"], "sts-1", USER})
    jti, sid = claims_of(chain)["jti"], claims_of(chain)["sid"]
    others = (
        Revocations(token_ids=ids - {jti}),
        Revocations(session_ids=ids - {sid}),
        Revocations(key_ids=ids - {"sts-1"}),
    )
    assert [False] * 3 == [is_revoked(shown_by_retriever(chain), entries) for entries in others]


def test_mark_of_a_subject() -> None:
    """Links issued up to the mark are revoked, later ones are not."""
    showing = Showing(world().root())
    assert [True, False] == [is_revoked(showing, Revocations(subjects={USER: mark})) for mark in (MINTED, MINTED - 1)]


@pytest.mark.parametrize("workload", [RETRIEVER, CRM])
def test_mark_of_a_workload(workload: SpiffeId) -> None:
    """A mark counts for every link that the workload made."""
    showing = shown_by_crm(world().three_links())
    assert is_revoked(showing, Revocations(workloads={workload: PASSED_ON}))
    assert not is_revoked(showing, Revocations(workloads={workload: NOW - 1000}))


def test_mark_of_an_actor() -> None:
    """The agent for whom a minter signed is a holder like any other."""
    showing = Showing(world().root())
    assert [True, False] == [
        is_revoked(showing, Revocations(workloads={PLANNER: mark})) for mark in (MINTED, MINTED - 1)
    ]


def test_signer_that_chooses_its_own_time() -> None:
    """A stolen SVID can sign later times, but its certificate stays as old as it is."""
    w = world()
    renewed, key = Authority.of(w.ca).svid([RETRIEVER.uri], not_before=NOW - 100)
    old = shown_by_retriever(w.two_links())
    new = shown_by_retriever(forged(w.two_links(), with_certificates(RETRIEVER, [renewed], key)))
    assert is_revoked(old, Revocations(workloads={RETRIEVER: NOW - 101}))
    marks = (NOW - 101, NOW - 100)
    assert [False, True] == [is_revoked(new, Revocations(workloads={RETRIEVER: mark})) for mark in marks]


def test_registered_key_of_a_revoked_issuer() -> None:
    """A registered key has no age: none of its links counts while the mark stands."""
    assert is_revoked(Showing(world().root()), Revocations(workloads={STS: 0}))


@pytest.mark.parametrize(
    "entries", [Revocations(key_ids=frozenset({"sts-0"})), Revocations(certificates=frozenset({bytes(range(32))}))]
)
def test_key_of_a_replaced_link(entries: Revocations) -> None:
    """A checkpoint that names the keys of its ancestors ends with them."""
    w = world()
    chain = w.checkpoint(w.two_links(), key=["sts-0", encode_base64url(bytes(range(32)))])
    assert is_revoked(shown_by_crm(chain), entries)
    assert not is_revoked(shown_by_crm(w.checkpoint(w.two_links())), entries)


@pytest.mark.parametrize("workload", [PLANNER, RETRIEVER, CRM])
def test_agents_of_a_checkpoint(workload: SpiffeId) -> None:
    """The agents of replaced links are as revocable as they were."""
    w = world()
    showing = shown_by_crm(w.checkpoint(w.two_links()))
    assert [True, False] == [
        is_revoked(showing, Revocations(workloads={workload: mark})) for mark in (MINTED, MINTED - 1)
    ]
