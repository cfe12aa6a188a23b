"""When addresses of keys are asked, and how long their keys count, on clocks that a test moves."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.authorizers import KeptRecords, default_snapshot, reason_of
from support.delegated_policies import POLICY, calling
from support.delegations import NOW, STS, forged, world
from support.key_server import KeyServer, Page, jwk, jwks

from ext_authz.audit.event import Announcer
from ext_authz.authorizer import Authorizer
from ext_authz.client.signing import LinkSigner
from ext_authz.pb.external_auth_pb2 import CheckResponse
from ext_authz.policy.compile import load
from ext_authz.server.key_answers import Answer
from ext_authz.server.key_fetcher import KeyFetcher
from ext_authz.server.keys import asking_again, following_keys, supplying
from ext_authz.server.reload import PolicyReloader
from ext_authz.tokens.keys import KeySet, KeySource

HOUR = 3600


async def until(seen: Callable[[], object]) -> None:
    """Look again and again until there is something to see."""
    while not seen():  # noqa: ASYNC110  what is looked at tells nobody that it changed
        await asyncio.sleep(0.01)


@dataclass
class Watched:
    """A fetcher of one address, and what it published."""

    server: KeyServer
    max_stale_seconds: int = HOUR
    passed: float = 0.0
    published: list[Mapping[KeySource, KeySet]] = field(default_factory=list)
    fetcher: KeyFetcher = field(init=False)

    def __post_init__(self) -> None:
        """Make the fetcher; its jitter takes nothing off."""
        self.fetcher = KeyFetcher(
            self.published.append,
            clock=lambda: NOW + self.passed,
            timer=lambda: 1000 + self.passed,
            jitter=lambda: 1.0,
        )

    @property
    def source(self) -> KeySource:
        """The address."""
        return KeySource(self.server.address, max_stale_seconds=self.max_stale_seconds)

    @property
    def keys(self) -> KeySet:
        """What is in hand."""
        return self.fetcher.found[self.source]

    async def at(self, seconds: float) -> int:
        """Look at that time; return how often the address was asked so far."""
        self.passed = seconds
        await self.fetcher.look(self.source)
        state = self.fetcher.states[self.source]
        await until(lambda: state.due_at < math.inf)  # its own task may have looked first, and wait for an answer
        return len(self.server.asked)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer.running(jwks(jwk("a"))) as running:
        yield running


@pytest.fixture
async def watched(server: KeyServer) -> AsyncIterator[Watched]:
    watched = Watched(server)
    async with watched.fetcher:
        watched.fetcher.follow([watched.source])
        yield watched


async def test_nothing_is_known_before_the_first_answer(watched: Watched) -> None:
    """An address that was not heard of yet has keys that never counted."""
    assert -math.inf == watched.keys.usable_until
    assert watched.fetcher.states[watched.source].age_seconds(NOW) is None
    assert [] == watched.published


async def test_first_answer(watched: Watched) -> None:
    """Keys count from the moment they are here, for as long as the policy lets them without news."""
    assert 1 == await watched.at(0)
    assert (["a"], NOW + HOUR) == (list(watched.keys.keys), watched.keys.usable_until)
    assert [{watched.source: watched.keys}] == watched.published
    assert 7 == watched.fetcher.states[watched.source].age_seconds(NOW + 7)


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", 240),
        ("max-age=0", 48),
        ("max-age=60", 48),
        ("max-age=100", 80),
        ("max-age=3600", 2880),
        ("max-age=99999", 2880),
    ],
)
async def test_refresh_before_the_answer_is_old(watched: Watched, cache_control: str, seconds: float) -> None:
    """The next answer is asked for at four fifths of what Cache-Control says, of one minute to one hour."""
    watched.server.give(Page(jwks(jwk("a")), headers={"cache-control": cache_control}))
    assert [1, 1, 2] == [await watched.at(at) for at in (0, seconds - 1, seconds)]


async def test_refresh_before_the_keys_are_stale(server: KeyServer) -> None:
    """A policy that lets keys count for a minute has them fetched in that minute."""
    watched = Watched(server, max_stale_seconds=60)
    async with watched.fetcher:
        watched.fetcher.follow([watched.source])
        assert [1, 1, 2] == [await watched.at(seconds) for seconds in (0, 47, 48)]


async def test_refresh_without_a_change(watched: Watched) -> None:
    """The same text is the same set, counting for longer: its digest says so to whoever remembers signatures."""
    await watched.at(0)
    before = watched.keys
    await watched.at(240)
    assert (before.digest, NOW + 240 + HOUR) == (watched.keys.digest, watched.keys.usable_until)


@pytest.mark.parametrize(
    "page",
    [
        *(Page(status=500), Page(status=304), Page(b"garbage"), Page(b'{"keys":[]}'), Page(b" " * 2**21)),
        Page(status=302, headers={"location": "/"}),
        Page(jwks(jwk("b"), {**jwk("c"), "d": "AAAA"})),
        Page(jwks(jwk("b"))[:-1]),
    ],
    ids=["500", "304", "garbage", "empty", "large", "redirect", "private", "cut"],
)
async def test_bad_answers_replace_nothing(watched: Watched, page: Page) -> None:
    """What an address says wrongly leaves what it said before in hand, until that was an hour ago."""
    await watched.at(0)
    before = watched.keys
    watched.server.give(page)
    assert 2 == await watched.at(240)
    assert before == watched.keys
    assert 1 == len(watched.published)


async def test_an_answer_with_fewer_keys_counts(watched: Watched) -> None:
    """That is how a key is taken back."""
    watched.server.give(jwks(jwk("a"), jwk("b")))
    await watched.at(0)
    watched.server.give(jwks(jwk("b")))
    await watched.at(240)
    assert {"b"} == watched.keys.keys.keys()


async def test_retries_grow_rarer(watched: Watched) -> None:
    """After an error it is asked again after a second, then twice as long each time, up to a minute."""
    watched.server.give(Page(status=503))
    times = (0, 0.9, 1, 2.9, 3, 7, 15, 31, 62, 63, 122, 123, 182, 183)
    assert [1, 1, 2, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9] == [await watched.at(seconds) for seconds in times]
    watched.server.give(jwks(jwk("a")))
    assert [10, 10, 11] == [await watched.at(seconds) for seconds in (243, 482, 483)]
    watched.server.give(Page(status=503))
    assert [12, 13] == [await watched.at(seconds) for seconds in (723, 724)]


async def test_jitter_halves_at_most(server: KeyServer) -> None:
    """Servers that lost an address together do not come back together."""
    watched = Watched(server)
    watched.fetcher._jitter = lambda: 0.0
    server.give(Page(status=503))
    async with watched.fetcher:
        watched.fetcher.follow([watched.source])
        assert [1, 1, 2] == [await watched.at(seconds) for seconds in (0, 0.4, 0.5)]


async def test_unknown_keys_are_looked_for_once_a_minute(watched: Watched) -> None:
    """A flood of unknown keys causes one fetch a minute, the first at once where the last is that long ago."""
    assert 1 == await watched.at(0)

    async def flooded(seconds: float) -> int:
        for _ in range(100):
            watched.fetcher.ask_again()
        return await watched.at(seconds)

    assert [1, 1, 2] == [await flooded(seconds) for seconds in (0, 59.9, 60)]
    assert [2, 2, 3] == [await flooded(seconds) for seconds in (61, 119.9, 120)]
    assert 3 == await watched.at(300)
    watched.fetcher.ask_again()
    assert 4 == await watched.at(300)


async def test_an_unknown_key_that_is_shown_during_a_fetch() -> None:
    """The answer on its way may be older than the key: it is asked for once more, a minute later."""
    asked = asyncio.Event()
    answers = asyncio.Queue[Answer]()

    async def fetch(_: KeySource) -> Answer:
        asked.set()
        return await answers.get()

    passed = 0.0
    source = KeySource("https://sts.example.com/jwks")
    async with KeyFetcher(lambda _: None, fetch=fetch, clock=lambda: NOW, timer=lambda: passed) as fetcher:
        fetcher.follow([source])
        await asked.wait()
        fetcher.ask_again()
        answers.put_nowait(Answer({}, "d", None))
        await heard(fetcher)
        assert 60 == fetcher.states[source].due_at


async def test_log_tells_changes_only(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """One line when keys are here, when they cannot be fetched, when they count no more, and when they are back."""
    caplog.set_level(logging.INFO, "ext_authz")
    await watched.at(0)
    await watched.at(240)
    watched.server.give(Page(b"secret"))
    for seconds in (480, 500, 240 + HOUR, 301 + HOUR, 400 + HOUR):
        await watched.at(seconds)
    watched.server.give(jwks(jwk("a"), jwk("b")))
    await watched.at(500 + HOUR)
    assert [
        "keys of 127.0.0.1: 1 in use",
        "keys of 127.0.0.1 cannot be fetched, those in hand still count: not a JWK set",
        "keys of 127.0.0.1 cannot be fetched, none count now: not a JWK set",
        "keys of 127.0.0.1: 2 in use",
    ] == caplog.messages


async def test_address_that_never_answered(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, by its host alone: the rest of an address may be nobody's business."""
    watched.server.give(Page(status=500))
    for seconds in (0, 10, 100, 1000):
        await watched.at(seconds)
    assert ["keys of 127.0.0.1 cannot be fetched, none count now: it answers 500"] == caplog.messages


