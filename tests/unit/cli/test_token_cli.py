"""`ext-authz token`: keys, chains and what can be seen of them."""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from support.delegations import BROKER, CRM, DROP, EVIL, MAILER, PLANNER, RETRIEVER, STS, claims_of, forged, world
from support.key_server import KeyServer
from typer.testing import CliRunner, Result

from ext_authz.cli.exits import NO, UNUSABLE
from ext_authz.cli.token import UNVERIFIED, app
from ext_authz.local.ca import DevelopmentCa
from ext_authz.stores.control import ControlStore
from ext_authz.stores.entry import Entry, Kind

DOMAIN = "agents.example.com"


def run(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=text)


def printed(*arguments: str | Path, text: str | None = None) -> str:
    """Run a command that must succeed and return what it prints."""
    done = run(*arguments, text=text)
    assert 0 == done.exit_code, done.output
    return done.stdout.strip()


class Workshop:
    """A directory with the token service's key, the retriever's SVID and the bundle, all of this very moment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key, self.jwks, self.bundle = (directory / name for name in ("sts.pem", "sts.jwks.json", "bundle.pem"))
        printed("keygen", "--kid", "sts-1", "--private", self.key, "--public", self.jwks)
        ca = DevelopmentCa.create(DOMAIN)
        self.bundle.write_bytes(ca.bundle_pem)
        svid = ca.issue(RETRIEVER)
        self.svid = directory / "svid"
        self.svid.mkdir()
        svid.write_to(self.svid)

    @property
    def sts(self) -> tuple[str, ...]:
        return ("--key", str(self.key), "--kid", "sts-1", "--issuer", STS.uri)

    def mint(self, *more: str) -> str:
        """Return a root in act form, for the planner."""
        usual = ("--on-behalf-of", "user:alice", "--audience", RETRIEVER.uri, "--actor", PLANNER.uri)
        scopes = ("--scope", "search", "--scope", "read")
        targets = ("--target", RETRIEVER.uri, "--target", CRM.uri, "--target", MAILER.uri)
        return printed("mint", *usual, *scopes, *targets, *self.sts, *more)

    def attenuate(self, chain: str | Path, *more: str) -> str:
        return printed("attenuate", chain, "--audience", CRM.uri, "--svid", self.svid, *more)

    def verify(
        self, chain: str | Path, *more: str | Path, presenter: str = RETRIEVER.uri, destination: str = CRM.uri
    ) -> Result:
        parties = (
            "--presenter",
            presenter,
            "--destination",
            destination,
            "--root-issuer",
            STS.uri,
            "--minter",
            STS.uri,
        )
        keys = ("--keys", f"{STS}={self.jwks}", "--bundle", f"{DOMAIN}={self.bundle}")
        return run("verify", chain, *parties, *keys, *more)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_from_key_to_authority(workshop: Workshop) -> None:
    """A key, a root, a link and the verification of both, each with a command."""
    chain = workshop.attenuate(workshop.mint("--session", "session-0123456789"), "--scope", "search", "--ttl", "60s")
    done = workshop.verify(chain, "--json")
    answer = json.loads(done.stdout)
    assert 0 == done.exit_code
    assert 2 == len(answer.pop("token_ids"))
    assert answer.pop("expires_at").endswith("Z")
    assert {
        "valid": True,
        "on_behalf_of": "user:alice",
        "session_id": "session-0123456789",
        "scopes": ["search"],
        "allowed_targets": sorted([RETRIEVER.uri, CRM.uri, MAILER.uri]),
        "actors": [PLANNER.uri, RETRIEVER.uri],
        "root_issuer": STS.uri,
        "depth": 4,
        "hops": 2,
        "once": False,
    } == answer


def write_policy(workshop: Workshop, **more: Any) -> Path:
    """Write a policy that trusts the token service."""
    directory = workshop.directory / "policies"
    directory.mkdir()
    document = {
        "kind": "Delegation",
        "root_issuers": [STS.uri],
        "minters": [STS.uri],
        "keys": {STS.uri: str(workshop.jwks)},
        "bundles": {DOMAIN: str(workshop.bundle)},
    }
    (directory / "matrix.yaml").write_text(f"kind: PermissionMatrix\ntrust_domain: {DOMAIN}\n")
    (directory / "delegation.yaml").write_text(json.dumps(document | more))
    return directory


def verified_by_policy(directory: Path, chain: str, *more: str | Path) -> Result:
    return run("verify", chain, "--policies", directory, "--presenter", "retriever", "--destination", "crm", *more)


def test_trust_of_a_policy(workshop: Workshop) -> None:
    """A policy says whose chains count and how far they go; workloads go by its names."""
    directory, chain = write_policy(workshop, max_ttl="15m"), workshop.attenuate(workshop.mint())
    assert "valid" == verified_by_policy(directory, chain).stdout.splitlines()[0]
    long = workshop.attenuate(workshop.mint("--ttl", "16m"), "--ttl", "60s")
    done = verified_by_policy(directory, long)
    assert (NO, "refused: token_expired: link 0 lives longer than 900 s\n") == (done.exit_code, done.stdout)


def test_trust_of_a_policy_with_an_address(workshop: Workshop) -> None:
    """Keys at an address are fetched once; what cannot be fetched is told."""
    with KeyServer.running(workshop.jwks.read_bytes()) as server:
        directory = write_policy(workshop, keys={STS.uri: server.address})
        chain = workshop.attenuate(workshop.mint())
        assert 0 == verified_by_policy(directory, chain).exit_code
        server.give(b"nothing")
        done = verified_by_policy(directory, chain)
        assert (UNUSABLE, f"{server.address}: not a JWK set\n") == (done.exit_code, done.stderr)


def test_revocations_of_a_store(workshop: Workshop) -> None:
    """What was revoked in the servers' store is refused, by a policy and by flags."""
    store = workshop.directory / "control" / "control.sqlite"
    chain = workshop.attenuate(workshop.mint("--session", "session-0123456789"))
    with ControlStore.open(store, create=True) as control:
        control.add(Entry.new(Kind.SESSION_ID, "session-0123456789", time.time()))
    refused = "refused: token_revoked: link 0 was revoked\n"
    assert refused == workshop.verify(chain, "--store", store).stdout
    directory = write_policy(workshop)
    assert refused == verified_by_policy(directory, chain, "--store", store).stdout
    assert 0 == verified_by_policy(directory, chain).exit_code


