"""Whatever agents, the token service, the exchange and operators do in any order: authority only shrinks, revoked stays revoked.

The machine keeps every chain with what its root gave and with the ids, agents and keys that took part; after each step all
chains are shown again, as their holders would.
"""

import asyncio
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from support.delegations import CRM, MAILER, NOW, PLANNER, RETRIEVER, SCOPES, STS, claims_of, header_of, world
from support.exchanges import EXCHANGE, POLICY, Bench

from ext_authz.client.minting import Narrowing, Root, attenuate, mint_root
from ext_authz.client.signing import MintingError, certificate_sha256
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import Delegation, Presentation, Receipt, verify_chain, verify_received_chain
from ext_authz.tokens.revocation import Revocations

AGENTS = (PLANNER, RETRIEVER, CRM, MAILER)
# Everybody may use the exchange here: what it refuses, it refuses because of the chain.
OPEN_POLICY = POLICY.replace("action: token.exchange, because: it only sends mail", "action: search")

scope_sets = st.sets(st.sampled_from(SCOPES), min_size=1)
# Mostly everybody: chains with one target go nowhere.
agent_sets = st.just(set(AGENTS)) | st.sets(st.sampled_from(AGENTS), min_size=1)


def somebody_else(data: st.DataObject, chain: str) -> SpiffeId:
    """Draw a workload for a chain to go on to: mostly one that it allows."""
    claims = claims_of(chain)
    allowed = [agent for agent in AGENTS if agent.uri in claims["allowed_targets"] and agent.uri != claims["aud"]]
    return data.draw(st.sampled_from(allowed * 3 + list(AGENTS)))


@dataclass(frozen=True)
class Made:
    """A chain, its root's claims, and everything by which it can be revoked."""

    chain: str
    root: dict[str, Any]
    token_ids: frozenset[str]
    key_ids: frozenset[str]
    certificates: frozenset[bytes]
    agents: frozenset[SpiffeId]
    hops: int
    once: bool

    @classmethod
    def start(cls, chain: str) -> "Made":
        claims = claims_of(chain)
        nobody = cls(chain, claims, frozenset(), frozenset(), frozenset(), frozenset(), 0, once=False)
        return nobody.then(chain, hops=0 if "act" not in claims else 1)

    def then(self, chain: str, hops: int = 1) -> "Made":
        """Return what is known of a chain that was made from this one."""
        header, claims = header_of(chain), claims_of(chain)
        issuer = SpiffeId.parse_workload(claims["iss"])
        actor = claims.get("act", {}).get("sub")
        return Made(
            chain,
            self.root,
            self.token_ids | {claims["jti"]},
            self.key_ids | ({header["kid"]} if "kid" in header else set()),
            self.certificates | ({certificate_sha256(world().certificates[issuer])} if "x5c" in header else set()),
            self.agents | {issuer} | ({SpiffeId.parse_workload(actor)} if actor else set()),
            self.hops + hops,
            self.once or "once" in claims.get("caveats", {}),
        )

    @property
    def is_grant(self) -> bool:
        """Whether nobody can show it yet: it is a root that its audience has to pass on."""
        claims = claims_of(self.chain)
        return "act" not in claims and claims["iss"] == STS.uri

    def is_revoked_by(self, revocations: Revocations) -> bool:
        """Whether anything that took part was revoked; each mark lies after all chains were made."""
        return bool(
            self.token_ids & revocations.token_ids
            or self.key_ids & revocations.key_ids
            or self.certificates & revocations.certificates
            or self.agents & revocations.workloads.keys()
            or self.root["sub"] in revocations.subjects
            or self.root.get("sid") in revocations.session_ids
        )