async def test_whatever_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody thought of ends nothing, and its text is not repeated."""

    async def fail(_: KeySource) -> Answer:
        raise RuntimeError("secret")

    passed = 0.0
    source = KeySource("https://sts.example.com/jwks")
    async with KeyFetcher(lambda _: None, fetch=fail, timer=lambda: passed, jitter=lambda: 1.0) as fetcher:
        fetcher.follow([source])
        await fetcher.look(source)
        assert (1, 1) == (fetcher.states[source].errors, fetcher.states[source].due_at)
    assert ["keys of sts.example.com cannot be fetched, none count now: RuntimeError"] == caplog.messages


async def test_one_slow_address_holds_up_no_other() -> None:
    """Each address has a task of its own."""

    async def fetch(source: KeySource) -> Answer:
        if source.url == "https://slow.example.com":
            await asyncio.Event().wait()
        return Answer({}, "d", None)

    slow, quick = KeySource("https://slow.example.com"), KeySource("https://quick.example.com")
    async with KeyFetcher(lambda _: None, fetch=fetch) as fetcher:
        fetcher.follow([slow, quick])
        await until(lambda: fetcher.states[quick].heard_at)
        assert fetcher.states[slow].heard_at is None


async def test_addresses_come_and_go(watched: Watched, server: KeyServer) -> None:
    """What leaves the policy is asked no more and forgotten; what stays keeps its keys."""
    await watched.at(0)
    other = KeySource(f"{server.url}/other")
    assert {watched.source: watched.keys, other: KeySet({}, -math.inf)} == watched.fetcher.follow(
        [watched.source, other]
    )
    assert {other: KeySet({}, -math.inf)} == watched.fetcher.follow([other])
    assert {} == watched.fetcher.follow([])
    assert not [task for task in asyncio.all_tasks() if "_follow" in repr(task.get_coro()) and not task.cancelling()]


async def test_another_age_is_no_other_address(watched: Watched) -> None:
    """A policy that only changes `max_stale` has the keys in hand count until then; there is no gap."""
    await watched.at(0)
    shorter = watched.source._replace(max_stale_seconds=60)
    found = watched.fetcher.follow([shorter])
    assert {shorter: watched.published[0][watched.source]._replace(usable_until=NOW + 60)} == found


@dataclass
class Deciding:
    """An authorizer whose token service publishes its keys at an address, and questions about its chains."""

    directory: Path
    server: KeyServer
    passed: float = 0.0

    def __post_init__(self) -> None:
        """Write the policy and load it."""
        (self.directory / "bundle.pem").write_bytes(world().ca.bundle_pem)
        self.write(self.policy)
        snapshot = replace(default_snapshot(), policy=load(self.directory))
        self.authorizer = Authorizer(snapshot, KeptRecords(), clock=lambda: NOW + self.passed)

    @property
    def policy(self) -> str:
        """The policy's document."""
        return POLICY.replace("sts.jwks.json", f"'{self.server.address}'")

    def write(self, policy: str) -> None:
        """Replace the policy's document."""
        (self.directory / "policy.yaml").write_text(policy)

    def reason(self, chain: str | None) -> str:
        """Ask with a chain."""
        data = calling(chain).message().SerializeToString()
        return reason_of(CheckResponse.FromString(self.authorizer.check(data)))


