"""The Delegation document: whose keys count for whom, and everything that can be wrong with it and its files."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.delegations import TRUST_DOMAIN, world

from ext_authz.errors import PolicyError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.tokens.chain import DelegationTrust, RootLimit
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.key_files import MAX_KEY_FILE_BYTES
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource

HEAD = f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\nid_path: ns/agents/sa/{{name}}\n"
USUAL_BUNDLES = f"bundles: {{{TRUST_DOMAIN}: usual.pem}}\n"
NO_SPIFFE_ID = "not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"


def key_set(*key_ids: str) -> str:
    """Return a JWK set of new public keys."""
    keys = [ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in key_ids]
    return json.dumps(
        {
            "keys": [
                {"kid": key_id, "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(key)}
                for key_id, key in zip(key_ids, keys, strict=True)
            ]
        }
    )


def bundle() -> str:
    """Return the bundle of the agents' trust domain."""
    return world().ca.bundle_pem.decode()


def policy_of(directory: Path, document: str, files: Mapping[str, str | bytes] | None = None) -> Policy:
    """Compile a Delegation document, written behind its kind, with the files beside it.

    One that names no bundles gets that of the agents' trust domain.
    """
    if "bundles:" not in document:
        document += USUAL_BUNDLES
        (directory / "usual.pem").write_text(bundle())
    (directory / "matrix.yaml").write_text(f"{HEAD}")
    (directory / "delegation.yaml").write_text(f"kind: Delegation\n{document}")
    for name, content in (files or {}).items():
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return load(directory)


def trust_of(directory: Path, document: str, files: Mapping[str, str | bytes] | None = None) -> DelegationTrust:
    """Return what such a document makes the server believe."""
    delegation = policy_of(directory, document, files).delegation
    assert delegation is not None
    return delegation.verifier.trust


def problems_of(directory: Path, document: str, files: Mapping[str, str | bytes] | None = None) -> list[str]:
    """Return what is wrong with such a document, paths shortened."""
    with pytest.raises(PolicyError) as caught:
        policy_of(directory, document, files)
    return [problem.replace(f"{directory}/", "").replace(str(directory), ".") for problem in caught.value.problems]


def workload(path: str, trust_domain: str = TRUST_DOMAIN) -> SpiffeId:
    """Return a workload by its path."""
    return SpiffeId.parse_workload(f"spiffe://{trust_domain}/{path}")


def test_defaults(tmp_path: Path) -> None:
    """A document that only names an issuer requires chains, lets them live half an hour and reach five hops."""
    policy = policy_of(tmp_path, "root_issuers: [sts]\n")
    assert policy.delegation is not None
    trust = policy.delegation.verifier.trust
    sts = workload("ns/agents/sa/sts")
    assert policy.delegation.required
    assert (frozenset({sts}), frozenset(), 1800, 5) == (
        trust.root_issuers,
        trust.minters,
        trust.max_ttl_seconds,
        trust.max_depth,
    )
    assert {sts: RootLimit("", is_exact=False, scopes=None)} == trust.root_limits
    assert ([], [TRUST_DOMAIN]) == (list(trust.keys.by_issuer), list(trust.keys.bundles))


def test_policy_without_a_document_verifies_nothing(tmp_path: Path) -> None:
    """Nobody's chains count unless a document says whose."""
    (tmp_path / "matrix.yaml").write_text(HEAD)
    assert load(tmp_path).delegation is None


def test_names_are_those_of_the_matrix(tmp_path: Path) -> None:
    """A plain name goes through `id_path`; a path and a SPIFFE ID, also of another trust domain, are taken whole."""
    partner = workload("sts", "partner.test")
    trust = trust_of(
        tmp_path,
        f"root_issuers: [sts, platform/sts, {{id: '{partner}'}}]\nminters: [sts]\nkeys: {{/mailer: keys.json, sts: keys.json, '{partner}': keys.json}}\n",
        {"keys.json": key_set("a", "b")},
    )
    sts = workload("ns/agents/sa/sts")
    assert {sts, workload("platform/sts"), partner} == trust.root_issuers
    assert {sts} == trust.minters
    assert {workload("mailer"), sts, partner} == trust.keys.by_issuer.keys()
    assert {"a", "b"} == trust.keys.by_issuer[sts].keys.keys()
    assert {} == trust.keys.of(workload("platform/sts"), 0).keys