def test_trust_comes_from_one_place(workshop: Workshop) -> None:
    """A policy and flags about the same thing contradict each other, and one of both is needed."""
    directory = write_policy(workshop)
    for flag in (("--root-issuer", STS.uri), ("--keys", f"{STS}={workshop.jwks}"), ("--bundle", f"{DOMAIN}=x")):
        done = verified_by_policy(directory, "eyJh.b.c", *flag)
        assert (UNUSABLE, "--policies says whose chains count: leave the other flags about it out\n") == (
            done.exit_code,
            done.stderr,
        )
    done = run("verify", "eyJh.b.c", "--presenter", PLANNER.uri, "--destination", CRM.uri)
    assert (UNUSABLE, "name --policies, or at least one --root-issuer\n") == (done.exit_code, done.stderr)
    (directory / "delegation.yaml").unlink()
    done = verified_by_policy(directory, "eyJh.b.c")
    assert f"{directory}: no Delegation document says whose chains count\n" == done.stderr


def test_key_for_a_key_directory(workshop: Workshop) -> None:
    """With its owner inside, the public file is one of a key directory: put there, the key signs for its owner."""
    agents = workshop.directory / "agents"
    agents.mkdir()
    key = workshop.directory / "planner.pem"
    options = ("--kid", "planner-1", "--private", key, "--public", agents / "planner.json", "--issuer", PLANNER.uri)
    printed("keygen", *options)
    directory = write_policy(workshop, key_directory=str(agents), root_issuers=[PLANNER.uri], minters=[])
    chain = printed(
        *("mint", "--key", key, "--kid", "planner-1", "--issuer", PLANNER.uri, "--on-behalf-of", "user:alice"),
        *("--scope", "read", "--audience", RETRIEVER.uri),
    )
    shown = ("--policies", directory, "--presenter", "planner", "--destination", "retriever")
    assert "valid" == printed("verify", chain, *shown).splitlines()[0]


def test_owner_of_a_key_is_a_workload(tmp_path: Path) -> None:
    """An owner that is none is told, and nothing is written."""
    done = run("keygen", "--private", tmp_path / "a", "--public", tmp_path / "b", "--issuer", "planner")
    assert (UNUSABLE, []) == (done.exit_code, list(tmp_path.iterdir()))
    assert done.stderr.startswith("--issuer: `planner`: not a SPIFFE ID")


def test_authority_for_people(workshop: Workshop) -> None:
    """Without --json, the authority comes line by line."""
    lines = workshop.verify(workshop.attenuate(workshop.mint())).stdout.splitlines()
    assert "valid" == lines[0]
    assert "  on behalf of    user:alice" in lines
    assert ["  scopes          read", "                  search"] == lines[lines.index("  scopes          read") :][:2]


def test_refusal(workshop: Workshop) -> None:
    """A chain that is refused says why, and exits with 1."""
    chain = workshop.attenuate(workshop.mint())
    done = workshop.verify(chain, presenter=EVIL.uri)
    assert (NO, "refused: token_presenter: the chain was made for another caller\n") == (done.exit_code, done.stdout)
    done = workshop.verify(chain, "--at", "2020-01-01T00:00:00Z", "--json")
    assert NO == done.exit_code
    assert {"valid": False, "reason": "token_key"} == {
        name: value for name, value in json.loads(done.stdout).items() if name != "detail"
    }


