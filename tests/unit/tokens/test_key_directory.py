"""The key directory: agents register keys, and certificates that links refer to by thumbprint."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from support.delegations import (
    CRM,
    EVIL,
    MAILER,
    NOW,
    RETRIEVER,
    TRUST_DOMAIN,
    Authority,
    Showing,
    forged,
    shown_by_crm,
    world,
)
from support.key_server import jwk

from ext_authz.client.signing import LinkSigner, public_jwk
from ext_authz.errors import PolicyError, Reason, Refusal
from ext_authz.policy.compile import Policy, load
from ext_authz.tokens.chain import Delegation, LinkCache, verify_chain
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.key_directory import MAX_KEY_FILES, MAX_REGISTRATION_BYTES
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations

HEAD = f"kind: PermissionMatrix\ntrust_domain: {TRUST_DOMAIN}\n---\nkind: Delegation\n"
USUAL = f"root_issuers: [delegation-sts]\nminters: [delegation-sts]\nkey_directory: agents\nbundles: {{{TRUST_DOMAIN}: bundle.pem}}\n"


def registration(issuer: object, *members: Mapping[str, Any]) -> str:
    """Return a file of the directory."""
    return json.dumps({"issuer": issuer, "keys": members or [jwk("k")]})


def policy_of(directory: Path, files: Mapping[str, str], document: str = USUAL) -> Policy:
    """Compile a policy with these files in its key directory."""
    (directory / "policy.yaml").write_text(HEAD + document)
    (directory / "bundle.pem").write_bytes(world().ca.bundle_pem)
    (directory / "agents").mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / "agents" / name).write_text(content)
    return load(directory)


def problems_of(directory: Path, files: Mapping[str, str], document: str = USUAL) -> list[str]:
    """Return what is wrong with it, paths shortened."""
    with pytest.raises(PolicyError) as caught:
        policy_of(directory, files, document)
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def keys_of(policy: Policy) -> dict[str, list[str]]:
    """Return whose keys count."""
    assert policy.delegation is not None
    found = policy.delegation.verifier.trust.keys.by_issuer
    return {issuer.path: list(keys.keys) for issuer, keys in found.items()}


def test_issuers_say_who_they_are(tmp_path: Path) -> None:
    """Each file holds the keys of one issuer, by name or SPIFFE ID; other files are left alone."""
    files = {
        "partner.json": registration("spiffe://partner.test/broker"),
        "planner.json": registration("planner", jwk("p-1"), jwk("p-2")),
        "r.json": registration(RETRIEVER.uri, jwk("r-1")),
        ".hidden.json": "{",
        "notes.txt": "{",
    }
    assert {"/broker": ["k"], "/planner": ["p-1", "p-2"], "/retriever": ["r-1"]} == keys_of(policy_of(tmp_path, files))


def test_directory_elsewhere(tmp_path: Path) -> None:
    """It may stand anywhere by its absolute path, and be empty; what was read there is watched."""
    policies, agents = tmp_path / "policies", tmp_path / "registered"
    policies.mkdir()
    agents.mkdir()
    document = USUAL.replace("agents\n", f"{agents}\n", 1)
    (policies / "policy.yaml").write_text(HEAD + document)
    (policies / "bundle.pem").write_bytes(world().ca.bundle_pem)
    assert {} == keys_of(load(policies))
    assert {agents} == load(policies).watched_files.keys()
    (agents / "a.json").write_text(registration("a"))
    assert {agents, agents / "a.json"} == load(policies).watched_files.keys()


def test_root_issuer_of_the_directory(tmp_path: Path) -> None:
    """A root issuer may have its keys there."""
    document = "root_issuers: [delegation-sts]\nkey_directory: ./agents/\n"
    assert {"/delegation-sts": ["k"]} == keys_of(
        policy_of(tmp_path, {"sts.json": registration("delegation-sts")}, document)
    )


def test_digest_covers_the_directory(tmp_path: Path) -> None:
    """A key that is registered makes another policy."""
    first = policy_of(tmp_path, {"a.json": registration("a")}).digest
    assert first == load(tmp_path).digest
    assert first != policy_of(tmp_path, {"b.json": registration("b")}).digest


def certified(name: str = "k", key: Any = None, **changes: Any) -> dict[str, Any]:
    """Return a key of the retriever with its certificate."""
    key = key or world().private_keys[RETRIEVER]
    return {**public_jwk(key, name), "x5c": x5c(world().certificates[RETRIEVER]), **changes}


def x5c(*certificates: x509.Certificate) -> list[str]:
    return [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]


def foreign_certificate() -> x509.Certificate:
    """Return a certificate of the retriever's name and key, by another CA."""
    key = world().private_keys[RETRIEVER]
    return Authority.root().svid([RETRIEVER.uri], key)[0]


