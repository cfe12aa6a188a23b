"""Every attack on delegation chains in the wire contract, by its number: built with fresh keys, and refused.

An attack is as good as its forger can make it: what a signature can cover is signed with the key that it claims, so that
only the rule which the attack breaks stands in its way.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose.backends import ECKey
from support.delegations import (
    BROKER,
    CRM,
    DROP,
    EVIL,
    MAILER,
    MINTED,
    NOW,
    PASSED_ON,
    PLANNER,
    RETRIEVER,
    SCOPES,
    SESSION,
    STS,
    TARGETS,
    TRUST_DOMAIN,
    USER,
    Authority,
    Showing,
    World,
    claims_of,
    forged,
    header_of,
    shown_by_crm,
    shown_by_retriever,
    signing_hash,
    with_certificates,
    world,
)

from ext_authz.client.signing import LinkSigner
from ext_authz.errors import Outcome, Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import LinkCache
from ext_authz.tokens.jws import decode_base64url, encode_base64url
from ext_authz.tokens.revocation import Revocations

Build = Callable[[World], Showing]
Edit = Callable[[bytes], bytes]

ADMIN = "admin:everything"


class Attack(NamedTuple):
    """One row: number, what it does, how it is built."""

    number: str
    name: str
    build: Build


def test_numbers_are_complete() -> None:
    """The table holds every number of the contract, T001 to T198."""
    assert {f"T{number:03}" for number in range(1, 199)} == {attack.number for attack in ATTACKS}


# Building attacks: on a root, on the second link, on the third.


def root(**edits: Any) -> Build:
    """Show a root that the token service signed, whatever it says."""
    return lambda w: Showing(forged(w.root(), w.sts, **edits))


def root_with(**claims: Any) -> Build:
    return root(claims=claims)


def root_header(**header: Any) -> Build:
    return root(header=header)


def root_text(old: str, new: bytes | str) -> Build:
    return root(claims_text=substitution(old, new))


def substitution(old: str, new: bytes | str) -> Edit:
    def edit(text: bytes) -> bytes:
        assert text.count(old.encode()) == 1, "the attack would change nothing, or too much"
        return text.replace(old.encode(), new if isinstance(new, bytes) else new.encode())

    return edit


def root_by(signer: Callable[[World], LinkSigner], **edits: Any) -> Build:
    return lambda w: Showing(forged(w.root(), signer(w), **edits))


def root_unsigned(sign: Callable[[World], Edit], **header: Any) -> Build:
    """Show a root with a signature of the forger's own making, under a header that may say so."""
    return lambda w: Showing(forged(w.root(), header=header, sign=sign(w)))


def rewritten(edit: Callable[[str], str]) -> Build:
    """Change the text of a good root."""

    def build(w: World) -> Showing:
        chain = w.root()
        assert edit(chain) != chain, "the attack would change nothing"
        return Showing(edit(chain))

    return build


def respelled(edit: Callable[[str], str], text: Edit = bytes) -> Build:
    """Spell the payload of a root another way, and sign that spelling."""

    def build(w: World) -> Showing:
        header, payload, _ = forged(w.root(), w.sts, claims_text=text).split(".")
        assert edit(payload) != payload, "the attack would change nothing"
        signing_input = f"{header}.{edit(payload)}"
        return Showing(f"{signing_input}.{encode_base64url(w.sts._sign(signing_input.encode()))}")

    return build


def child(**edits: Any) -> Build:
    return lambda w: shown_by_retriever(forged(w.two_links(), w.svids[RETRIEVER], **edits))


def child_with(**claims: Any) -> Build:
    return child(claims=claims)


def child_by(signer: Callable[[World], LinkSigner], **edits: Any) -> Build:
    return lambda w: shown_by_retriever(forged(w.two_links(), signer(w), **edits))


def certified(
    *,
    uris: Sequence[str] = (RETRIEVER.uri,),
    by: Callable[[World], Authority] | None = None,
    issued_at: int = PASSED_ON,
    **changes: Any,
) -> Build:
    """Show two links, the second signed with the key of an odd certificate."""

    def signer(w: World) -> LinkSigner:
        authority = by(w) if by else Authority.of(w.ca)
        certificate, key = authority.svid(uris, **changes)
        return with_certificates(RETRIEVER, [certificate], key)

    return child_by(signer, claims={"iat": issued_at})


def linked(parent: str, chain: str, signer: LinkSigner, **claims: Any) -> str:
    """Put the last link of a chain below another parent, signed again."""
    return forged(f"{parent}~{chain.rpartition('~')[2]}", signer, claims={"par_hash": signing_hash(parent)} | claims)


def under(parent: Callable[[World], str], **claims: Any) -> Build:
    """Show the retriever's usual link below an unusual root."""
    return lambda w: shown_by_retriever(linked(parent(w), w.two_links(), w.svids[RETRIEVER], **claims))


def widened_in_the_middle(w: World, **claims: Any) -> Showing:
    """Let the middle link say more than its parent, and the last one again what the root allows."""
    middle = forged(w.two_links(), w.svids[RETRIEVER], claims=claims)
    return shown_by_crm(linked(middle, w.three_links(), w.svids[CRM]))