@pytest.mark.parametrize("form", ["argument", "file", "standard input"])
def test_where_a_chain_comes_from(workshop: Workshop, form: str) -> None:
    """A chain is given as itself, in a file, or on standard input."""
    root = workshop.mint()
    file = workshop.directory / "chain.with.dots"
    file.write_text(f"{root}\n")
    arguments: dict[str, str | Path] = {"argument": root, "file": file, "standard input": "-"}
    argument = arguments[form]
    text = f"{root}\n" if form == "standard input" else None
    assert UNVERIFIED in printed("inspect", argument, text=text)
    chain = printed("attenuate", argument, "--audience", CRM.uri, "--svid", workshop.svid, text=text)
    assert chain.startswith(f"{root}~")


def test_inspection_says_first_that_it_is_none(workshop: Workshop) -> None:
    """What is shown was not verified: the first line says so in capitals, and JSON says so too."""
    chain = workshop.attenuate(workshop.mint("--once", "--depth", "3"))
    lines = printed("inspect", chain).splitlines()
    assert lines[0].startswith("NOT VERIFIED: ANYBODY CAN HAVE WRITTEN THIS")
    shown = {line[:16].strip(): line[18:] for line in lines if line.startswith("  ") and line[2] != " "}
    assert ["link 0: the root", "link 1"] == [line for line in lines if line.startswith("link")]
    assert (RETRIEVER.uri, CRM.uri, "2 of 3") == (shown["holder"], shown["audience"], shown["depth"])
    assert "ES256, x5c of 1 certificates" == shown["signed with"]
    assert f"  holder          {PLANNER}" in lines
    answer = json.loads(printed("inspect", chain, "--json"))
    assert answer["verified"] is False
    assert [[*claims_of(link)] for link in chain.split("~")] == [[*link["claims"]] for link in answer["links"]]
    assert [None, None] == [link["problem"] for link in answer["links"]]


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        ({"scope": "all"}, "  problem         scope is missing or no list of 1 to 64 strings"),
        ({"iat": "soon"}, "  issued at       soon"),
        ({"iat": True}, "  issued at       true"),
        ({"act": "planner"}, f"  holder          {STS}"),
        ({"exp": 2**53}, "  problem         it lives longer than 3600 s"),
        ({"sub": "\u009b31m\u202e"}, "  on behalf of    \\u009b31m\\u202e"),
        ({"iss": DROP}, "  problem         iss is missing or no string"),
    ],
)
def test_inspection_of_broken_links(claims: dict[str, Any], line: str) -> None:
    """What a verifier would refuse is shown with the reason, and never obeyed by the terminal."""
    assert line in printed("inspect", forged(world().root(), world().sts, claims=claims)).splitlines()


@pytest.mark.parametrize(
    "header", [{"kid": DROP}, {"x5c": 1, "kid": DROP}, {"kid": DROP, "x5t#S256": "abc"}, {"kid": None}]
)
def test_inspection_of_odd_keys(header: dict[str, Any]) -> None:
    """Whatever names the key is shown as far as it goes."""
    assert "signed with" in printed("inspect", forged(world().root(), world().sts, header=header))


def test_single_use_and_binding(workshop: Workshop) -> None:
    """A link can be for one call, and for one certificate of its presenter."""
    certificate = workshop.svid / "svid.pem"
    chain = workshop.attenuate(
        workshop.mint(), "--once", "--bind", str(certificate), "--depth", "0", "--target", CRM.uri
    )
    assert NO == workshop.verify(chain).exit_code
    answer = json.loads(workshop.verify(chain, "--certificate", certificate, "--json").stdout)
    assert (True, 0, [CRM.uri]) == (answer["once"], answer["depth"], answer["allowed_targets"])


def test_minter_signs_for_an_agent(workshop: Workshop) -> None:
    """The token service can sign the second link for the agent that received the first."""
    chain = printed("attenuate", workshop.mint(), "--audience", CRM.uri, "--actor", RETRIEVER.uri, *workshop.sts)
    assert 0 == workshop.verify(chain).exit_code


def test_what_the_chain_does_not_give(workshop: Workshop) -> None:
    """Asking for more is answered with no, and with what is too much; nothing is printed that could be used."""
    root = workshop.mint()
    for more, why in (
        (("--scope", "admin"), "the chain does not give scope `admin`"),
        (("--target", EVIL.uri), f"the chain does not give target `{EVIL}`"),
        (("--depth", "5"), "depth `5` is not possible: expected 0 to 4"),
        (("--ttl", "2h"), "a lifetime of `7200` s is not possible"),
    ):
        done = run("attenuate", root, "--audience", CRM.uri, "--svid", workshop.svid, *more)
        assert (NO, "") == (done.exit_code, done.stdout)
        assert why in done.stderr