@pytest.fixture
def deciding(tmp_path: Path, server: KeyServer) -> Deciding:
    server.give(jwks(jwk("sts-1", world().sts_key)))
    return Deciding(tmp_path, server)


async def heard(fetcher: KeyFetcher) -> None:
    """Wait until each address was heard of."""
    await until(lambda: all(state.heard_at for state in fetcher.states.values()))


async def test_decisions_wait_for_nothing(deciding: Deciding) -> None:
    """Before the first answer a chain is `keys_unavailable`; then it counts, with what was remembered of none."""
    chain = world().root()
    assert "keys_unavailable" == deciding.reason(chain)
    async with following_keys(deciding.authorizer) as fetcher:
        assert "keys_unavailable" == deciding.reason(chain)
        await heard(fetcher)
        assert "allowed" == deciding.reason(chain)


def use(deciding: Deciding, *keys: tuple[str, Ed25519PrivateKey], usable_until: float = math.inf) -> None:
    """Put keys in force as the fetcher does."""
    policy = deciding.authorizer.snapshot.policy
    text = jwks(*[jwk(key_id, key) for key_id, key in keys])
    [source] = policy.key_sources
    found = {source: KeySet(source.parse(text), usable_until, text.decode())}
    deciding.authorizer.snapshot = replace(deciding.authorizer.snapshot, policy=policy.with_keys(found))