def revoked(showing: Callable[[World], Showing], revocations: Callable[[Showing], Revocations]) -> Build:
    def build(w: World) -> Showing:
        shown = showing(w)
        return replace(shown, revocations=revocations(shown))

    return build


def three_links(w: World) -> Showing:
    return shown_by_crm(w.three_links())


def always(revocations: Revocations) -> Callable[[Showing], Revocations]:
    return lambda _: revocations


def revoked_token(link: int) -> Callable[[Showing], Revocations]:
    """Revoke one link by its id."""
    return lambda showing: Revocations(token_ids=frozenset({claims_of(showing.chain.split("~")[link])["jti"]}))


def revoked_ancestor(showing: Showing) -> Revocations:
    """Revoke a link that a checkpoint has replaced."""
    return Revocations(token_ids=frozenset({claims_of(showing.chain)["orig"]["jti"][1]}))


def revoked_certificate(showing: Showing) -> Revocations:
    """Revoke the certificate that signed the second link."""
    (encoded,) = header_of(showing.chain.split("~")[1])["x5c"]
    return Revocations(certificates=frozenset({hashlib.sha256(base64.b64decode(encoded)).digest()}))


def checkpoint(w: World) -> Showing:
    return shown_by_crm(w.checkpoint(w.two_links()))


# Keys and signatures of the forger.


def hmac_with(key: bytes) -> Edit:
    return lambda data: hmac.digest(key, data, "sha256")


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def raw_public(key: Any) -> bytes:
    raw: bytes = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return raw


def evil_key(w: World) -> ec.EllipticCurvePrivateKey:
    return w.private_keys[EVIL]


def evil_sign(w: World) -> Edit:
    sign: Edit = ECKey(evil_key(w), "ES256").sign
    return sign


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    jwk = ECKey(key.public_key(), "ES256").to_dict()
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in jwk.items()}


def shorter_hash_on_p384(w: World) -> Showing:
    """Sign as ES256 with a key that is registered for ES384: the mailer, with a grant of its own."""
    grant = w.grant(audience=MAILER, allowed_targets=TARGETS)
    chain = w.passed_on(grant, w.mailer_directory, CRM)
    sign = ECKey(w.directory_key, "ES256").sign
    return Showing(forged(chain, header={"alg": "ES256"}, sign=sign), MAILER, CRM)


def evil_with_header(header: Callable[[World], dict[str, Any]]) -> Build:
    return lambda w: Showing(forged(w.root(), header={"alg": "ES256"} | header(w), sign=evil_sign(w)))


def namesake(w: World) -> Authority:
    """Make a CA of the forger's own under the name of ours."""
    return Authority.root(w.ca.certificate.subject, uris=[f"spiffe://{TRUST_DOMAIN}"])


def evil_as_retriever(w: World) -> LinkSigner:
    return with_certificates(RETRIEVER, [w.certificates[EVIL]], evil_key(w))


def with_three_more(w: World) -> LinkSigner:
    certificates = [w.certificates[RETRIEVER], *[w.ca.certificate] * 3]
    return with_certificates(RETRIEVER, certificates, w.private_keys[RETRIEVER])


def retriever_by_thumbprint(w: World, certificate: x509.Certificate | None = None) -> LinkSigner:
    sha256 = (certificate or w.certificates[RETRIEVER]).fingerprint(hashes.SHA256())
    return replace(w.svids[RETRIEVER], reference={"x5t#S256": encode_base64url(sha256)})


def thumbprint_in_the_middle(w: World, certificate_of: SpiffeId) -> Showing:
    middle = forged(w.two_links(), retriever_by_thumbprint(w))
    chain = linked(middle, w.three_links(), w.svids[CRM])
    return shown_by_crm(chain, certificate=w.certificates[certificate_of])


def thumbprint_of_another(w: World) -> Showing:
    """Refer to an older certificate of the same workload; its key signed, and another one is shown."""
    older, key = Authority.of(w.ca).svid([RETRIEVER.uri])
    signer = replace(retriever_by_thumbprint(w, older), _sign=ECKey(key, "ES256").sign)
    return shown_by_retriever(forged(w.two_links(), signer), certificate=w.certificates[RETRIEVER])


def x5c_with_line_break(w: World) -> LinkSigner:
    (encoded,) = w.svids[RETRIEVER].reference["x5c"]
    return replace(w.svids[RETRIEVER], reference={"x5c": [f"{encoded[:76]}\n{encoded[76:]}"]})


def bit_flipped(link: str) -> str:
    signing_input, _, signature = link.rpartition(".")
    data = bytearray(decode_base64url(signature))
    data[0] ^= 1
    return f"{signing_input}.{encode_base64url(bytes(data))}"


def signature_of(link: str) -> bytes:
    return decode_base64url(link.rpartition(".")[2])


def kept_signature(chain: str, **claims: Any) -> str:
    """Change the claims of the last link and keep its signature."""
    return forged(chain, claims=claims, sign=lambda _: signature_of(chain))


def der_signed(w: World) -> Showing:
    sign = partial(w.private_keys[RETRIEVER].sign, signature_algorithm=ec.ECDSA(hashes.SHA256()))
    return shown_by_retriever(forged(w.two_links(), sign=sign))