def test_root_for_its_audience_only(workshop: Workshop) -> None:
    """Without --target the audience is the only target."""
    usual = ("--on-behalf-of", "u", "--audience", RETRIEVER.uri, "--scope", "a", *workshop.sts)
    assert [RETRIEVER.uri] == claims_of(printed("mint", *usual))["allowed_targets"]
    assert NO == run("mint", *usual, "--scope", "*").exit_code


@pytest.mark.parametrize("algorithm", ["Ed25519", "ed25519", "ES256", "es256"])
def test_new_key(tmp_path: Path, algorithm: str) -> None:
    """The private key goes to a file of mode 0600 and nowhere else; the name is its thumbprint."""
    private, public = tmp_path / "key.pem", tmp_path / "key.json"
    old = os.umask(0)
    try:
        done = printed("keygen", "--algorithm", algorithm, "--private", private, "--public", public)
    finally:
        os.umask(old)
    assert 0o600 == stat.S_IMODE(private.stat().st_mode)
    (jwk,) = json.loads(public.read_text())["keys"]
    assert algorithm.lower() == jwk["alg"].lower()
    assert jwk["kid"] in done
    secret = private.read_text().splitlines()[1]
    assert secret not in done + public.read_text()


@pytest.mark.parametrize("existing", ["key.pem", "key.json"])
def test_no_key_is_overwritten(tmp_path: Path, existing: str) -> None:
    """When either file exists, neither is written."""
    (tmp_path / existing).write_text("precious")
    done = run("keygen", "--private", tmp_path / "key.pem", "--public", tmp_path / "key.json")
    assert (UNUSABLE, f"{tmp_path / existing}: File exists\n") == (done.exit_code, done.stderr)
    assert ["precious"] == [path.read_text() for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("inspect", "no-such-file"), "no-such-file: No such file or directory"),
        (("inspect", "eyJh.b.c"), "link 0 of the delegation chain is not canonical base64url"),
        (("attenuate", "no-such-file", "--audience", CRM.uri), "no-such-file: No such file or directory"),
        (("attenuate", "eyJh.b.c", "--audience", "crm"), "--audience: `crm`: not a SPIFFE ID"),
        (("attenuate", "eyJh.b.c", "--audience", CRM.uri), "a link is signed either with --svid, or with --key"),
        (
            ("attenuate", "eyJh.b.c", "--audience", CRM.uri, "--ttl", "soon"),
            "--ttl: `soon`: expected a number and s, m",
        ),
        (
            ("attenuate", "eyJh.b.c", "--audience", CRM.uri, "--svid", "no-such"),
            "svid.pem and no-such/svid_key.pem: No such file",
        ),
        (
            ("attenuate", "eyJh.b.c", "--audience", CRM.uri, "--svid", "x", "--kid", "y"),
            "a link is signed either with --svid",
        ),
        (("attenuate", "eyJh.b.c", "--audience", CRM.uri, "--bind", "no-such"), "no-such: No such file or directory"),
        (("verify", "eyJh.b.c", "--keys", "x"), "--keys: `x`: expected NAME=FILE"),
        (("verify", "eyJh.b.c", "--keys", "x=y"), "--keys: `x`: not a SPIFFE ID"),
        (("verify", "eyJh.b.c", "--keys", f"{STS}=no-such"), "no-such: No such file or directory"),
        (("verify", "eyJh.b.c", "--keys", f"{STS}=README.md"), "README.md: not a JWK set"),
        (("verify", "eyJh.b.c", "--bundle", "x=README.md"), "README.md: not a list of certificates in PEM"),
        (("verify", "eyJh.b.c", "--at", "now"), "--at: `now`: expected Unix seconds"),
    ],
)
def test_unusable(arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read exits with 2 and names the flag or the file."""
    monkeypatch.chdir(Path(__file__).parents[3])
    parties = ("--presenter", CRM.uri, "--destination", BROKER.uri, "--root-issuer", STS.uri)
    done = run(*arguments, *(parties if arguments[0] == "verify" else ()))
    assert (UNUSABLE, "") == (done.exit_code, done.stdout)
    assert problem in done.stderr


def test_key_that_is_none(workshop: Workshop) -> None:
    """A file that holds no key is named, and its content is not."""
    workshop.key.write_text("not a key")
    done = run("mint", "--on-behalf-of", "u", "--audience", CRM.uri, "--scope", "a", *workshop.sts)
    assert (UNUSABLE, f"{workshop.key}: not an unencrypted private key in PEM\n") == (done.exit_code, done.stderr)
