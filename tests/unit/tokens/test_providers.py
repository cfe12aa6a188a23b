"""The IdentityProviders document: whose access tokens count for what, and everything that can be wrong with it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.access_tokens import AUDIENCE, CLIENT, ISSUER, PARTNER, USER, providers
from support.delegations import NOW, PLANNER, RETRIEVER, TRUST_DOMAIN, workload

from ext_authz.client.signing import public_jwk
from ext_authz.errors import NotAllowed, PolicyError, Reason
from ext_authz.identity.identify import Identity
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.tokens.access_token import AccessToken, Provider
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource
from ext_authz.tokens.providers import ProviderPolicy

HEAD = f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\n"
ACTIONS = "kind: ActionRegistry\nactions: {read: {asserted: true}, chat: {asserted: true, access_token: required}}\n"
ONE = f"providers:\n- issuer: {ISSUER}\n  audience: {AUDIENCE}\n"
KEYS = "  keys: keys.json\n"


def jwks() -> bytes:
    """Return what the first provider publishes."""
    return providers().idp.jwks


def policy_of(
    directory: Path, document: str, files: Mapping[str, str | bytes] | None = None, matrix: str = "", actions: str = ""
) -> Policy:
    """Compile an IdentityProviders document, written behind its kind, with the files beside it."""
    (directory / "matrix.yaml").write_text(f"{HEAD}{matrix}")
    if actions:
        (directory / "actions.yaml").write_text(actions)
    if document:
        (directory / "providers.yaml").write_text(f"kind: IdentityProviders\n{document}")
    for name, content in (files or {}).items():
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return load(directory)


def providing(policy: Policy) -> ProviderPolicy:
    """Return what a policy says about access tokens."""
    assert policy.providers is not None
    return policy.providers


def provider_of(directory: Path, document: str) -> Provider:
    """Return the only provider of such a document, with the first provider's keys in `keys.json`."""
    [provider] = providing(policy_of(directory, document, {"keys.json": jwks()})).trust.providers.values()
    return provider


def problems_of(
    directory: Path, document: str, files: Mapping[str, str | bytes] | None = None, **others: str
) -> list[str]:
    """Return what is wrong with such a document, paths shortened."""
    with pytest.raises(PolicyError) as caught:
        policy_of(directory, document, {"keys.json": jwks()} | dict(files or {}), **others)
    return [problem.replace(f"{directory}/", "").replace(str(directory), ".") for problem in caught.value.problems]


def test_defaults(tmp_path: Path) -> None:
    """A provider that only says who it is and for whom its tokens are has short-lived tokens of RFC 9068's type."""
    provider = provider_of(tmp_path, ONE + KEYS)
    assert {"idp-1", "idp-rsa", "idp-ed"} == provider.keys.keys.keys()
    expected = Provider(
        issuer=ISSUER,
        audiences=frozenset({AUDIENCE}),
        keys=provider.keys,
        token_types=frozenset({"at+jwt"}),
        max_ttl_seconds=900,
        clients=None,
        before_sub="user:",
        after_sub="",
        scope_claim="scope",
        scopes=None,
    )
    assert expected == provider


def test_every_key(tmp_path: Path) -> None:
    """Each key of a provider says what its name says."""
    document = (
        f"{ONE}{KEYS}  token_types: [at+jwt, JWT]\n  max_ttl: 1h\n  max_stale: 24h\n  scope_claim: scp\n"
        "  clients: {a: planner, b c: [planner, /x/y, 'spiffe://partner.test/z']}\n"
        '  on_behalf_of: "{sub}@example.com"\n  scopes: {Read.All: [kb, hr], "urn:x": [kb]}\n'
    )
    provider = provider_of(tmp_path, document.replace(f"audience: {AUDIENCE}", "audience: [a, b]"))
    assert ({"a", "b"}, {"at+jwt", "jwt"}, 3600) == (
        set(provider.audiences),
        set(provider.token_types),
        provider.max_ttl_seconds,
    )
    others = (workload("x/y"), workload("z", "partner.test"))
    assert {"a": frozenset({PLANNER}), "b c": frozenset({PLANNER, *others})} == provider.clients
    assert ("", "@example.com", "scp") == (provider.before_sub, provider.after_sub, provider.scope_claim)
    assert {"Read.All": frozenset({"kb", "hr"}), "urn:x": frozenset({"kb"})} == provider.scopes


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        (KEYS, None),
        ("", KeySource(ISSUER, is_issuer=True, max_stale_seconds=3600)),
        ("  max_stale: 2h\n", KeySource(ISSUER, is_issuer=True, max_stale_seconds=7200)),
        (
            "  keys: https://login.example.com/keys\n",
            KeySource("https://login.example.com/keys", is_provider=True, max_stale_seconds=3600),
        ),
    ],
)
def test_where_keys_come_from(tmp_path: Path, keys: str, source: KeySource | None) -> None:
    """Keys come from a file, from an address, or, when nothing is said, from where the issuer's metadata says."""
    policy = policy_of(tmp_path, ONE + keys, {"keys.json": jwks()})
    assert ({source} if source else set()) == policy.key_sources
    [provider] = providing(policy).trust.providers.values()
    assert (source is not None) is (provider.keys is NO_KEYS)