def test_root_limits(tmp_path: Path) -> None:
    """An issuer's subjects are one, or all with a beginning; its scopes and targets are those listed."""
    trust = trust_of(
        tmp_path,
        'root_issuers:\n- {id: a, subjects: "user:*", scopes: [kb, hr]}\n- {id: b, subjects: batch, targets: [x, /y]}\n'
        '- {id: c, subjects: "*"}\n',
    )
    targets = frozenset({workload("ns/agents/sa/x"), workload("y")})
    assert {
        workload("ns/agents/sa/a"): RootLimit("user:", is_exact=False, scopes=frozenset({"kb", "hr"})),
        workload("ns/agents/sa/b"): RootLimit("batch", is_exact=True, scopes=None, targets=targets),
        workload("ns/agents/sa/c"): RootLimit("", is_exact=False, scopes=None),
    } == trust.root_limits


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("60m", 3600), ("1h", 3600), ("3600s", 3600)]
)
def test_max_ttl(tmp_path: Path, text: str, seconds: int) -> None:
    """Spans of time have a unit."""
    assert seconds == trust_of(tmp_path, f"root_issuers: [sts]\nmax_ttl: {text}\n").max_ttl_seconds


def test_bundles_stand_beside_the_documents_or_elsewhere(tmp_path: Path) -> None:
    """A file's path begins in the policy directory; an absolute one is taken as it is."""
    directory, elsewhere = tmp_path / "policies", tmp_path / "partner.pem"
    directory.mkdir()
    elsewhere.write_bytes(world().partner_ca.bundle_pem)
    trust = trust_of(
        directory,
        f"root_issuers: [sts]\nbundles: {{{TRUST_DOMAIN}: bundle.pem, partner.test: '{elsewhere}'}}\n",
        {"bundle.pem": bundle()},
    )
    expected = {TRUST_DOMAIN: world().ca.bundle, "partner.test": world().partner_ca.bundle}
    assert {name: tuple(roots) for name, roots in expected.items()} == trust.keys.bundles


def test_digest_covers_the_key_files(tmp_path: Path) -> None:
    """Another key is another policy: a reload swaps it in, and records name it."""
    document = "root_issuers: [sts]\nkeys: {sts: keys.json}\n"
    first, second = key_set("a"), key_set("a")
    digests = [policy_of(tmp_path, document, {"keys.json": text}).digest for text in (first, first, second)]
    assert digests[0] == digests[1] != digests[2]


def test_keys_at_an_address(tmp_path: Path) -> None:
    """What has `://` is an address: its issuer has no keys until they were fetched, and the others are not touched."""
    policy = policy_of(
        tmp_path,
        "root_issuers: [sts]\nmax_stale: 90m\nkeys: {sts: 'https://sts.example.com/jwks', mailer: keys.json}\n",
        {"keys.json": key_set("a")},
    )
    assert policy.delegation is not None
    sts, source = workload("ns/agents/sa/sts"), KeySource("https://sts.example.com/jwks", max_stale_seconds=5400)
    assert {sts: source} == policy.delegation.sources
    assert frozenset({source}) == policy.key_sources
    assert NO_KEYS == policy.delegation.verifier.trust.keys.by_issuer[sts]
    fetched = KeySet({}, usable_until=7, digest="d")
    delegation = policy.with_keys({source: fetched}).delegation
    assert delegation is not None
    assert fetched == delegation.verifier.trust.keys.by_issuer[sts]
    assert {"a"} == delegation.verifier.trust.keys.by_issuer[workload("ns/agents/sa/mailer")].keys.keys()


def test_keys_at_an_address_count_an_hour_without_news(tmp_path: Path) -> None:
    """The usual `max_stale`."""
    document = "root_issuers: [sts]\nkeys: {sts: 'http://127.0.0.1:8080/jwks'}\n"
    [source] = policy_of(tmp_path, document).key_sources
    assert 3600 == source.max_stale_seconds


@pytest.mark.parametrize(
    ("document", "cell", "mode"),
    [
        ("", "[read]", "optional"),
        ("root_issuers: [sts]", "[read]", "required"),
        ("root_issuers: [sts]\nrequired: true", "{actions: [read]}", "required"),
        ("root_issuers: [sts]\nrequired: false", "[read]", "optional"),
        ("root_issuers: [sts]", "{actions: [read], delegation: optional}", "optional"),
        ("root_issuers: [sts]", "{actions: [read], delegation: forbidden}", "forbidden"),
        ("root_issuers: [sts]\nrequired: false", "{actions: [read], delegation: required}", "required"),
        ("", "{actions: [read], delegation: forbidden}", "forbidden"),
    ],
)
def test_mode_of_a_cell(tmp_path: Path, document: str, cell: str, mode: str) -> None:
    """A cell says whether it needs a chain, else the Delegation document does; without one it is optional."""
    (tmp_path / "matrix.yaml").write_text(f"{HEAD}matrix: {{a: {{b: {cell}}}}}\n")
    (tmp_path / "actions.yaml").write_text("kind: ActionRegistry\nactions: {read: {asserted: true}}\n")
    if document:
        (tmp_path / "usual.pem").write_text(bundle())
        (tmp_path / "delegation.yaml").write_text(f"kind: Delegation\n{document}\n{USUAL_BUNDLES}")
    a, b = workload("ns/agents/sa/a"), workload("ns/agents/sa/b")
    [grant] = load(tmp_path).matrix.evaluate(AuthorizationRequest(a, "read", b, Context(0))).grants
    assert mode == grant.delegation