WRONG = {
    "no JSON": ("{", "not a JWK set"),
    "no set": ('{"issuer": "a"}', "not a JWK set"),
    "private": (registration("a", {**jwk("k"), "d": "AAAA"}), "a private or symmetric key does not belong into a set of public keys"),
    "nobody": (json.dumps({"keys": [jwk("k")]}), "says not whose keys these are: a member `issuer` names a workload"),
    "a list": (registration(["a"]), "says not whose keys these are: a member `issuer` names a workload"),
    "no workload": (
        registration("a b"),
        "`a b` names no workload: not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form",
    ),
    "large": (registration("a", {**jwk("k"), "note": "x" * MAX_REGISTRATION_BYTES}), "`agents/x.json` is larger than 131072 bytes"),
    "no certificates": (registration("retriever", certified(x5c=[])), "x5c is no list of 1 to 3 certificates"),
    "certificate of another": (registration("crm", certified()), "the certificate names another than the issuer"),
    "certificate of another key": (
        registration("retriever", certified(key=world().private_keys[CRM])),
        "has a certificate for another key",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), WRONG.values(), ids=WRONG)
def test_problems(tmp_path: Path, content: str, problem: str) -> None:
    """A file that registers nothing is told by its own name."""
    assert [f"agents/x.json:1:1: {problem}"] == problems_of(tmp_path, {"x.json": content})


def test_one_place_for_each_issuer(tmp_path: Path) -> None:
    """Two files, or a file and `keys`, for one issuer are an error: nobody could say which counts."""
    document = f"{USUAL}keys: {{a: 'https://sts.example.com/jwks'}}\n"
    files = {
        "1.json": registration("a"),
        "2.json": registration("b"),
        "3.json": registration(f"spiffe://{TRUST_DOMAIN}/b"),
    }
    assert [
        f"agents/1.json:1:1: `spiffe://{TRUST_DOMAIN}/a` has its keys in `keys`",
        f"agents/3.json:1:1: `spiffe://{TRUST_DOMAIN}/b` has its keys in `agents/2.json`",
    ] == problems_of(tmp_path, files, document)


def test_certificates_need_a_bundle(tmp_path: Path) -> None:
    """A certificate that nothing could verify is an error."""
    document = "root_issuers: [delegation-sts]\nkey_directory: agents\nkeys: {delegation-sts: 'https://sts.example.com/jwks'}\n"
    assert [f"agents/x.json:1:1: has certificates, and `{TRUST_DOMAIN}` is not in `bundles`"] == problems_of(
        tmp_path, {"x.json": registration("retriever", certified())}, document
    )


def test_directories_that_are_none(tmp_path: Path) -> None:
    """A directory that is missing, or a file, is told at its place; another folder is still no part of a policy."""
    missing = "cannot read the directory `{}`: {}"
    (tmp_path / "more").mkdir()
    (tmp_path / "file").touch()
    for name, why in (("nothing", "No such file or directory"), ("file", "Not a directory")):
        assert [
            "agents:1:1: sub-directories are not read: move the files up",
            "more:1:1: sub-directories are not read: move the files up",
        ] == problems_of(tmp_path, {}, USUAL.replace("agents\n", f"{name}\n", 1))
        (tmp_path / "more").rmdir()
        (tmp_path / "agents").rmdir()
        with pytest.raises(PolicyError, match=f"policy.yaml:7:16: {missing.format(name, why)}"):
            load(tmp_path)
        (tmp_path / "more").mkdir()


def test_number_of_files(tmp_path: Path) -> None:
    """MAX_KEY_FILES are read, one more is an error."""
    files = {f"{number}.json": registration(f"a{number}") for number in range(MAX_KEY_FILES)}
    assert MAX_KEY_FILES == len(keys_of(policy_of(tmp_path, files)))
    assert ["policy.yaml:7:16: `agents` holds 1025 files, at most 1024 are read"] == problems_of(
        tmp_path, {"one-more.json": registration("a")}
    )