def chain_of(key_id: str, key: Ed25519PrivateKey) -> str:
    """Start a chain of the token service with one of its keys."""
    return forged(world().root(), LinkSigner.with_key_id(STS, key_id, key))


def test_a_key_that_left_the_set_verifies_nothing(deciding: Deciding) -> None:
    """Also not what it verified before and was remembered; the key that came in its place does."""
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    chains = [chain_of("old", old), chain_of("new", new)]
    use(deciding, ("old", old))
    assert ["allowed", "token_key"] == [deciding.reason(chain) for chain in chains]
    use(deciding, ("old", old), ("new", new))
    assert ["allowed", "allowed"] == [deciding.reason(chain) for chain in chains]
    use(deciding, ("new", new))
    assert ["token_key", "allowed"] == [deciding.reason(chain) for chain in chains]


def test_keys_count_until_the_boundary_second(deciding: Deciding) -> None:
    """In the last second a chain counts, also one that is remembered; a moment later it does not, until there is news."""
    use(deciding, ("sts-1", world().sts_key), usable_until=NOW + 100)
    chain = world().root()
    deciding.passed = 100
    assert "allowed" == deciding.reason(chain)
    deciding.passed = 100.001
    assert "keys_unavailable" == deciding.reason(chain)
    use(deciding, ("sts-1", world().sts_key), usable_until=NOW + 200)
    assert "allowed" == deciding.reason(chain)


def test_refresh_without_change_keeps_what_is_remembered(deciding: Deciding) -> None:
    """Signatures are not verified again because their keys were fetched again."""
    use(deciding, ("sts-1", world().sts_key), usable_until=NOW + 100)
    delegation = deciding.authorizer.snapshot.policy.delegation
    use(deciding, ("sts-1", world().sts_key), usable_until=NOW + 200)
    again = deciding.authorizer.snapshot.policy.delegation
    assert delegation is not None
    assert again is not None
    assert delegation.verifier._cache is again.verifier._cache
    use(deciding, ("sts-1", Ed25519PrivateKey.generate()))
    changed = deciding.authorizer.snapshot.policy.delegation
    assert changed is not None
    assert delegation.verifier._cache is not changed.verifier._cache


