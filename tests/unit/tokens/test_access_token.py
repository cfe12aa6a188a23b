"""Access tokens: what a good one gives, every attack by name, and what is asked anew each time."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from support.access_tokens import (
    AUDIENCE,
    CLIENT,
    IDP_SESSION,
    ISSUED,
    ISSUER,
    PARTNER,
    SHARED_CLIENT,
    SUB,
    TOKEN_ID,
    USER,
    Bearing,
    Idp,
    Providers,
    providers,
)
from support.delegations import CRM, DROP, EVIL, NOW, PLANNER, RETRIEVER, world

from ext_authz.client.signing import public_jwk
from ext_authz.errors import NotAllowed, Reason, Undecided
from ext_authz.tokens.access_token import MAX_TOKEN_CHARACTERS, AccessToken, AccessTokenCache
from ext_authz.tokens.chain import LEEWAY_SECONDS
from ext_authz.tokens.jws import decode_base64url, encode_base64url
from ext_authz.tokens.keys import NO_KEYS, KeySet, parse_provider_jwks
from ext_authz.tokens.revocation import Revocations

Build = Callable[[Providers], Bearing]
CERTIFICATE = hashlib.sha256(b"a certificate").digest()
THUMBPRINT = encode_base64url(CERTIFICATE)
MALFORMED, SIGNATURE, EXPIRED = Reason.OIDC_MALFORMED, Reason.OIDC_SIGNATURE, Reason.OIDC_EXPIRED
BINDING, SUBJECT, AUDIENCE_OF = Reason.OIDC_BINDING, Reason.OIDC_SUBJECT, Reason.OIDC_AUDIENCE


def token(**changes: Any) -> Build:
    """Show a token of the first provider with some claims changed, properly signed."""
    return lambda p: Bearing(p.idp.token(**changes))


def partner(**changes: Any) -> Build:
    """Show a token of the second provider, properly signed."""
    return lambda p: Bearing(p.partner_token(**changes))


def header(value: Callable[[str], str]) -> Build:
    """Show a good token in another header."""
    return lambda p: Bearing("", header=value(p.idp.token()))


def bound(confirmation: object, shown: bytes | None = CERTIFICATE) -> Build:
    """Show a token with this `cnf` over a connection with this certificate."""
    return lambda p: Bearing(p.idp.token(cnf=confirmation), certificate_sha256=shown)


def acting(actor: object, presenter: Any = PLANNER, **claims: Any) -> Build:
    """Show a token with this `act`."""
    return lambda p: Bearing(p.idp.token(act=actor, **{"client_id": SHARED_CLIENT} | claims), presenter)


def at(now: float, **claims: Any) -> Build:
    """Show a token at a moment."""
    return lambda p: Bearing(p.idp.token(**claims), now=now)


def resigned(edit: Callable[[str], str]) -> Build:
    """Show a good token whose text is changed."""
    return lambda p: Bearing(edit(p.idp.token()))


def revoked(**entries: Any) -> Build:
    """Show a good token after a revocation."""
    return lambda p: Bearing(p.idp.token(), trust=p.trust(Revocations(**entries)))


def _with_public_key_as_secret(p: Providers) -> Bearing:
    pem = p.idp.keys["idp-rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = {"alg": "HS256", "kid": "idp-rsa"}
    return Bearing(p.idp.token(header=forged, sign=lambda data: hmac.digest(pem, data, "sha256")))


def _with_its_own_key(p: Providers) -> Bearing:
    own = Idp(ISSUER, {"idp-1": ec.generate_private_key(ec.SECP256R1())})
    return Bearing(own.token(header={"jwk": public_jwk(own.keys["idp-1"], "idp-1")}))


def _with_an_unknown_key(p: Providers) -> Bearing:
    return Bearing(Idp(ISSUER, {"idp-1": ec.generate_private_key(ec.SECP256R1())}).token())


def _on_another_curve(p: Providers) -> Bearing:
    own = Idp(ISSUER, {"idp-1": ec.generate_private_key(ec.SECP384R1())})
    return Bearing(own.token(header={"alg": "ES256"}))


def _of_the_partner_under_our_issuer(p: Providers) -> Bearing:
    return Bearing(replace(p.partner, issuer=ISSUER).token())


def _changed_payload(text: str) -> str:
    head, payload, signature = text.split(".")
    claims = json.loads(decode_base64url(payload)) | {"sub": "root"}
    return f"{head}.{encode_base64url(json.dumps(claims).encode())}.{signature}"


def _two_members(name: str, first: str) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(b"{", f'{{"{name}":{first},'.encode(), 1)


def _padded(length: int) -> Build:
    def build(p: Providers) -> Bearing:
        short = p.idp.token(note="")
        token = p.idp.token(note="n" * ((length - len(short)) * 3 // 4))
        assert length - 4 <= len(token) <= length
        return Bearing(token)

    return build


GOOD: Mapping[str, Build] = {
    "as it should be": token(),
    "RS256": token(key_id="idp-rsa"),
    "Ed25519": token(key_id="idp-ed"),
    "Ed25519 under its old name": token(key_id="idp-ed", header={"alg": "EdDSA"}),
    "its type in full": token(header={"typ": "application/at+jwt"}),
    "its type in capitals": token(header={"typ": "AT+JWT"}),
    "thumbprints of its key": token(header={"x5t": "c29tZSBrZXk", "x5t#S256": THUMBPRINT}),
    "scheme in lower case": header(lambda text: f"bearer {text}"),
    "scheme in capitals": header(lambda text: f"BEARER {text}"),
    "audience in a list": token(aud=["account", AUDIENCE]),
    "client in azp": token(azp=CLIENT, client_id=DROP),
    "client in both": token(azp=CLIENT),
    "a shared client": token(client_id=SHARED_CLIENT),
    "a shared client, shown by the other": lambda p: Bearing(p.idp.token(client_id=SHARED_CLIENT), RETRIEVER),
    "bound to the certificate shown": bound({"x5t#S256": THUMBPRINT}),
    "the caller acts": acting({"sub": PLANNER.uri}),
    "the caller acts, as a client": acting({"sub": CLIENT}),
    "the caller acts, as a client of the issuer": acting({"sub": CLIENT, "iss": ISSUER}),
    "the caller acts, others did before": acting({"sub": PLANNER.uri, "act": {"sub": "x", "act": {"sub": "y"}}}),
    "the last second": at(ISSUED + 599),
    "the last millisecond": at(ISSUED + 599.999),
    "as long as it may live": token(exp=ISSUED + 900),
    "issued as far ahead as clocks may be": token(iat=NOW + LEEWAY_SECONDS, exp=NOW + 600),
    "not before, as far ahead as clocks may be": token(nbf=NOW + LEEWAY_SECONDS),
    "no scope": token(scope=DROP),
    "an empty scope": token(scope=""),
    "no id and no session": token(jti=DROP, sid=DROP),
    "claims that nobody knows": token(roles=["admin"], realm_access={"roles": ["a"]}, email_verified=True, acr=None),
    "a kind of its own, as Keycloak writes it": token(typ="Bearer"),
    "as large as it may be": _padded(MAX_TOKEN_CHARACTERS),
    "type JWT, where it is allowed": partner(),
    "scp as a list": partner(scp=["Search.Read"]),
    "no name of the only key": partner(header={"kid": DROP}),
    "issued before another was revoked": revoked(
        token_ids={"x"}, session_ids={"x"}, key_ids={"x"}, subjects={USER: ISSUED - 1, SUB: NOW}, workloads={CRM: NOW}
    ),
}  # fmt: skip

ATTACKS: Mapping[str, tuple[Reason, Build]] = {
    # the header
    "empty": (MALFORMED, header(lambda _: "")),
    "scheme alone": (MALFORMED, header(lambda _: "Bearer")),
    "scheme and a space": (MALFORMED, header(lambda _: "Bearer ")),
    "no scheme": (MALFORMED, header(str)),
    "another scheme": (MALFORMED, header(lambda text: f"DPoP {text}")),
    "basic credentials": (MALFORMED, header(lambda _: "Basic cGxhbm5lcjpzZWNyZXQ=")),
    "two spaces": (MALFORMED, header(lambda text: f"Bearer  {text}")),
    "a space behind": (MALFORMED, header(lambda text: f"Bearer {text} ")),
    "a space before": (MALFORMED, header(lambda text: f" Bearer {text}")),
    "a tab": (MALFORMED, header(lambda text: f"Bearer\t{text}")),
    "a line break behind": (MALFORMED, header(lambda text: f"Bearer {text}\n")),
    "two headers, joined": (MALFORMED, header(lambda text: f"Bearer {text},Bearer {text}")),
    "two headers, joined with a space": (MALFORMED, header(lambda text: f"Bearer {text}, Bearer {text}")),
    "quoted": (MALFORMED, header(lambda text: f'Bearer "{text}"')),
    "parameters": (MALFORMED, header(lambda text: f'Bearer token="{text}"')),
    "16 KiB": (MALFORMED, lambda p: Bearing(p.idp.token(note="n" * 12_000))),
    "a character too many": (MALFORMED, lambda _: Bearing("a" * (MAX_TOKEN_CHARACTERS + 1))),
    # the form
    "two segments": (MALFORMED, resigned(lambda text: text.rpartition(".")[0])),
    "four segments": (MALFORMED, resigned(lambda text: f"{text}.AQ")),
    "five segments, encrypted": (MALFORMED, lambda _: Bearing("e30.e30.e30.e30.e30")),
    "no signature": (MALFORMED, resigned(lambda text: text.rpartition(".")[0] + ".")),
    "padding": (MALFORMED, resigned(lambda text: f"{text}==")),
    "another alphabet": (MALFORMED, resigned(lambda text: text.replace("-", "+").replace("_", "/") + "+")),
    "tail bits": (MALFORMED, resigned(lambda text: f"{text.rpartition('.')[0]}.AB")),
    "opaque": (MALFORMED, lambda _: Bearing("ya29.a0AfH6SMBx")),
    "percent-encoded": (MALFORMED, resigned(lambda text: text.replace(".", "%2E"))),
    "a claim twice": (MALFORMED, token(claims_text=_two_members("sub", '"root"'))),
    "a claim twice, escaped": (MALFORMED, token(claims_text=_two_members("s\\u0075b", '"root"'))),
    "alg twice": (MALFORMED, token(header_text=_two_members("alg", '"none"'))),
    "a float": (MALFORMED, token(exp=float(NOW + 60))),
    "NaN": (MALFORMED, token(claims_text=_two_members("note", "NaN"))),
    "a list instead of claims": (MALFORMED, token(claims_text=lambda text: b"[" + text + b"]")),
    "too deep": (MALFORMED, token(note=json.loads("[" * 8 + "]" * 8))),
    "not UTF-8": (MALFORMED, token(claims_text=lambda text: text.replace(b"openid", b"openi\xff"))),
    # algorithm and key
    "alg none": (SIGNATURE, token(header={"alg": "none"})),
    "alg none, empty signature": (MALFORMED, token(header={"alg": "none"}, sign=lambda _: b"")),
    "alg nOnE": (SIGNATURE, token(header={"alg": "nOnE"})),
    "no alg": (MALFORMED, token(header={"alg": DROP})),
    "a list of algs": (SIGNATURE, token(header={"alg": ["ES256"]})),
    "HS256 with the public key": (SIGNATURE, _with_public_key_as_secret),
    "another alg than the key's": (SIGNATURE, token(key_id="idp-rsa", header={"alg": "PS256"})),
    "another curve": (SIGNATURE, _on_another_curve),
    "an unknown key by a known name": (SIGNATURE, _with_an_unknown_key),
    "a key in the header": (MALFORMED, _with_its_own_key),
    "jku": (MALFORMED, token(header={"jku": "https://evil.test/keys"})),
    "x5u": (MALFORMED, token(header={"x5u": "https://evil.test/cert"})),
    "x5c": (MALFORMED, token(header={"x5c": ["MIIB"]})),
    "crit": (MALFORMED, token(header={"crit": ["exp"]})),
    "b64": (MALFORMED, token(header={"b64": False, "crit": ["b64"]})),
    "zip": (MALFORMED, token(header={"zip": "DEF"})),
    "enc": (MALFORMED, token(header={"enc": "A256GCM"})),
    "a parameter that nobody knows": (MALFORMED, token(header={"nonce": "x"})),
    "kid of another provider": (SIGNATURE, token(header={"kid": "partner-1"})),
    "the partner's key under our issuer": (SIGNATURE, _of_the_partner_under_our_issuer),
    "kid of the key for encryption": (SIGNATURE, token(header={"kid": "enc-1"})),
    "an unknown kid": (SIGNATURE, token(header={"kid": "../idp-1"})),
    "no kid, several keys": (MALFORMED, token(header={"kid": DROP})),
    "kid null": (MALFORMED, partner(header={"kid": None})),
    "kid a number": (MALFORMED, token(header={"kid": 1})),
    "kid empty": (MALFORMED, token(header={"kid": ""})),
    "kid too long": (MALFORMED, token(header={"kid": "k" * 129})),
    "changed claims": (SIGNATURE, resigned(_changed_payload)),
    "a signature of zeros": (SIGNATURE, token(sign=lambda _: bytes(64))),
    # the type
    "an ID token": (MALFORMED, token(header={"typ": "JWT"}, aud=CLIENT, nonce="n")),
    "no type": (MALFORMED, token(header={"typ": DROP})),
    "type JWT, where it is not allowed": (MALFORMED, token(header={"typ": "JWT"})),
    "an ID token where JWT is allowed": (MALFORMED, partner(at_hash="x", aud=AUDIENCE)),
    "a logout token where JWT is allowed": (MALFORMED, partner(events={"backchannel-logout": {}})),
    "a refresh token, as Keycloak writes it": (MALFORMED, partner(typ="Refresh")),
    "an ID token, as Keycloak writes it": (MALFORMED, partner(typ="ID")),
    "a delegation link": (Reason.OIDC_ISSUER, lambda _: Bearing(world().root())),
    "a delegation link under our issuer": (MALFORMED, token(header={"typ": "dlg+jwt"})),
    "a delegation chain": (MALFORMED, lambda _: Bearing(world().two_links())),
    "a JWT-SVID": (Reason.OIDC_ISSUER, partner(iss="https://spire.agents.example.com", sub=PLANNER.uri)),
    "a JWT-SVID under our issuer": (MALFORMED, token(header={"typ": "JOSE"}, sub=PLANNER.uri, iat=DROP)),
    # issuer and audience
    "another issuer": (Reason.OIDC_ISSUER, token(iss="https://evil.test")),
    "the issuer with a slash": (Reason.OIDC_ISSUER, token(iss=f"{ISSUER}/")),
    "the issuer in capitals": (Reason.OIDC_ISSUER, token(iss=ISSUER.upper())),
    "the beginning of the issuer": (Reason.OIDC_ISSUER, token(iss=ISSUER[:-1])),
    "no issuer": (MALFORMED, token(iss=DROP)),
    "a list of issuers": (MALFORMED, token(iss=[ISSUER])),
    "another audience": (AUDIENCE_OF, token(aud="other-api")),
    "audience with more behind": (AUDIENCE_OF, token(aud=f"{AUDIENCE}-v2")),
    "the beginning of the audience": (AUDIENCE_OF, token(aud=AUDIENCE[:-1])),
    "audience in capitals": (AUDIENCE_OF, token(aud=AUDIENCE.upper())),
    "audiences as one text": (AUDIENCE_OF, token(aud=f"other {AUDIENCE}")),
    "the partner's audience": (AUDIENCE_OF, token(aud="api://agents")),
    "the client as audience": (AUDIENCE_OF, token(aud=CLIENT)),
    "no audience": (MALFORMED, token(aud=DROP)),
    "an empty list of audiences": (MALFORMED, token(aud=[])),
    "an audience in a list in a list": (MALFORMED, token(aud=[[AUDIENCE]])),
    "an audience beside a number": (MALFORMED, token(aud=[AUDIENCE, 1])),
    "audience as an object": (MALFORMED, token(aud={AUDIENCE: True})),
    "too many audiences": (MALFORMED, token(aud=[AUDIENCE, *(f"a{number}" for number in range(16))])),
    # time
    "the second of its end": (EXPIRED, at(ISSUED + 600)),
    "expired": (EXPIRED, at(ISSUED + 601)),
    "issued in the future": (EXPIRED, token(iat=NOW + LEEWAY_SECONDS + 1, exp=NOW + 600)),
    "not before a moment in the future": (EXPIRED, token(nbf=NOW + LEEWAY_SECONDS + 1)),
    "a second too long a life": (Reason.OIDC_LIFETIME, token(exp=ISSUED + 901)),
    "a day": (Reason.OIDC_LIFETIME, token(exp=ISSUED + 86_400)),
    "no end": (MALFORMED, token(exp=DROP)),
    "no beginning": (MALFORMED, token(iat=DROP)),
    "an end before its beginning": (MALFORMED, token(exp=ISSUED)),
    "end as text": (MALFORMED, token(exp=str(NOW + 60))),
    "end true": (MALFORMED, token(exp=True)),
    "end negative": (MALFORMED, token(iat=-2, exp=-1)),
    "end beyond 2^53": (MALFORMED, token(exp=2**53 + 1)),
    "not before as text": (MALFORMED, token(nbf="0")),
    # who it is for, and who shows it
    "no sub": (MALFORMED, token(sub=DROP)),
    "an empty sub": (MALFORMED, token(sub="")),
    "sub a number": (MALFORMED, token(sub=7)),
    "sub with a space": (MALFORMED, token(sub="root admin")),
    "sub with a line break": (MALFORMED, token(sub="x\r\nx-authz-scopes: all")),
    "sub with letters that look alike": (MALFORMED, token(sub="r\u03bfot")),
    "sub too long": (MALFORMED, token(sub="s" * 256)),
    "sub too long with what is put before it": (MALFORMED, token(sub="s" * 251)),
    "shown by another": (BINDING, lambda p: Bearing(p.idp.token(), EVIL)),
    "shown by the callee": (BINDING, lambda p: Bearing(p.idp.token(), RETRIEVER)),
    "another client": (BINDING, token(client_id="crm-ui")),
    "a client in capitals": (BINDING, token(client_id=CLIENT.upper())),
    "no client": (BINDING, token(client_id=DROP)),
    "two clients": (BINDING, token(azp=SHARED_CLIENT)),
    "client a list": (MALFORMED, token(client_id=[CLIENT])),
    "client empty": (MALFORMED, token(azp="")),
    "bound to another certificate": (BINDING, bound({"x5t#S256": encode_base64url(bytes(32))})),
    "bound to a certificate, and none is known": (BINDING, bound({"x5t#S256": THUMBPRINT}, None)),
    "bound to a certificate in hexadecimal": (BINDING, bound({"x5t#S256": CERTIFICATE.hex()})),
    "bound to a certificate in padded base64": (BINDING, bound({"x5t#S256": base64.b64encode(CERTIFICATE).decode()})),
    "bound to a DPoP key": (BINDING, bound({"jkt": THUMBPRINT})),
    "bound to a certificate and a DPoP key": (BINDING, bound({"x5t#S256": THUMBPRINT, "jkt": THUMBPRINT})),
    "bound to a key in the token": (BINDING, bound({"jwk": {"kty": "EC"}})),
    "bound to a number": (BINDING, bound({"x5t#S256": 1})),
    "bound to nothing": (MALFORMED, bound({})),
    "cnf a text": (MALFORMED, bound(THUMBPRINT)),
    "another acts": (SUBJECT, acting({"sub": RETRIEVER.uri})),
    "the caller acted before": (SUBJECT, acting({"sub": RETRIEVER.uri, "act": {"sub": PLANNER.uri}})),
    "another client acts": (SUBJECT, acting({"sub": CLIENT}, RETRIEVER)),
    "a client of another issuer acts": (SUBJECT, acting({"sub": CLIENT, "iss": PARTNER})),
    "act a text": (MALFORMED, acting(PLANNER.uri)),
    "act without sub": (MALFORMED, acting({"act": {"sub": PLANNER.uri}})),
    "act null": (MALFORMED, acting(None)),
    "an inner act null": (MALFORMED, acting({"sub": PLANNER.uri, "act": None})),
    "too many actors": (MALFORMED, acting({"sub": PLANNER.uri, "act": {"sub": "2", "act": {"sub": "3", "act": {"sub": "4", "act": {"sub": "5", "act": {"sub": "6"}}}}}})),
    "jti a number": (MALFORMED, token(jti=1)),
    "sid a list": (MALFORMED, token(sid=[IDP_SESSION])),
    # scopes
    "scope as a list": (MALFORMED, token(scope=["kb:search"])),
    "scope as a number": (MALFORMED, token(scope=1)),
    "scope null": (MALFORMED, token(scope=None)),
    "scope with two spaces": (MALFORMED, token(scope="openid  kb:search")),
    "scope with a comma and a quote": (MALFORMED, token(scope='kb:search "')),
    "too many scopes": (MALFORMED, token(scope=" ".join(f"s{number}" for number in range(129)))),
    "scp with a number": (MALFORMED, partner(scp=["Search.Read", 1])),
    # revocation
    "its id is revoked": (Reason.TOKEN_REVOKED, revoked(token_ids={TOKEN_ID})),
    "its session is revoked": (Reason.TOKEN_REVOKED, revoked(session_ids={IDP_SESSION})),
    "its key is revoked": (Reason.TOKEN_REVOKED, revoked(key_ids={"idp-1"})),
    "its subject is revoked": (Reason.TOKEN_REVOKED, revoked(subjects={USER: ISSUED})),
    "its presenter is revoked": (Reason.TOKEN_REVOKED, revoked(workloads={PLANNER: ISSUED})),
}  # fmt: skip


def refusal_of(showing: Bearing, cache: AccessTokenCache | None = None) -> NotAllowed:
    """Return how a token is refused."""
    with pytest.raises(NotAllowed) as caught:
        showing.verified(cache)
    return caught.value


def found_or_reason(showing: Bearing) -> AccessToken | Reason:
    """Return what a token gives, or why it is refused."""
    try:
        return showing.verified()
    except NotAllowed as refusal:
        return refusal.reason


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    """A token that keeps all rules is verified, and the second time gives the same."""
    showing, cache = GOOD[name](providers()), AccessTokenCache()
    assert showing.verified() == showing.verified(cache) == showing.verified(cache)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    """The attack is refused with its reason, the first time and the second, and nothing of the token is repeated."""
    reason, build = ATTACKS[name]
    showing, cache = build(providers()), AccessTokenCache()
    for refusal in (refusal_of(showing), refusal_of(showing, cache), refusal_of(showing, cache)):
        assert reason == refusal.reason
        assert refusal.detail.isascii()
        for secret in (SUB, TOKEN_ID, IDP_SESSION, AUDIENCE, CLIENT, "evil.test", "root"):
            assert secret not in refusal.detail


def test_what_a_token_gives() -> None:
    """Issuer, subject, our name for it, scopes, client, actors, ids and times, as the token says them."""
    expected = AccessToken(
        issuer=ISSUER,
        subject=SUB,
        on_behalf_of=USER,
        scopes=frozenset({"openid", "kb:search", "tickets:read"}),
        client=SHARED_CLIENT,
        actors=("first", PLANNER.uri),
        token_id=TOKEN_ID,
        session_id=IDP_SESSION,
        issued_at=ISSUED,
        expires_at=ISSUED + 600,
    )
    assert expected == acting({"sub": PLANNER.uri, "act": {"sub": "first"}})(providers()).verified()


def test_mapping_gives_what_it_says_and_no_more() -> None:
    """With a mapping only its scopes count, letter by letter; a scope of ours that the issuer writes is none."""
    scopes = {
        "Search.Read": {"kb:search"},
        "Search.Read Tickets.Write": {"kb:search"},
        "kb:search": set(),
        "search.read": set(),
        "Search": set(),
        "Search.Read.All": set(),
        "Search.*": set(),
        "": set(),
    }
    assert scopes == {written: set(partner(scp=written)(providers()).verified().scopes) for written in scopes}


def test_subject_of_another_issuer_is_somebody_else() -> None:
    """The same `sub` is, by issuer, another person."""
    users = [build(providers()).verified() for build in (token(), partner())]
    assert [(SUB, USER), (SUB, f"partner:{SUB}")] == [(user.subject, user.on_behalf_of) for user in users]


def test_without_clients_everybody_may_show_a_token() -> None:
    """A provider without `clients` binds its tokens to nobody: bearer tokens, as RFC 6750 has them."""
    showing = Bearing(providers().idp.token(client_id=DROP), EVIL, trust=providers().trust(clients=None))
    assert showing.verified().client is None
    as_client = replace(showing, token=providers().idp.token(act={"sub": CLIENT}))
    assert SUBJECT == refusal_of(as_client).reason


def test_keys_that_could_not_be_fetched() -> None:
    """Keys never fetched or too old are our fault, also for a token that was seen before; other issuers go on."""
    p, cache = providers(), AccessTokenCache()
    until = replace(Bearing(p.idp.token()), trust=p.trust(keys=p.idp.key_set._replace(usable_until=NOW)))
    until.verified(cache)
    for refusal in (
        refusal_of(replace(until, now=NOW + 1), cache),
        refusal_of(replace(until, now=NOW + 1)),
        refusal_of(replace(until, trust=p.trust(keys=NO_KEYS))),
    ):
        assert isinstance(refusal, Undecided)
        assert Reason.KEYS_UNAVAILABLE == refusal.reason
    assert replace(until, token=p.partner_token(), trust=p.trust(keys=NO_KEYS)).verified()


def test_everything_else_is_asked_again() -> None:
    """Time, revocation, caller and certificate hold for remembered tokens too."""
    cache, p = AccessTokenCache(), providers()
    showing = Bearing(p.idp.token(cnf={"x5t#S256": THUMBPRINT}), certificate_sha256=CERTIFICATE)
    showing.verified(cache)
    changed = {
        EXPIRED: replace(showing, now=ISSUED + 600),
        BINDING: replace(showing, certificate_sha256=bytes(32)),
        Reason.TOKEN_REVOKED: replace(showing, trust=p.trust(Revocations(token_ids=frozenset({TOKEN_ID})))),
        AUDIENCE_OF: replace(showing, trust=p.trust(audiences=frozenset({"x"}))),
        Reason.OIDC_LIFETIME: replace(showing, trust=p.trust(max_ttl_seconds=599)),
    }
    assert list(changed) == [refusal_of(each, cache).reason for each in changed.values()]
    assert BINDING == refusal_of(replace(showing, presenter=EVIL), cache).reason
    assert showing.verified(cache)


def test_remembered_signature_is_not_verified_again() -> None:
    """What is remembered is that the signature holds: a cache belongs to one set of keys."""
    p, cache = providers(), AccessTokenCache()
    showing = Bearing(p.idp.token())
    showing.verified(cache)
    without_keys = replace(showing, trust=p.trust(keys=KeySet({})))
    assert showing.verified(cache) == without_keys.verified(cache)
    assert SIGNATURE == refusal_of(without_keys).reason


def test_refused_tokens_are_not_remembered() -> None:
    """A flood of forged tokens takes no place of good ones."""
    cache = AccessTokenCache(max_characters=100_000)
    for number in range(20):
        refusal_of(Bearing(providers().idp.token(jti=f"{number}", sign=lambda _: bytes(64))), cache)
    assert 0 == len(cache._young) == len(cache._old)


def published(*key_ids: str) -> KeySet:
    """Return what the first provider would publish of these keys."""
    jwks = [public_jwk(providers().idp.keys[key_id], key_id) for key_id in key_ids]
    return KeySet(parse_provider_jwks(json.dumps({"keys": jwks}).encode()))


def test_one_key_needs_no_name_and_two_do() -> None:
    """RFC 7515 section 4.1.4 leaves `kid` out; then there is one key to try, or none."""
    p = providers()
    unnamed = Bearing(p.idp.token(header={"kid": DROP}))
    sets = (published("idp-1"), published("idp-rsa"), published("idp-1", "idp-rsa"))
    found = [found_or_reason(replace(unnamed, trust=p.trust(keys=keys))) for keys in sets]
    assert [Bearing(p.idp.token()).verified(), SIGNATURE, MALFORMED] == found


@given(st.data())
def test_any_single_damage_is_refused(data: st.DataObject) -> None:
    """Whichever character of a good token is replaced, dropped or doubled, it is a good token no more."""
    text = providers().idp.token(data.draw(st.sampled_from(["idp-1", "idp-rsa", "idp-ed"])))
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(min_codepoint=0, max_codepoint=255).filter(lambda other: other != text[place]))
    end = data.draw(st.sampled_from([place, place + 1]))
    damaged = text[:place] + data.draw(st.sampled_from([character, character * (end - place)])) + text[end:]
    cache = AccessTokenCache()
    Bearing(text).verified(cache)
    if damaged != text:
        assert refusal_of(Bearing(damaged), cache).reason in {MALFORMED, SIGNATURE, Reason.OIDC_ISSUER}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
# The values of the claims that decide whose token it is, for whom and to whom.
ONLY_GOOD: Mapping[str, tuple[object, ...]] = {
    "iss": (ISSUER,),
    "aud": (AUDIENCE, [AUDIENCE]),
    "client_id": (CLIENT, SHARED_CLIENT),
}


@given(st.sampled_from(sorted(ONLY_GOOD)), json_values | st.just(DROP))
def test_any_other_value_of_a_claim_that_decides_is_refused(name: str, value: Any) -> None:
    """Issuer, audience and client have the values that are registered, or the token is refused, whoever signed it."""
    if value not in ONLY_GOOD[name]:
        assert refusal_of(token(**{name: value})(providers())).reason.value.startswith("oidc_")


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "iat", "nbf", "jti", "sid", "scope", "azp", "act", "cnf", "typ"]), json_values
    )
)
def test_signed_nonsense_never_fails_inside(claims: Mapping[str, Any]) -> None:
    """Whatever an issuer signs, the answer is a token that keeps the rules or a reason of ours."""
    found = found_or_reason(token(**claims)(providers()))
    if isinstance(found, Reason):
        assert found.value.startswith("oidc_")
    else:
        assert found.issued_at <= NOW + LEEWAY_SECONDS
        assert NOW < found.expires_at <= found.issued_at + 900
        assert (ISSUER, CLIENT) == (found.issuer, found.client)