def test_digest_covers_the_key_files(tmp_path: Path) -> None:
    """Other keys are another policy."""
    first, second = jwks(), providers().partner.jwks
    digests = [policy_of(tmp_path, ONE + KEYS, {"keys.json": text}).digest for text in (first, first, second)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("cell", "action", "mode"),
    [
        ("[read]", "read", None),
        ("[chat]", "chat", "required"),
        ("{actions: [read], access_token: required}", "read", "required"),
        ("{actions: [read], access_token: optional}", "read", "optional"),
        ("{actions: [chat], access_token: optional}", "chat", "optional"),
        ("{actions: [chat], access_token: forbidden}", "chat", "forbidden"),
    ],
)
def test_mode_of_a_cell(tmp_path: Path, cell: str, action: str, mode: str | None) -> None:
    """A cell says whether it needs an access token, else the action does; else nobody looks."""
    policy = policy_of(tmp_path, ONE + KEYS, {"keys.json": jwks()}, f"matrix: {{a: {{b: {cell}}}}}\n", ACTIONS)
    request = AuthorizationRequest(workload("a"), action, workload("b"), Context(0))
    [grant] = policy.matrix.evaluate(request).grants
    assert mode == grant.access_token
    assert (mode in {"required", "optional"}) is grant.asks_for_access_token


def _asks_in_vain(directory: Path) -> list[str]:
    cells = "{b: {actions: [read], access_token: required}, c: {actions: [read], access_token: optional}}"
    return problems_of(directory, "", matrix=f"matrix: {{a: {cells}}}\n", actions=ACTIONS)


def test_nobody_asks_in_vain(tmp_path: Path) -> None:
    """Cells and actions that ask for access tokens need a document that says whose count; those that forbid do not."""
    why = "access tokens are asked for, and no IdentityProviders document says whose count"
    assert [
        f"actions.yaml:2:72: {why}",
        f"matrix.yaml:3:49: {why}",
        f"matrix.yaml:3:95: {why}",
    ] == _asks_in_vain(tmp_path)
    forbidding = "matrix: {a: {b: {actions: [read], access_token: forbidden}}}\n"
    actions = "kind: ActionRegistry\nactions: {read: {asserted: true}}\n"
    assert policy_of(tmp_path, "", matrix=forbidding, actions=actions).providers is None