def by_thumbprint(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> LinkSigner:
    """Return a signer that names its certificate by thumbprint, in any position of a chain."""
    signer = world().svids[RETRIEVER]
    digest = certificate.fingerprint(hashes.SHA256())
    return replace(LinkSigner.with_key_id(signer.issuer, "k", key), reference={"x5t#S256": encode_base64url(digest)})


def verified(
    policy: Policy, showing: Showing, revocations: Revocations = NO_REVOCATIONS, cache: LinkCache | None = None
) -> Delegation:
    """Verify a chain with the keys of a policy beside those of the world. Raises Refusal."""
    assert policy.delegation is not None
    keys = world().keys
    registered = policy.delegation.verifier.trust.keys.by_issuer
    trust = replace(world().trust(), keys=replace(keys, by_issuer={**keys.by_issuer, **registered}))
    return verify_chain(showing.chain, showing.presentation, trust, cache, revocations)


def refused(policy: Policy, showing: Showing, revocations: Revocations = NO_REVOCATIONS) -> Reason:
    with pytest.raises(Refusal) as caught:
        verified(policy, showing, revocations)
    return caught.value.reason


def chain_with_thumbprint_in_the_middle(signer: LinkSigner | None = None) -> Showing:
    """Return a chain whose second of three links refers to the retriever's certificate."""
    w = world()
    signer = signer or by_thumbprint(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    middle = forged(w.two_links(), signer)
    return shown_by_crm(w.passed_on(middle, CRM, MAILER, scopes=["tickets:read"], allowed_targets=(MAILER,)))


def test_thumbprint_of_a_registered_certificate(tmp_path: Path) -> None:
    """A link may refer to it at any position of the chain; what is remembered of it is verified as the rest is."""
    policy = policy_of(tmp_path, {"r.json": registration("retriever", certified())})
    showing, cache = chain_with_thumbprint_in_the_middle(), LinkCache()
    assert [3, 3] == [verified(policy, showing, cache=cache).hops for _ in range(2)]
    late = replace(showing, now=NOW + 3 * 3600)
    with pytest.raises(Refusal):
        verified(policy, late, cache=cache)


def test_thumbprint_that_nobody_registered(tmp_path: Path) -> None:
    """Without an entry a thumbprint means the certificate of the connection, in the last link only (T047)."""
    showing = chain_with_thumbprint_in_the_middle()
    assert Reason.TOKEN_KEY == refused(policy_of(tmp_path, {}), showing)
    assert Reason.TOKEN_KEY == refused(policy_of(tmp_path, {"r.json": registration("retriever", jwk("k"))}), showing)


def test_registered_certificate_of_another_ca(tmp_path: Path) -> None:
    """It counts as much as one inside of a link: only from the bundle of the issuer's trust domain."""
    certificate = foreign_certificate()
    policy = policy_of(tmp_path, {"r.json": registration("retriever", certified(x5c=x5c(certificate)))})
    showing = chain_with_thumbprint_in_the_middle(by_thumbprint(certificate, world().private_keys[RETRIEVER]))
    assert Reason.TOKEN_KEY == refused(policy, showing)


def test_registered_certificate_speaks_for_its_issuer(tmp_path: Path) -> None:
    """Somebody else who refers to it is refused, whatever key signed."""
    policy = policy_of(tmp_path, {"r.json": registration("retriever", certified())})
    signer = by_thumbprint(world().certificates[RETRIEVER], world().private_keys[EVIL])
    assert Reason.TOKEN_SIGNATURE == refused(policy, chain_with_thumbprint_in_the_middle(signer))


@pytest.mark.parametrize(
    "revocations",
    [
        Revocations(key_ids=frozenset({"r-1"})),
        Revocations(certificates=frozenset({world().certificates[RETRIEVER].fingerprint(hashes.SHA256())})),
    ],
    ids=["key", "certificate"],
)
def test_registered_certificate_is_revoked(tmp_path: Path, revocations: Revocations) -> None:
    """By the name of its key, and by its own thumbprint."""
    policy = policy_of(tmp_path, {"r.json": registration("retriever", certified("r-1"))})
    assert 3 == verified(policy, chain_with_thumbprint_in_the_middle()).hops
    assert Reason.TOKEN_REVOKED == refused(policy, chain_with_thumbprint_in_the_middle(), revocations)