def test_cell_that_nothing_could_satisfy(tmp_path: Path) -> None:
    """A cell that needs a chain needs a Delegation document, else each of its calls would be refused."""
    (tmp_path / "all.yaml").write_text(
        f"{HEAD}matrix: {{a: {{b: {{actions: [read], delegation: required}}}}}}\n---\nkind: ActionRegistry\n"
        "actions: {read: {asserted: true}}\n"
    )
    with pytest.raises(PolicyError) as caught:
        load(tmp_path)
    assert (
        f"{tmp_path}/all.yaml:4:47: no chain can be verified: add a Delegation document that says whose count",
    ) == caught.value.problems


def test_scope_of_an_action(tmp_path: Path) -> None:
    """An action needs the scope that its entry names, else the one of its own name."""
    (tmp_path / "all.yaml").write_text(
        f"{HEAD}---\nkind: ActionRegistry\nactions:\n  read: {{asserted: true}}\n  chat: {{asserted: true, scope: 'llm:Chat/v1'}}\n"
    )
    scopes = {name: action.scope for name, action in load(tmp_path).registry.actions.items()}
    assert {"read": "read", "chat": "llm:Chat/v1"} == scopes


def _private_jwk() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.private_numbers()
    parts = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
    encoded = {name: encode_base64url(value.to_bytes(32, "big")) for name, value in parts.items()}
    return json.dumps({"keys": [{"kid": "a", "kty": "EC", "crv": "P-256", **encoded}]})


def _private_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