def reloader_of(deciding: Deciding, fetcher: KeyFetcher) -> PolicyReloader:
    """Return a reloader that tells nobody."""

    async def told(_: bool) -> None:  # noqa: FBT001
        return

    announcer = Announcer(lambda _: True)
    return PolicyReloader(deciding.directory, deciding.authorizer, fetcher, announcer=announcer, told=told)


async def test_reload_keeps_the_keys_in_hand(deciding: Deciding) -> None:
    """A policy that is reloaded has the keys at once: no call is refused between the swap and the next fetch."""
    async with following_keys(deciding.authorizer) as fetcher:
        await heard(fetcher)
        reloader = reloader_of(deciding, fetcher)
        deciding.write(f"{deciding.policy} # changed")
        old = deciding.authorizer.snapshot.policy
        assert await reloader.reload()
        assert old.digest != deciding.authorizer.snapshot.policy.digest
        assert "allowed" == deciding.reason(world().root())
        assert 1 == len(deciding.server.asked)


async def test_reload_while_keys_are_fetched(deciding: Deciding) -> None:
    """An answer that was asked for under the old policy supplies the new one; an address that left it is not asked."""
    server = deciding.server
    server.give(Page(server.slowly([jwks(jwk("sts-1", world().sts_key))], 0.3)))
    async with following_keys(deciding.authorizer) as fetcher:
        reloader = reloader_of(deciding, fetcher)
        await until(lambda: server.asked)
        deciding.write(f"{deciding.policy} # changed")
        assert await reloader.reload()
        assert "keys_unavailable" == deciding.reason(world().root())
        await heard(fetcher)
        assert "allowed" == deciding.reason(world().root())
        assert 1 == len(server.asked)
        deciding.write(POLICY.replace("keys: {delegation-sts: sts.jwks.json}", ""))
        assert await reloader.reload()
        assert {} == fetcher.found


async def test_rotation(deciding: Deciding) -> None:
    """A key that took another's place is fetched when it is first shown, a minute after the last fetch at the earliest."""
    server, old, new = deciding.server, Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    server.give(jwks(jwk("old", old)))
    fetcher = KeyFetcher(
        supplying(deciding.authorizer), clock=lambda: NOW + deciding.passed, timer=lambda: deciding.passed
    )
    deciding.authorizer.observers = (asking_again(fetcher),)
    chains = [chain_of("old", old), chain_of("new", new)]
    [source] = deciding.authorizer.snapshot.policy.key_sources

    async def reasons(seconds: float) -> list[str]:
        """Ask with both chains, and let the fetcher look."""
        deciding.passed = seconds
        found = [deciding.reason(chain) for chain in chains]
        await fetcher.look(source)
        await until(lambda: fetcher.states[source].due_at < math.inf)
        return found

    async with fetcher:
        fetcher.follow([source])
        assert ["keys_unavailable", "keys_unavailable"] == await reasons(0)
        server.give(jwks(jwk("new", new)))
        for seconds in (1, 59):
            assert ["allowed", "token_key"] == await reasons(seconds)
        assert 1 == len(server.asked)
        assert ["allowed", "token_key"] == await reasons(60)
        assert ["token_key", "allowed"] == await reasons(61)
        assert 2 == len(server.asked)


async def test_unknown_key_has_keys_fetched(deciding: Deciding) -> None:
    """A chain with a key that is not in the set yet is refused, and asks for the set; other refusals do not."""
    asked: list[int] = []

    class Asked(KeyFetcher):
        def ask_again(self) -> None:
            asked.append(1)

    fetcher = Asked(lambda _: None)
    deciding.authorizer.observers = (asking_again(fetcher),)
    use(deciding, ("sts-1", world().sts_key))
    assert ["token_missing", "allowed"] == [deciding.reason(chain) for chain in (None, world().root())]
    assert [] == asked
    assert "token_key" == deciding.reason(chain_of("sts-2", Ed25519PrivateKey.generate()))
    assert [1] == asked