class ExchangeMachine(RuleBasedStateMachine):
    """Chains, made in every way, and revocations."""

    chains = Bundle("chains")

    @initialize()
    def start(self) -> None:
        self.stack = ExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.bench = self.stack.enter_context(Bench.running(directory, OPEN_POLICY))
        self.made: list[Made] = []
        self.revocations = Revocations()
        self.exchanged_once: set[str] = set()

    def teardown(self) -> None:
        self.stack.close()

    def keep(self, made: Made) -> Made:
        self.made.append(made)
        return made

    @rule(
        target=chains,
        scopes=scope_sets,
        reachable=agent_sets,
        depth=st.integers(2, 5) | st.integers(0, 1),
        once=st.booleans(),
        data=st.data(),
    )
    def mint(self, scopes: set[str], reachable: set[SpiffeId], depth: int, once: bool, data: st.DataObject) -> Made:  # noqa: FBT001
        """Let the token service start a chain, in either form."""
        audience = data.draw(st.sampled_from(sorted(reachable, key=str)))
        actor = data.draw(st.sampled_from([None, *(agent for agent in AGENTS if agent != audience)]))
        root = Root(
            on_behalf_of=data.draw(st.sampled_from(["user:a", "user:b"])),
            session_id=data.draw(st.sampled_from([None, "session-aaaaaaaaaa", "session-bbbbbbbbbb"])),
            audience=audience,
            actor=actor,
            scopes=scopes,
            allowed_targets=reachable,
            depth=depth,
            once=once,
            lifetime_seconds=data.draw(st.integers(30, 1800)),
        )
        return self.keep(Made.start(mint_root(world().sts, root, NOW - 20)))

    @rule(target=chains, held=chains, scopes=st.none() | scope_sets, data=st.data())
    def attenuate(self, held: Made, scopes: set[str] | None, data: st.DataObject) -> Any:
        """Let the recipient of a chain sign a link of its own."""
        holder = SpiffeId.parse_workload(claims_of(held.chain)["aud"])
        narrowing = Narrowing(scopes=scopes, depth=data.draw(st.none() | st.integers(0, 4)), lifetime_seconds=600)
        try:
            chain = attenuate(world().svids[holder], held.chain, somebody_else(data, held.chain), narrowing, NOW - 5)
        except MintingError:
            return multiple()
        return self.keep(held.then(chain))

    @rule(
        target=chains,
        held=chains,
        mode=st.sampled_from(["checkpoint", "append", "checkpoint", None]),
        scopes=st.none() | scope_sets,
        is_recipient=st.sampled_from([True, True, True, False]),
        data=st.data(),
    )
    def exchange(
        self,
        held: Made,
        mode: str | None,
        scopes: set[str] | None,
        is_recipient: bool,
        data: st.DataObject,  # noqa: FBT001
    ) -> Any:
        """Let its recipient, or anybody else, exchange a chain."""
        recipient = SpiffeId.parse_workload(claims_of(held.chain)["aud"])
        client = recipient if is_recipient else data.draw(st.sampled_from(AGENTS))
        scope = None if scopes is None else " ".join(sorted(scopes))
        asked = self.bench.ask(held.chain, client, somebody_else(data, held.chain), mode=mode, scope=scope)
        answer = asyncio.run(asked)
        if answer.status != 200:
            assert answer.status == 400, answer.body
            return multiple()
        assert client == recipient
        assert not held.is_revoked_by(self.revocations)
        if held.once:
            assert held.chain not in self.exchanged_once
            self.exchanged_once.add(held.chain)
        return self.keep(held.then(answer.chain))

    # Not before there is much to revoke: what is revoked gives no further chains.
    @precondition(lambda self: len(self.made) > 5)
    @rule(data=st.data(), what=st.sampled_from(["token", "key", "certificate", "agent", "user", "session"]))
    def revoke(self, data: st.DataObject, what: str) -> None:
        """Let an operator revoke something that took part in some chain."""
        made = data.draw(st.sampled_from(self.made))
        old = self.revocations
        if what == "token":
            new = replace(old, token_ids=old.token_ids | {data.draw(st.sampled_from(sorted(made.token_ids)))})
        elif what == "key" and made.key_ids:
            new = replace(old, key_ids=old.key_ids | {data.draw(st.sampled_from(sorted(made.key_ids)))})
        elif what == "certificate" and made.certificates:
            new = replace(old, certificates=old.certificates | {data.draw(st.sampled_from(sorted(made.certificates)))})
        elif what == "agent":
            agent = data.draw(st.sampled_from(sorted(made.agents - {EXCHANGE}, key=str)))
            new = replace(old, workloads={**old.workloads, agent: NOW})
        elif what == "user":
            new = replace(old, subjects={**old.subjects, made.root["sub"]: NOW})
        else:
            new = replace(old, session_ids=old.session_ids | ({made.root["sid"]} if "sid" in made.root else set()))
        self.revocations = new
        snapshot = self.bench.exchange.snapshot
        self.bench.exchange.snapshot = replace(snapshot, controls=replace(snapshot.controls, revocations=new))

    def shown(self, made: Made) -> Delegation | None:
        """Show a chain as its holder would; None: refused."""
        claims = claims_of(made.chain)
        audience = SpiffeId.parse_workload(claims["aud"])
        holder = SpiffeId.parse_workload(claims.get("act", {}).get("sub", claims["iss"]))
        trust = self.bench.trust
        try:
            if made.is_grant:
                return verify_received_chain(made.chain, Receipt(audience, NOW), trust).delegation
            return verify_chain(made.chain, Presentation(holder, audience, NOW), trust)
        except Refusal:
            return None

    @invariant()
    def authority_only_shrinks(self) -> None:
        """Show every chain: what verifies gives no more than its root gave, for the same user, at the cost of its hops."""
        for made in getattr(self, "made", ()):
            found = self.shown(made)
            if found is None:
                continue
            root = made.root
            assert (root["sub"], root.get("sid")) == (found.on_behalf_of, found.session_id)
            assert found.scopes <= set(root["scope"])
            assert {str(target) for target in found.allowed_targets} <= set(root["allowed_targets"])
            assert found.expires_at <= root["exp"]
            assert found.depth <= root["delegation_depth"] - made.hops + ("act" in root)
            assert (made.hops, made.once) == (found.hops, found.once)
            assert made.token_ids == set(found.token_ids)

    @invariant()
    def revoked_stays_revoked(self) -> None:
        """Show every chain: one of which anything was revoked never verifies, whatever replaced it; any other does."""
        for made in getattr(self, "made", ()):
            assert made.is_revoked_by(self.revocations) == (self.shown(made) is None), json.dumps(claims_of(made.chain))


TestExchangeMachine = ExchangeMachine.TestCase
TestExchangeMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None, database=None)