ROOT = "root_issuers: [sts]\n"
PROBLEMS: dict[str, tuple[str, Mapping[str, str | bytes], list[str]]] = {
    "names of no workload": (
        "root_issuers: [a b, {id: '*'}]\nminters: [sts, ../x]\nkeys: {'@g': k.json}\n",
        {"k.json": key_set("a")},
        [
            f"delegation.yaml:2:16: `a b` names no workload: {NO_SPIFFE_ID}",
            f"delegation.yaml:2:21: `*` names no workload: {NO_SPIFFE_ID}",
            f"delegation.yaml:3:16: `../x` names no workload: {NO_SPIFFE_ID}",
            f"delegation.yaml:4:8: `@g` names no workload: {NO_SPIFFE_ID}",
        ],
    ),
    "one issuer twice": (
        f"root_issuers: [sts, {{id: /ns/agents/sa/sts, subjects: x}}]\nminters: [sts, sts]\nkeys: {{sts: k.json, spiffe://{TRUST_DOMAIN}/ns/agents/sa/sts: k.json}}\n",
        {"k.json": key_set("a")},
        [
            "delegation.yaml:2:21: `/ns/agents/sa/sts` names a workload that stands here already",
            "delegation.yaml:3:16: `sts` names a workload that stands here already",
            f"delegation.yaml:4:21: `spiffe://{TRUST_DOMAIN}/ns/agents/sa…` names a workload that stands here already",
        ],
    ),
    "no address": (
        f"{ROOT}keys: {{sts: 'http://sts.example.com/jwks', mailer: 'https://user:secret@x.test/', a: 'spiffe://{TRUST_DOMAIN}/sts', b: '://'}}\n",
        {},
        [
            "delegation.yaml:3:13: an address begins with https://, or on this machine with http://127.0.0.1",
            "delegation.yaml:3:52: an address holds no user name and no password",
            "delegation.yaml:3:86: an address begins with https://, or on this machine with http://127.0.0.1",
            "delegation.yaml:3:124: an address begins with https://, or on this machine with http://127.0.0.1",
        ],
    ),
    "stale too soon": (
        f"{ROOT}max_stale: 59s\n",
        {},
        ["delegation.yaml:3:12: `59s` is no time that keys may count without news: 1m to 24h"],
    ),
    "stale too late": (
        f"{ROOT}max_stale: 1441m\n",
        {},
        ["delegation.yaml:3:12: `1441m` is no time that keys may count without news: 1m to 24h"],
    ),
    "root issuers without keys": (
        "root_issuers: [sts, {id: spiffe://partner.test/sts}, mailer]\nkeys: {mailer: k.json}\nbundles: {}\n",
        {"k.json": key_set("a")},
        [
            f"delegation.yaml:2:16: `sts` has no key: add it to `keys` or the `key_directory`, or `{TRUST_DOMAIN}` to `bundles`",
            "delegation.yaml:2:21: `spiffe://partner.test/sts` has no key: add it to `keys` or the `key_directory`, or `partner.test` to `bundles`",
        ],
    ),
    "targets of no workload": (
        "root_issuers: [{id: sts, targets: [a, a b, a]}]\n",
        {},
        [
            f"delegation.yaml:2:39: `a b` names no workload: {NO_SPIFFE_ID}",
            "delegation.yaml:2:44: `a` names a workload that stands here already",
        ],
    ),
    "lives too long": (
        f"{ROOT}max_ttl: 61m\n",
        {},
        ["delegation.yaml:3:10: `61m` is longer than any chain may live: at most 1h"],
    ),
    "missing files": (
        f"{ROOT}keys: {{sts: k.json}}\nbundles:\n  {TRUST_DOMAIN}: b.pem\n",
        {},
        [
            "delegation.yaml:3:13: cannot read `k.json`: No such file or directory",
            "delegation.yaml:5:23: cannot read `b.pem`: No such file or directory",
        ],
    ),
    "no file": (f"{ROOT}keys: {{sts: .}}\n", {}, ["delegation.yaml:3:13: `.` is not a regular file"]),
    "no JWK set": (f"{ROOT}keys: {{sts: k.json}}\n", {"k.json": "[]"}, ["delegation.yaml:3:13: `k.json`: not a JWK set"]),
    "no JSON": (f"{ROOT}keys: {{sts: k.json}}\n", {"k.json": b"\xff"}, ["delegation.yaml:3:13: `k.json`: not a JWK set"]),
    "nested": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": "[" * 100_000},
        ["delegation.yaml:3:13: `k.json`: not a JWK set"],
    ),
    "no keys": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": '{"keys": []}'},
        ["delegation.yaml:3:13: `k.json`: a JWK set holds 1 to 64 keys"],
    ),
    "one kid twice": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": key_set("a", "a")},
        [
            "delegation.yaml:3:13: `k.json`: each key has a `kid` of its own: 1 to 128 printable ASCII characters without spaces"
        ],
    ),
    "private key": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": _private_jwk()},
        ["delegation.yaml:3:13: `k.json`: a private or symmetric key does not belong into a set of public keys"],
    ),
    "damaged key": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": '{"keys": [{"kid": "a", "kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}'},
        ["delegation.yaml:3:13: `k.json`: a key is of a type that the profile does not use, or is damaged"],
    ),
    "too large": (
        f"{ROOT}keys: {{sts: k.json}}\n",
        {"k.json": " " * (MAX_KEY_FILE_BYTES + 1)},
        ["delegation.yaml:3:13: `k.json` is larger than 1048576 bytes"],
    ),
    "no trust domain": (
        f"{ROOT}bundles: {{Agents.Example.Com: b.pem, spiffe://{TRUST_DOMAIN}: b.pem, {TRUST_DOMAIN}/x: b.pem}}\nkeys: {{sts: k.json}}\n",
        {"b.pem": bundle(), "k.json": key_set("a")},
        [
            f"delegation.yaml:3:11: `Agents.Example.Com` is no trust domain: {NO_SPIFFE_ID}",
            f"delegation.yaml:3:38: `spiffe://{TRUST_DOMAIN}` is no trust domain: {NO_SPIFFE_ID}",
            f"delegation.yaml:3:74: `{TRUST_DOMAIN}/x` is no trust domain: a trust domain has no path",
        ],
    ),
    "no certificates": (
        f"{ROOT}bundles: {{{TRUST_DOMAIN}: b.pem, partner.test: c.pem}}\n",
        {"b.pem": "", "c.pem": _private_pem()},
        ["delegation.yaml:3:31: `b.pem` holds no PEM certificates", "delegation.yaml:3:52: `c.pem` holds no PEM certificates"],
    ),
    "two documents": (
        f"{ROOT}bundles: {{{TRUST_DOMAIN}: b.pem}}\n---\nkind: Delegation\n{ROOT}",
        {"b.pem": bundle()},
        ["delegation.yaml:5:7: a policy has one Delegation document, the first is in delegation.yaml"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "files", "problems"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(tmp_path: Path, document: str, files: Mapping[str, str | bytes], problems: list[str]) -> None:
    """Each problem is told once, with the place of the word that is wrong, and all come in one run."""
    assert problems == problems_of(tmp_path, document, files)