def moved_signature(w: World) -> Showing:
    other = w.two_links()
    return shown_by_retriever(forged(w.two_links(), sign=lambda _: signature_of(other)))


# Spellings and forms.

# With these in the claims, base64url needs both of the characters in which it differs from base64.
ODD_LETTERS = substitution('{"iss"', '{"x":"???>>>???>>>?>?>?>~~~~~~","iss"')


def odd_length(text: bytes) -> bytes:
    """Make the claims so long that their last base64url character has bits to spare."""
    return text + b" " * ((1 - len(text)) % 3)


def spare_bits_set(segment: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) + 1]


def as_json_serialization(link: str) -> str:
    protected, payload, signature = link.split(".")
    return json.dumps({"payload": payload, "protected": protected, "signature": signature})


def too_many_links(w: World) -> Showing:
    chain = w.root()
    for _ in range(3):
        chain += f"~{w.two_links().rpartition('~')[2]}~{w.three_links().rpartition('~')[2]}"
    return shown_by_crm(chain)


# Chains whose links do not belong together.


def sibling_scope(w: World) -> Showing:
    """Use in one branch the scope that the retriever gave to another."""
    given = w.two_links(scopes=["kb:search"])
    return shown_by_crm(linked(given, w.three_links(), w.svids[CRM], scope=["tickets:read"]))


def jti_reused(w: World) -> Showing:
    chain = w.two_links()
    return shown_by_retriever(forged(chain, w.svids[RETRIEVER], claims={"jti": claims_of(chain.split("~")[0])["jti"]}))


def other_session(w: World) -> str:
    return w.root(session_id="session-of-another-user")


def spliced(w: World, made_below: str) -> Showing:
    """Show the usual root with a link that was made below another root."""
    link = w.passed_on(made_below, RETRIEVER, CRM).rpartition("~")[2]
    return shown_by_retriever(f"{w.root()}~{link}")


def reordered(*order: int) -> Build:
    def build(w: World) -> Showing:
        links = w.three_links().split("~")
        return shown_by_crm("~".join(links[index] for index in order))

    return build


def minted_below(w: World) -> str:
    """Return a chain whose second link the token service signed for the retriever."""
    return w.passed_on(w.root(), w.sts, CRM, actor=RETRIEVER)


def child_of_root_by(signer: SpiffeId, audience: SpiffeId = CRM) -> Build:
    """Let somebody else extend the root that the retriever received, and show the chain."""

    def build(w: World) -> Showing:
        chain = linked(w.root(), w.two_links(), w.svids[signer], iss=signer.uri, aud=audience.uri)
        return Showing(chain, signer, audience)

    return build


def own_root(signer: SpiffeId) -> Build:
    def build(w: World) -> Showing:
        return Showing(forged(w.root(), w.svids[signer], claims={"iss": signer.uri, "act": DROP}), signer)

    return build


def act_by_non_minter(w: World) -> Showing:
    """Let the retriever sign for the planner, who holds the grant."""
    grant = w.grant()
    claims = {"iss": RETRIEVER.uri, "act": {"sub": PLANNER.uri}}
    chain = linked(grant, w.passed_on(grant, PLANNER, CRM), w.svids[RETRIEVER], **claims)
    return Showing(chain, PLANNER, CRM)


def grant_used_by_evil(w: World) -> Showing:
    grant = w.grant()
    chain = linked(grant, w.passed_on(grant, PLANNER, RETRIEVER), w.svids[EVIL], iss=EVIL.uri)
    return Showing(chain, EVIL, RETRIEVER)


def bound_to(w: World, bound: SpiffeId | None, shown: SpiffeId | None) -> Showing:
    certificate = w.certificates[bound] if bound else Authority.of(w.ca).svid([PLANNER.uri])[0]
    chain = w.root(certificate_sha256=certificate.fingerprint(hashes.SHA256()))
    return Showing(chain, certificate=w.certificates[shown] if shown else None)


def checkpoint_with_parent(w: World) -> Showing:
    chain = w.checkpoint(w.two_links())
    return shown_by_crm(forged(chain, w.sts, claims={"par_hash": signing_hash(w.root())}))


def checkpoint_inside(w: World) -> Showing:
    """Let the token service put a checkpoint below the chain that it stands for."""
    before = w.two_links()
    return shown_by_crm(f"{before}~{w.checkpoint(before)}")


def checkpoint_by_non_minter(w: World) -> Showing:
    """Let the planner, which may start chains, claim to have replaced one."""
    claims = {"iss": PLANNER.uri, "act": DROP, "aud": RETRIEVER.uri, "allowed_targets": [RETRIEVER.uri]}
    return Showing(forged(w.checkpoint(w.two_links()), w.planner_root, claims=claims))


REQUIRED = ("iss", "sub", "aud", "scope", "allowed_targets", "delegation_depth", "max_delegation_depth", "iat", "exp")


def targets_with(target: str) -> list[str]:
    return [*(each.uri for each in TARGETS), target]