TWO = f"{ONE}{KEYS}- issuer: {PARTNER}\n  audience: x\n{KEYS}"
PROBLEMS: dict[str, tuple[str, Mapping[str, str | bytes], list[str]]] = {
    "nothing": ("version: 1\n", {}, ["providers.yaml:1:1: key `providers` is missing"]),
    "no provider": ("providers: []\n", {}, ["providers.yaml:2:12: nothing stands here: write at least one entry"]),
    "a name only": (
        "providers: [https://login.example.com]\n",
        {},
        ["providers.yaml:2:13: expected a mapping with `issuer` and `audience`, got `https://login.example.com`"],
    ),
    "no audience": (f"providers:\n- issuer: {ISSUER}\n", {}, ["providers.yaml:3:3: key `audience` is missing"]),
    "an empty list of audiences": (
        f"providers:\n- issuer: {ISSUER}\n  audience: []\n",
        {},
        ["providers.yaml:4:13: nothing stands here: write at least one entry"],
    ),
    "a typing error": (ONE + "  token_type: [JWT]\n", {}, ["providers.yaml:5:3: unknown key `token_type`: did you mean `token_types`?"]),
    "no issuers": (
        "".join(
            f"{'providers:' if not number else ''}\n- {{issuer: '{issuer}', audience: a}}"
            for number, issuer in enumerate(
                ["login.example.com", "https://x.test?q=1", "https://x.test#f", "https://u@x.test", "ftp://x.test", "https://x.test:"]
            )
        )
        + "\n",
        {},
        [
            f"providers.yaml:{line}:12: `{issuer}` is not an issuer: expected https://host/path without query, as its tokens write it"
            for line, issuer in enumerate(
                ["login.example.com", "https://x.test?q=1", "https://x.test#f", "https://u@x.test", "ftp://x.test", "https://x.test:"], 3
            )
        ],
    ),
    "an issuer in clear": (
        ONE.replace("https://", "http://"),
        {},
        ["providers.yaml:3:11: an address begins with https://, or on this machine with http://127.0.0.1"],
    ),
    "keys in clear": (
        ONE + "  keys: http://login.example.com/keys\n",
        {},
        ["providers.yaml:5:9: an address begins with https://, or on this machine with http://127.0.0.1"],
    ),
    "one issuer twice": (
        f"{ONE}{KEYS}- issuer: {ISSUER}\n  audience: x\n  on_behalf_of: 'x:{{sub}}'\n",
        {},
        [f"providers.yaml:6:11: `{ISSUER}` is listed above"],
    ),
    "two with the same people": (
        TWO,
        {},
        [f"providers.yaml:6:3: `user:{{sub}}` could name somebody of `{ISSUER}` too: give each issuer another beginning"],
    ),
    "one inside the other": (
        f"{TWO}  on_behalf_of: 'user:partner:{{sub}}'\n",
        {},
        [
            f"providers.yaml:9:17: `user:partner:{{sub}}` could name somebody of `{ISSUER}` too: give each issuer another beginning"
        ],
    ),
    "lives too long": (f"{ONE}{KEYS}  max_ttl: 61m\n", {}, ["providers.yaml:6:12: `61m` is longer than any token may live: at most 1h"]),
    "stale too soon and too late": (
        f"{ONE}  max_stale: 59s\n- issuer: {PARTNER}\n  audience: x\n  on_behalf_of: 'x:{{sub}}'\n  max_stale: 25h\n",
        {},
        [
            "providers.yaml:5:14: `59s` is no time that keys may count without news: 1m to 24h",
            "providers.yaml:9:14: `25h` is no time that keys may count without news: 1m to 24h",
        ],
    ),
    "types": (f"{ONE}  token_types: [JWT, dlg+jwt]\n", {}, ["providers.yaml:5:22: expected `at+jwt` or `JWT`, got `dlg+jwt`"]),
    "on behalf of nobody": (
        f"{ONE}  on_behalf_of: user\n",
        {},
        ["providers.yaml:5:17: `user` does not say for whom: expected `{sub}` once, such as user:{sub}, in printable ASCII without spaces"],
    ),
    "clients": (
        f"{ONE}{KEYS}  clients: {{a: [], ' b': planner, c: a b, d: 5}}\n",
        {},
        [
            "providers.yaml:6:16: nothing stands here: write at least one entry",
            "providers.yaml:6:20: ` b` is not what a token can name: printable ASCII, at most 255, no space at either end",
            "providers.yaml:6:46: expected a name or a list of names, got `5`",
        ],
    ),
    "clients of no workload": (
        f"{ONE}{KEYS}  clients: {{a: planner, c: [planner, '@g']}}\n",
        {},
        [
            "providers.yaml:6:38: `@g` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"
        ],
    ),
    "scopes": (
        f"{ONE}{KEYS}  scopes: {{'a b': [kb], c: kb, d: ['*']}}\n",
        {},
        [
            'providers.yaml:6:12: `a b` is not a scope of an issuer: printable ASCII without spaces, `"` and `\\`, at most 255',
            "providers.yaml:6:28: expected a list of scopes, got `kb`",
            "providers.yaml:6:36: `*` is not a scope: letters, digits, dot, dash, underscore, colon and slash, at most 128, a letter or digit first",
        ],
    ),
    "a missing file": (f"{ONE}  keys: k.json\n", {}, ["providers.yaml:5:9: cannot read `k.json`: No such file or directory"]),
    "no JWK set": (ONE + KEYS, {"keys.json": "[]"}, ["providers.yaml:5:9: `keys.json`: not a JWK set"]),
    "no key for signatures": (
        ONE + KEYS,
        {"keys.json": json.dumps({"keys": [{"kid": "a", "kty": "oct", "k": "AA"}]})},
        ["providers.yaml:5:9: `keys.json`: no key of the set can be used"],
    ),
    "two documents": (
        f"{ONE}{KEYS}---\nkind: IdentityProviders\n{ONE}",
        {},
        ["providers.yaml:7:7: a policy has one IdentityProviders document, the first is in providers.yaml"],
    ),
    "all at once": (
        f"{ONE}  max_ttl: 2h\n  keys: k.json\n  clients: {{a: '*'}}\n",
        {},
        [
            "providers.yaml:5:12: `2h` is longer than any token may live: at most 1h",
            "providers.yaml:6:9: cannot read `k.json`: No such file or directory",
            "providers.yaml:7:16: `*` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "files", "problems"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(tmp_path: Path, document: str, files: Mapping[str, str | bytes], problems: list[str]) -> None:
    """Each problem is told once, with the place of the word that is wrong, and all come in one run."""
    assert problems == problems_of(tmp_path, document, files)


@pytest.mark.parametrize("mode", ["on", "Required", "forbidden"])
def test_mode_of_an_action(tmp_path: Path, mode: str) -> None:
    """An action asks for access tokens or leaves it; only a cell can forbid them."""
    actions = f"kind: ActionRegistry\nactions: {{read: {{asserted: true, access_token: '{mode}'}}}}\n"
    assert [f"actions.yaml:2:48: expected `required` or `optional`, got `{mode}`"] == problems_of(
        tmp_path, ONE + KEYS, actions=actions
    )


def verdict_of(policy: Policy, token: str, now: float = NOW) -> AccessToken | Reason:
    """Return what the planner gets with a token under a policy, or why not."""
    identity = Identity(PLANNER, RETRIEVER, "")
    try:
        return providing(policy).verify(f"Bearer {token}", identity, now)
    except NotAllowed as refusal:
        return refusal.reason


def test_keys_from_addresses(tmp_path: Path) -> None:
    """Tokens of an issuer with an address wait for its keys, follow them, and end with them; a file's stay."""
    p = providers()
    document = f"{ONE}- issuer: {PARTNER}\n  audience: {AUDIENCE}\n{KEYS}  on_behalf_of: 'p:{{sub}}'\n"
    policy = policy_of(tmp_path, document, {"keys.json": p.partner.jwks})
    [source] = policy.key_sources
    token, partner = p.idp.token(), p.partner.token()
    good = p.idp.key_set._replace(usable_until=NOW + 10, digest="1")
    fetched = policy.with_keys({source: good})
    other = KeySet({"new": good.keys["idp-rsa"]}, usable_until=NOW + 10, digest="2")
    outcomes = [
        verdict_of(policy, token),
        verdict_of(policy.with_keys({}), token),
        verdict_of(fetched, token),
        verdict_of(fetched, token, NOW + 11),
        verdict_of(fetched.with_keys({source: good._replace(usable_until=NOW + 20)}), token, NOW + 11),
        verdict_of(fetched.with_keys({source: other}), token),
        verdict_of(fetched.with_keys({}), token),
    ]
    unavailable = Reason.KEYS_UNAVAILABLE
    expected = [unavailable, unavailable, USER, unavailable, USER, Reason.OIDC_SIGNATURE, unavailable]
    assert expected == [each.on_behalf_of if isinstance(each, AccessToken) else each for each in outcomes]
    for each in (policy, fetched, fetched.with_keys({})):
        found = verdict_of(each, partner)
        assert isinstance(found, AccessToken)
        assert "p:7c9e6679" == found.on_behalf_of


def test_what_is_remembered_ends_with_the_keys(tmp_path: Path) -> None:
    """Keys that are the same keep what was verified with them; another digest forgets it."""
    policy = policy_of(tmp_path, ONE)
    [source] = policy.key_sources
    fetched = policy.with_keys({source: providers().idp.key_set._replace(digest="1")})
    verdict_of(fetched, providers().idp.token())
    kept = fetched.with_keys({source: providers().idp.key_set._replace(digest="1", usable_until=NOW)})
    lost = fetched.with_keys({source: providers().idp.key_set._replace(digest="2")})
    remembered = [len(providing(each)._cache._young) for each in (fetched, kept, lost)]
    assert [1, 1, 0] == remembered


def test_identity_without_a_certificate(tmp_path: Path) -> None:
    """A bound token needs a certificate that is known."""
    policy = policy_of(tmp_path, ONE + KEYS, {"keys.json": jwks()})
    bound = providers().idp.token(cnf={"x5t#S256": "A" * 43})
    assert Reason.OIDC_BINDING == verdict_of(policy, bound)


def test_clients_are_workloads_by_name(tmp_path: Path) -> None:
    """Who may show a client's tokens is written as everywhere in a policy."""
    document = f"{ONE}{KEYS}  clients: {{{CLIENT}: planner}}\n"
    policy = policy_of(tmp_path, document, {"keys.json": jwks()})
    assert isinstance(verdict_of(policy, providers().idp.token()), AccessToken)
    assert Reason.OIDC_BINDING == verdict_of(policy, providers().idp.token(client_id="other"))


def test_encryption_keys_do_not_count(tmp_path: Path) -> None:
    """Providers publish keys for encryption in the same set; they are skipped, not an error."""
    only = public_jwk(ec.generate_private_key(ec.SECP256R1()), "sig")
    text = json.dumps({"keys": [only, only | {"kid": "enc", "use": "enc"}, {"kty": "oct", "kid": "x"}]})
    policy = policy_of(tmp_path, ONE + KEYS, {"keys.json": text})
    [provider] = providing(policy).trust.providers.values()
    assert {"sig"} == provider.keys.keys.keys()