ATTACKS: Sequence[Attack] = (
    Attack("T001", "alg none, empty signature", root_unsigned(lambda _: lambda _: b"", alg="none")),
    Attack("T002", "alg none, junk signature", root_unsigned(lambda _: lambda _: b"junk", alg="none")),
    Attack("T003", "alg nOnE", root_unsigned(lambda _: lambda _: bytes(64), alg="nOnE")),
    Attack(
        "T004",
        "HS256 keyed with the RSA public key",
        root_unsigned(lambda w: hmac_with(public_pem(w.rsa_key)), alg="HS256", kid="sts-rsa"),
    ),
    Attack(
        "T005",
        "HS256 keyed with the Ed25519 public key in PEM",
        root_unsigned(lambda w: hmac_with(public_pem(w.sts_key)), alg="HS256"),
    ),
    Attack(
        "T005",
        "HS256 keyed with the Ed25519 public key, raw",
        root_unsigned(lambda w: hmac_with(raw_public(w.sts_key)), alg="HS256"),
    ),
    Attack("T006", "RS256 under the name of the Ed25519 key", root_by(lambda w: w.sts_rsa, header={"kid": "sts-1"})),
    Attack("T006", "Ed25519 signature under alg RS256", root_header(alg="RS256")),
    Attack(
        "T007",
        "PS256 with the key registered for RS256",
        root_by(lambda w: LinkSigner.with_key_id(STS, "sts-rsa", w.rsa_key, "PS256")),
    ),
    Attack("T008", "ES256 with a P-384 key", shorter_hash_on_p384),
    Attack("T009", "alg missing", root_header(alg=DROP)),
    Attack("T010", "alg is an array", root_header(alg=["Ed25519"])),
    Attack("T011", "typ missing", root_header(typ=DROP)),
    Attack("T012", "typ of a JWT-SVID or ID token", root_header(typ="JWT")),
    Attack("T013", "typ of an access token", root_header(typ="at+jwt")),
    Attack("T014", "header parameter jwk", lambda w: root_header(jwk=jwk_of(evil_key(w)))(w)),
    Attack("T015", "header parameter jku", root_header(jku="https://evil.test/jwks.json")),
    Attack("T016", "header parameter x5u", root_header(x5u="https://evil.test/chain.pem")),
    Attack("T017", "header parameter crit", root_header(crit=["exp"])),
    Attack("T018", "header parameter b64", root_header(b64=False, crit=["b64"])),
    Attack("T018", "header parameter b64 alone", root_header(b64=True)),
    Attack("T019", "header parameter zip", root_header(zip="DEF")),
    Attack("T020", "header parameter x5t", root_header(x5t="AAAAAAAAAAAAAAAAAAAAAAAAAAA")),
    Attack("T021", "header parameter cty", root_header(cty="JWT")),
    Attack("T022", "header parameter enc", root_header(enc="A256GCM")),
    Attack("T023", "unknown header parameter", root_header(nonce="n-0S6_WzA2Mj")),
    Attack(
        "T024",
        "self-signed with an embedded jwk",
        evil_with_header(lambda w: {"jwk": jwk_of(evil_key(w)), "kid": DROP}),
    ),
    Attack("T025", "kid with path traversal", root_header(kid="../../../../dev/null")),
    Attack("T026", "kid with SQL", root_header(kid="x' UNION SELECT 'key' --")),
    Attack("T027", "kid is a URL", root_header(kid="https://evil.test/key")),
    Attack("T028", "kid is a number", root_header(kid=1)),
    Attack("T028", "kid is null", root_header(kid=None)),
    Attack("T028", "kid is an array", root_header(kid=["sts-1"])),
    Attack("T029", "kid is empty", root_header(kid="")),
    Attack("T030", "kid is unknown", root_header(kid="sts-2")),
    Attack("T031", "kid of another issuer", root_by(lambda w: w.planner_root)),
    Attack("T032", "kid and x5c", child(header={"kid": "sts-1"})),
    Attack("T033", "no key reference", root_header(kid=DROP)),
    Attack("T034", "certificate of a foreign CA with our CA's name", certified(by=namesake)),
    Attack("T035", "certificate of a partner's CA with our name", certified(by=lambda w: Authority.of(w.partner_ca))),
    Attack("T036", "certificate expired", certified(not_after=NOW - 1)),
    Attack("T037", "certificate not valid yet", certified(not_before=NOW + 1)),
    Attack("T038", "certificate with two URI names", certified(uris=[RETRIEVER.uri, EVIL.uri])),
    Attack("T038", "certificate with two URI names, the other first", certified(uris=[EVIL.uri, RETRIEVER.uri])),
    Attack("T039", "certificate is a CA's", certified(ca=True)),
    Attack(
        "T039",
        "certificate is a CA's without the right to sign others",
        certified(ca=True, signs_certificates=False, digital_signature=True),
    ),
    Attack("T040", "certificate may sign others", certified(signs_certificates=True)),
    Attack("T041", "certificate without a URI name", certified(uris=[])),
    Attack("T042", "certificate names another than iss", child_by(evil_as_retriever)),
    Attack("T043", "link outlives its certificate", certified(not_after=NOW + 60)),
    Attack("T043", "link is older than its certificate", certified(not_before=NOW - 1, issued_at=NOW - 32)),
    Attack("T044", "four certificates", child_by(with_three_more)),
    Attack("T044", "no certificate", child(header={"x5c": []})),
    Attack("T045", "certificate of one, signature of another", lambda w: child(sign=evil_sign(w))(w)),
    Attack("T046", "line break in x5c", child_by(x5c_with_line_break)),
    Attack("T047", "x5t#S256 above the last link", lambda w: thumbprint_in_the_middle(w, CRM)),
    Attack(
        "T047", "x5t#S256 above the last link, its certificate shown", lambda w: thumbprint_in_the_middle(w, RETRIEVER)
    ),
    Attack("T048", "x5t#S256 of another certificate", thumbprint_of_another),
    Attack("T048", "x5t#S256 and no certificate is known", child_by(retriever_by_thumbprint)),
    Attack("T049", "one bit of the signature flipped", rewritten(bit_flipped)),
    Attack("T050", "ECDSA signature of zeros", child(sign=lambda _: bytes(64))),
    Attack("T051", "ECDSA signature in DER", der_signed),
    Attack("T052", "claims changed after signing", lambda w: Showing(kept_signature(w.root(), scope=[ADMIN]))),
    Attack("T053", "signature of another link", moved_signature),
    Attack("T054", "padding", respelled(lambda payload: payload + "=" * (-len(payload) % 4), odd_length)),
    Attack("T054", "padding of the signature", rewritten(lambda link: f"{link}==")),
    Attack(
        "T055", "the alphabet of base64", respelled(lambda text: text.replace("-", "+").replace("_", "/"), ODD_LETTERS)
    ),
    Attack("T056", "line break in a segment", respelled(lambda payload: f"{payload[:4]}\n{payload[4:]}")),
    Attack("T056", "line break at the end", rewritten(lambda link: f"{link}\n")),
    Attack("T057", "ignored characters in a segment", respelled(lambda payload: f"{payload[:4]}*!{payload[4:]}")),
    Attack("T057", "space around", rewritten(lambda link: f" {link} ")),
    Attack("T058", "spare bits set", respelled(spare_bits_set, odd_length)),
    Attack("T059", "impossible length", respelled(lambda payload: f"{payload[: len(payload) // 4 * 4]}A")),
    Attack("T060", "two segments", rewritten(lambda link: link.rpartition(".")[0])),
    Attack("T060", "an empty signature", rewritten(lambda link: f"{link.rpartition('.')[0]}.")),
    Attack("T061", "four segments", rewritten(lambda link: f"{link}.AAAA")),
    Attack("T062", "five segments", rewritten(lambda link: f"{link}.AAAA.AAAA")),
    Attack("T063", "JSON serialization", rewritten(as_json_serialization)),
    Attack("T064", "Bearer in front", rewritten(lambda link: f"Bearer {link}")),
    Attack("T065", "empty value", rewritten(lambda _: "")),
    Attack("T066", "stray ~ at the end", rewritten(lambda link: f"{link}~")),
    Attack("T067", "stray ~ in front", rewritten(lambda link: f"~{link}")),
    Attack("T067", "two ~", lambda w: shown_by_retriever(w.two_links().replace("~", "~~"))),
    Attack("T068", "two header lines, merged", rewritten(lambda link: f"{link},{link}")),
    Attack("T068", "two header lines, merged with a space", rewritten(lambda link: f"{link}, {link}")),
    Attack("T069", "seven links", too_many_links),
    Attack("T070", "oversized", root_with(padding="A" * 12300)),
    Attack("T071", "percent-encoded", rewritten(lambda link: link.replace(".", "%2E"))),
    Attack("T072", "claim twice", root_text('"scope":', f'"scope":["{ADMIN}"],"scope":')),
    Attack("T073", "claim twice, once escaped", root_text('"scope":', f'"\\u0073cope":["{ADMIN}"],"scope":')),
    Attack("T074", "alg twice", root(header_text=substitution('"alg":', '"alg":"none","alg":'))),
    Attack("T075", "act.sub twice", root_text('{"sub":', f'{{"sub":"{EVIL}","sub":')),
    Attack("T076", "exp is NaN", root_text(f'"exp":{MINTED + 900}', '"exp":NaN')),
    Attack("T077", "exp is Infinity", root_text(f'"exp":{MINTED + 900}', '"exp":Infinity')),
    Attack("T078", "exp with an exponent", root_text(f'"exp":{MINTED + 900}', '"exp":1e10')),
    Attack("T078", "exp with a fraction", root_text(f'"exp":{MINTED + 900}', f'"exp":{MINTED + 900}.0')),
    Attack("T079", "exp of 5000 digits", root_text(f'"exp":{MINTED + 900}', f'"exp":{"9" * 5000}')),
    Attack("T079", "exp beyond 2^53", root_text(f'"exp":{MINTED + 900}', f'"exp":{2**53 + 1}')),
    Attack("T080", "claims are an array", root(claims_text=lambda text: b"[" + text + b"]")),
    Attack("T081", "byte order mark", root(claims_text=lambda text: b"\xef\xbb\xbf" + text)),
    Attack("T082", "UTF-16", root(claims_text=lambda text: text.decode().encode("utf-16"))),
    Attack("T082", "UTF-16 without a mark", root(claims_text=lambda text: text.decode().encode("utf-16-le"))),
    Attack("T083", "bad UTF-8", root_text(USER, USER.encode() + b"\xff")),
    Attack("T083", "overlong UTF-8", root_text(USER, b"\xc1\xb5ser")),
    Attack("T084", "lone surrogate", root_text(USER, f"{USER}\\ud800")),
    Attack("T085", "NUL", root_text(USER, f"{USER}\\u0000")),
    Attack("T085", "NUL in a claim that nobody reads", root_with(x="\0")),
    Attack("T086", "deep nesting", root_text('{"iss"', '{"x":' + "[" * 3000 + "]" * 3000 + ',"iss"')),
    Attack("T086", "one level too many", root_with(x=[[[[]]]])),
    Attack("T087", "trailing data", root(claims_text=lambda text: text + b"{}")),
    *(Attack(f"T{88 + index:03}", f"{name} missing", root_with(**{name: DROP})) for index, name in enumerate(REQUIRED)),
    Attack("T097", "jti missing", root_with(jti=DROP)),
    Attack("T098", "scope is a string", root_with(scope=" ".join(SCOPES))),
    Attack("T099", "scope is an object", root_with(scope={"tickets:read": True})),
    Attack("T100", "scope with a number", root_with(scope=["tickets:read", 1])),
    Attack("T101", "scope empty", root_with(scope=[])),
    Attack("T101", "scope null", root_with(scope=None)),
    Attack("T102", "scope twice", root_with(scope=["kb:search", "kb:search"])),
    Attack("T103", "scope *", root_with(scope=["*"])),
    Attack("T104", "scope with a wildcard", root_with(scope=["tickets:*"])),
    Attack("T105", "scope with a space", root_with(scope=["tickets:read kb:search"])),
    Attack("T106", "scope with a Cyrillic letter", root_with(scope=["ti\u0441kets:read"])),
    Attack("T107", "allowed_targets is a string", root_with(allowed_targets=RETRIEVER.uri)),
    Attack("T108", "allowed_targets empty", root_with(allowed_targets=[])),
    *(
        Attack(number, f"target {name}", root_with(allowed_targets=targets_with(target)))
        for number, name, target in (
            ("T109", "with a wildcard", f"spiffe://{TRUST_DOMAIN}/*"),
            ("T110", "*", "*"),
            ("T111", "with an upper-case trust domain", f"spiffe://{TRUST_DOMAIN.upper()}/crm-2"),
            ("T111", "with an upper-case scheme", f"SPIFFE://{TRUST_DOMAIN}/crm-2"),
            ("T112", "percent-encoded", f"spiffe://{TRUST_DOMAIN}/cr%6D"),
            ("T113", "with a Cyrillic letter", f"spiffe://{TRUST_DOMAIN}/\u0441rm"),
            ("T114", "with dot segments", f"spiffe://{TRUST_DOMAIN}/x/../crm"),
            ("T114", "with a dot segment", f"spiffe://{TRUST_DOMAIN}/./crm"),
            ("T115", "with a slash behind", f"{CRM}/"),
            ("T115", "with two slashes", f"spiffe://{TRUST_DOMAIN}//crm"),
            ("T116", "is a trust domain", f"spiffe://{TRUST_DOMAIN}"),
            ("T117", "with a line break behind", f"{CRM}\n"),
            ("T118", "by https", f"https://{TRUST_DOMAIN}/crm"),
        )
    ),
    Attack("T119", "depth 2.0", root_with(delegation_depth=2.0)),
    Attack("T120", 'depth "2"', root_with(delegation_depth="2")),
    Attack("T121", "depth true", root_with(delegation_depth=True)),
    Attack("T122", "depth -1", root_with(delegation_depth=-1)),
    Attack("T123", "depth above the maximum", root_with(delegation_depth=4)),
    Attack("T124", "maximum above the server's", root_with(max_delegation_depth=6)),
    Attack("T125", "depth null", root_with(delegation_depth=None)),
    Attack("T126", "aud is an array", root_with(aud=[RETRIEVER.uri])),
    Attack("T127", "aud not among the targets", root_with(allowed_targets=[CRM.uri])),
    Attack("T128", "jti of 15 characters", root_with(jti="a" * 15)),
    Attack("T129", "sub of 256 characters", root_with(sub="u" * 256)),
    Attack("T130", "line break in sub", root_with(sub="user:1\r\nx-authz-scopes: admin")),
    Attack("T131", "unknown caveat", root_with(caveats={"req": {"htm": "GET"}})),
    Attack("T131", "caveat once that is no true", root_with(caveats={"once": 1})),
    Attack("T132", "caveats is a list", root_with(caveats=[])),
    Attack("T133", "act is a string", root_with(act=PLANNER.uri)),
    Attack("T133", "act within act", root_with(act={"sub": PLANNER.uri, "act": {"sub": EVIL.uri}})),
    Attack("T133", "act without sub", root_with(act={})),
    Attack("T133", "act names no workload", root_with(act={"sub": "planner"})),
    Attack("T134", "cnf with a jwk only", lambda w: root_with(cnf={"jwk": jwk_of(evil_key(w))})(w)),
    Attack("T134", "cnf empty", root_with(cnf={})),
    Attack("T135", "expired", lambda w: Showing(w.root(), now=MINTED + 901)),
    Attack("T136", "exp is now", lambda w: Showing(w.root(), now=MINTED + 900)),
    Attack("T137", "nbf in the future", root_with(nbf=NOW + 31)),
    Attack("T138", "iat in the future", root_with(iat=NOW + 31)),
    Attack("T139", "lives longer than an hour", root_with(exp=MINTED + 3601)),
    Attack("T140", "exp is iat", root_with(iat=NOW + 20, exp=NOW + 20)),
    Attack("T140", "exp before iat", root_with(iat=NOW + 20, exp=NOW + 10)),
    *(Attack("T141", f"{name} is a string", root_with(**{name: str(NOW + 5)})) for name in ("iat", "nbf", "exp")),
    *(Attack("T142", f"{name} is true", root_with(**{name: True})) for name in ("iat", "nbf", "exp")),
    *(Attack("T143", f"{name} is negative", root_with(**{name: -1})) for name in ("iat", "nbf", "exp")),
    Attack("T144", "scope expanded", child_with(scope=["tickets:read", ADMIN])),
    Attack("T145", "scope of a sibling", sibling_scope),
    Attack("T146", "targets expanded", child_with(allowed_targets=[CRM.uri, EVIL.uri])),
    Attack(
        "T147", "scope expanded only in the middle", lambda w: widened_in_the_middle(w, scope=["tickets:read", ADMIN])
    ),
    Attack(
        "T147",
        "targets expanded only in the middle",
        lambda w: widened_in_the_middle(w, allowed_targets=[CRM.uri, MAILER.uri, EVIL.uri]),
    ),
    Attack("T148", "depth kept", child_with(delegation_depth=3)),
    Attack("T149", "depth raised", under(lambda w: forged(w.root(), w.sts, claims={"delegation_depth": 1}))),
    Attack("T150", "maximum raised", child_with(max_delegation_depth=4)),
    Attack("T151", "maximum lowered", child_with(max_delegation_depth=2)),
    Attack("T152", "child of depth 0", under(lambda w: w.root(depth=0), delegation_depth=0, max_delegation_depth=0)),
    Attack("T153", "outlives its parent", child_with(exp=MINTED + 901)),
    Attack("T154", "parent expired", under(lambda w: w.root(lifetime_seconds=20))),
    Attack("T155", "back-dated", child_with(iat=MINTED - 31)),
    Attack("T156", "sub swapped", child_with(sub="user:another")),
    Attack("T157", "sid dropped", child_with(sid=DROP)),
    Attack("T158", "sid changed", child_with(sid="session-of-another-user")),
    Attack("T158", "sid added", under(lambda w: w.root(session_id=None))),
    Attack("T159", "par_hash missing", child_with(par_hash=DROP)),
    Attack("T160", "spliced from another session", lambda w: spliced(w, other_session(w))),
    Attack("T160", "spliced from another root of the same session", lambda w: spliced(w, w.root())),
    Attack("T161", "spliced from a richer root", lambda w: spliced(w, w.root(scopes=[*SCOPES, ADMIN]))),
    Attack("T162", "first and second link swapped", reordered(1, 0, 2)),
    Attack("T162", "second and third link swapped", reordered(0, 2, 1)),
    Attack("T163", "middle link removed", reordered(0, 2)),
    Attack("T164", "root removed", reordered(1, 2)),
    Attack("T165", "minted link shown as root", lambda w: shown_by_retriever(minted_below(w).rpartition("~")[2])),
    Attack("T166", "link repeated", reordered(0, 1, 1, 2)),
    Attack("T166", "root repeated", reordered(0, 0, 1, 2)),
    Attack("T167", "jti of the parent reused", jti_reused),
    Attack("T168", "outsider inserts itself", child_of_root_by(EVIL)),
    Attack("T169", "target that did not receive the parent extends it", child_of_root_by(MAILER)),
    Attack(
        "T170",
        "minter signs for somebody who did not receive the parent",
        lambda w: Showing(
            linked(w.root(), minted_below(w), w.sts, act={"sub": EVIL.uri}),
            EVIL,
            CRM,
        ),
    ),
    Attack("T171", "root of an issuer that is not listed", own_root(EVIL)),
    Attack("T172", "root of a partner's workload", own_root(BROKER)),
    Attack("T173", "act by somebody who is no minter", act_by_non_minter),
    Attack(
        "T174",
        "delegation to oneself",
        lambda w: Showing(
            forged(w.root(), w.sts, claims={"aud": PLANNER.uri, "allowed_targets": [PLANNER.uri]}), PLANNER, PLANNER
        ),
    ),
    Attack("T175", "root with par_hash", lambda w: root_with(par_hash=signing_hash(w.root()))(w)),
    Attack("T176", "stolen root, other workload", lambda w: Showing(w.root(), EVIL)),
    Attack("T177", "root forwarded unchanged", lambda w: shown_by_retriever(w.root())),
    Attack("T178", "other target", lambda w: Showing(w.root(), PLANNER, CRM)),
    Attack("T179", "stolen chain", lambda w: shown_by_retriever(w.two_links(), presenter=EVIL)),
    Attack("T180", "bound to another certificate of the same workload", lambda w: bound_to(w, None, PLANNER)),
    Attack("T181", "bound to a certificate, none is known", lambda w: bound_to(w, PLANNER, None)),
    Attack("T182", "single use, twice", lambda w: Showing(w.root(once=True), seen_before=True)),
    Attack(
        "T182",
        "single use above, twice",
        lambda w: shown_by_retriever(w.passed_on(w.root(once=True), RETRIEVER, CRM), seen_before=True),
    ),
    *(
        Attack(f"T{183 + link}", f"{name} revoked by jti", revoked(three_links, revoked_token(link)))
        for link, name in enumerate(("root", "middle", "leaf"))
    ),
    *(
        Attack(number, f"{name} revoked", revoked(three_links, always(revocations)))
        for number, name, revocations in (
            ("T186", "session", Revocations(session_ids=frozenset({SESSION}))),
            ("T187", "subject", Revocations(subjects={USER: MINTED})),
            ("T188", "middle agent", Revocations(workloads={RETRIEVER: PASSED_ON})),
            ("T189", "first holder", Revocations(workloads={PLANNER: MINTED})),
            ("T190", "key id", Revocations(key_ids=frozenset({"sts-1"}))),
            ("T190", "owner of a registered key", Revocations(workloads={STS: MINTED - 1000})),
        )
    ),
    Attack("T191", "certificate of a signer revoked", revoked(three_links, revoked_certificate)),
    Attack(
        "T191",
        "signer revoked after its certificate was made, iat later",
        revoked(three_links, always(Revocations(workloads={CRM: NOW - 900}))),
    ),
    Attack("T192", "grant shown without a link of its own", lambda w: Showing(w.grant())),
    Attack("T192", "grant shown to its own audience", lambda w: Showing(w.grant(), PLANNER, PLANNER)),
    Attack("T193", "grant used by another", grant_used_by_evil),
    Attack("T194", "replaced link revoked by jti", revoked(checkpoint, revoked_ancestor)),
    *(
        Attack("T195", f"{name} of a replaced link revoked", revoked(checkpoint, always(marks)))
        for name, marks in (
            ("first agent", Revocations(workloads={PLANNER: MINTED})),
            ("second agent", Revocations(workloads={RETRIEVER: MINTED})),
        )
    ),
    Attack(
        "T195",
        "key of a replaced link revoked",
        revoked(
            lambda w: shown_by_crm(w.checkpoint(w.two_links(), key=["sts-0", "x"])),
            always(Revocations(key_ids=frozenset({"sts-0"}))),
        ),
    ),
    Attack("T196", "checkpoint by somebody who is no minter", checkpoint_by_non_minter),
    Attack("T197", "checkpoint counts three, lists two", lambda w: shown_by_crm(w.checkpoint(w.two_links(), n=3))),
    Attack(
        "T197",
        "checkpoint lists one agent too few",
        lambda w: shown_by_crm(w.checkpoint(w.two_links(), act=[PLANNER.uri])),
    ),
    Attack("T197", "checkpoint counts none", lambda w: shown_by_crm(w.checkpoint(w.two_links(), n=0, jti=[], act=[]))),
    Attack("T198", "checkpoint with par_hash", checkpoint_with_parent),
    Attack("T198", "checkpoint inside a chain", checkpoint_inside),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.number} {attack.name}")
def test_attack_is_refused(attack: Attack) -> None:
    """The attack is refused, the second time from memory as the first time, and the refusal repeats nothing of the chain."""
    showing, cache = attack.build(world()), LinkCache()
    first, second = (refusal_of(showing, cache) for _ in range(2))
    assert (first.reason, first.detail) == (second.reason, second.detail)
    assert Outcome.DENY == first.reason.meaning.outcome
    assert [] == [word for word in words_of(showing.chain) if word in first.detail]


def test_each_attack_meets_its_own_rule() -> None:
    """What stands in the way of an attack is the rule that it breaks, not another by accident."""
    seen = []
    for attack in ATTACKS:
        refusal = refusal_of(attack.build(world()))
        seen.append(f"{attack.number} {attack.name}: {refusal.reason}: {refusal.detail}")
    assert Path(__file__).with_name("refusals.txt").read_text("utf-8").splitlines() == seen


def refusal_of(showing: Showing, cache: LinkCache | None = None) -> Refusal:
    try:
        delegation = showing.verified(cache)
    except Refusal as refusal:
        return refusal
    assert showing.seen_before, "the attack was let through"
    # What is to be used once is consumed after the decision, by these two ids; the second time they are taken.
    assert delegation.once
    assert (delegation.token_ids[0], delegation.token_ids[-1]) == tuple(
        claims_of(link)["jti"] for link in (showing.chain.split("~")[0], showing.chain.split("~")[-1])
    )
    return Refusal(Reason.TOKEN_CHAIN, "used before")


# What stands in a token and is no secret: the words of the profile itself.
COMMON = {"dlg+jwt", "Ed25519", "audience", "issuer"}


def words_of(chain: str) -> set[str]:
    """Return every value and every segment of a chain that is long enough not to stand in a sentence by chance."""
    words = set(re.split(r"[~.,\s]", chain))
    for segment in list(words):
        with contextlib.suppress(ValueError):
            text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode("utf-8", "replace")
            words.update(re.findall(r'"((?:[^"\\]|\\.)*)"(?!:)', text), re.findall(r"\d+", text))
    return {word for word in words if len(word) >= 5} - COMMON
