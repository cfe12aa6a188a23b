"""A small world of delegation: a token service, agents with SVIDs, and chains, good ones and forged ones.

Good chains are made by the client as agents make them. `forged` takes the last link of one apart, changes what it is told
to, byte for byte if need be, and signs it again with any key.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from jose.backends import ECKey

from ext_authz.client.minting import Narrowing, Root, attenuate, mint_root
from ext_authz.client.signing import LinkSigner
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.tokens.chain import Delegation, DelegationTrust, LinkCache, Presentation, verify_chain
from ext_authz.tokens.jws import decode_base64url, encode_base64url
from ext_authz.tokens.keys import KeySet, TrustedKeys
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations
from ext_authz.tokens.signature import VerificationKey

# A moment inside the validity of nothing in particular: no test depends on the date it runs on.
NOW = 1_795_299_009
MINTED = NOW - 20  # the root
PASSED_ON = NOW - 5  # every link below it

TRUST_DOMAIN, PARTNER_DOMAIN = "agents.example.com", "partner.test"
USER, SESSION = "user:7c9e6679", "session-9f86d081884c"
SCOPES = ("crm:contact.read", "kb:search", "tickets:read")

DROP = object()  # as the value of a claim or header parameter: leave it out

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
Edit = Callable[[bytes], bytes]


def workload(name: str, trust_domain: str = TRUST_DOMAIN) -> SpiffeId:
    """Return the SPIFFE ID of a workload."""
    return SpiffeId.parse_workload(f"spiffe://{trust_domain}/{name}")


STS, PLANNER, RETRIEVER, CRM, MAILER, EVIL = map(
    workload, ("delegation-sts", "planner", "retriever", "crm", "mailer", "evil")
)
BROKER = workload("broker", PARTNER_DOMAIN)
TARGETS = (RETRIEVER, CRM, MAILER)


@dataclass(frozen=True)
class World:
    """Keys and certificates of everybody, made anew for each run of the tests."""

    ca: DevelopmentCa
    partner_ca: DevelopmentCa
    sts_key: ed25519.Ed25519PrivateKey
    rsa_key: rsa.RSAPrivateKey
    directory_key: ec.EllipticCurvePrivateKey  # registered by the mailer
    planner_key: ec.EllipticCurvePrivateKey  # registered by the planner, which may start chains
    svids: Mapping[SpiffeId, LinkSigner]
    certificates: Mapping[SpiffeId, x509.Certificate]
    private_keys: Mapping[SpiffeId, ec.EllipticCurvePrivateKey]

    @classmethod
    def create(cls) -> Self:
        """Make all keys and certificates."""

        def issued_at() -> datetime:
            return datetime.fromtimestamp(NOW - 900, UTC)

        ca, partner_ca = (DevelopmentCa.create(name, issued_at) for name in (TRUST_DOMAIN, PARTNER_DOMAIN))
        agents = (PLANNER, RETRIEVER, CRM, MAILER, EVIL)
        svids = {agent: ca.issue(agent) for agent in agents} | {BROKER: partner_ca.issue(BROKER)}
        return cls(
            ca,
            partner_ca,
            ed25519.Ed25519PrivateKey.generate(),
            rsa.generate_private_key(65537, 2048),
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP256R1()),
            {agent: LinkSigner.with_svid([svid.certificate], svid.private_key) for agent, svid in svids.items()},
            {agent: svid.certificate for agent, svid in svids.items()},
            {agent: svid.private_key for agent, svid in svids.items()},
        )

    @property
    def sts(self) -> LinkSigner:
        """The token service: it starts chains and signs for others."""
        return LinkSigner.with_key_id(STS, "sts-1", self.sts_key)

    @property
    def sts_rsa(self) -> LinkSigner:
        """The token service with its older key."""
        return LinkSigner.with_key_id(STS, "sts-rsa", self.rsa_key)

    @property
    def planner_root(self) -> LinkSigner:
        """The planner, starting chains of its own with a registered key."""
        return LinkSigner.with_key_id(PLANNER, "planner-1", self.planner_key)

    @property
    def mailer_directory(self) -> LinkSigner:
        """The mailer, with a key from the directory instead of its SVID."""
        return LinkSigner.with_key_id(MAILER, "mailer-1", self.directory_key)

    @property
    def keys(self) -> TrustedKeys:
        """Every key that counts."""
        registered: tuple[tuple[SpiffeId, str, Key, str], ...] = (
            (STS, "sts-1", self.sts_key, "Ed25519"),
            (STS, "sts-rsa", self.rsa_key, "RS256"),
            (MAILER, "mailer-1", self.directory_key, "ES384"),
            (PLANNER, "planner-1", self.planner_key, "ES256"),
        )
        by_issuer: dict[SpiffeId, dict[str, VerificationKey]] = {}
        for issuer, key_id, key, algorithm in registered:
            by_issuer.setdefault(issuer, {})[key_id] = VerificationKey.register(key.public_key(), algorithm)
        key_sets = {issuer: KeySet(keys) for issuer, keys in by_issuer.items()}
        return TrustedKeys(key_sets, {TRUST_DOMAIN: self.ca.bundle, PARTNER_DOMAIN: self.partner_ca.bundle})

    def trust(self) -> DelegationTrust:
        """Return what the server is configured with."""
        return DelegationTrust(self.keys, frozenset({STS, PLANNER}), frozenset({STS}))

    def root(self, **changes: Any) -> str:
        """Return a root in act form: the token service lets the planner call the retriever for the user."""
        usual = Root(
            on_behalf_of=USER,
            session_id=SESSION,
            actor=PLANNER,
            audience=RETRIEVER,
            scopes=SCOPES,
            allowed_targets=TARGETS,
            depth=3,
        )
        return mint_root(self.sts, replace(usual, **changes), MINTED)

    def grant(self, **changes: Any) -> str:
        """Return a root in grant form: the planner signs a link for each call."""
        return self.root(**({"actor": None, "audience": PLANNER, "allowed_targets": (PLANNER, *TARGETS)} | changes))

    def passed_on(self, chain: str, signer: SpiffeId | LinkSigner, audience: SpiffeId, **narrowing: Any) -> str:
        """Return a chain with one more link."""
        by = self.svids[signer] if isinstance(signer, SpiffeId) else signer
        return attenuate(by, chain, audience, Narrowing(**{"lifetime_seconds": 600} | narrowing), PASSED_ON)

    def two_links(self, **narrowing: Any) -> str:
        """Return a chain that the retriever shows to the crm."""
        usual: dict[str, Any] = {"scopes": SCOPES[1:], "allowed_targets": (CRM, MAILER)}
        return self.passed_on(self.root(), RETRIEVER, CRM, **usual | narrowing)

    def three_links(self, **narrowing: Any) -> str:
        """Return a chain that the crm shows to the mailer."""
        usual: dict[str, Any] = {"scopes": SCOPES[2:], "allowed_targets": (MAILER,)}
        return self.passed_on(self.two_links(), CRM, MAILER, **usual | narrowing)

    def checkpoint(self, replaced: str, **changes: Any) -> str:
        """Return a root that stands for a chain of two links, which the crm may show to the mailer."""
        links = list(map(claims_of, replaced.split("~")))
        origin = {
            "h": signing_hash(replaced),
            "n": len(links),
            "jti": [claims["jti"] for claims in links],
            "act": [claims.get("act", {"sub": claims["iss"]})["sub"] for claims in links],
        }
        root = self.root(actor=CRM, audience=MAILER, scopes=SCOPES[2:], allowed_targets=(MAILER,))
        return forged(root, self.sts, claims={"orig": origin | changes, "delegation_depth": 1})


@cache
def world() -> World:
    """Return the world of this run."""
    return World.create()


def signing_hash(chain: str) -> str:
    """Return the `par_hash` that a child of a chain must carry."""
    signing_input = chain.rpartition("~")[2].rpartition(".")[0]
    return encode_base64url(hashlib.sha256(signing_input.encode()).digest())


def header_of(link: str) -> dict[str, Any]:
    """Return the header of a link, or of the last one of a chain, without any check."""
    header: dict[str, Any] = json.loads(decode_base64url(link.rpartition("~")[2].split(".")[0]))
    return header


def claims_of(link: str) -> dict[str, Any]:
    """Return the claims of a link, or of the last one of a chain, without any check."""
    claims: dict[str, Any] = json.loads(decode_base64url(link.rpartition("~")[2].split(".")[1]))
    return claims


def forged(
    chain: str,
    signer: LinkSigner | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    header_text: Edit = bytes,
    claims_text: Edit = bytes,
    sign: Edit | None = None,
) -> str:
    """Return a chain whose last link says something else.

    `header` and `claims` are what changes, `header_text` and `claims_text` edit the JSON. `signer` signs and puts its own
    name of the key into the header; `sign` makes a signature and leaves the header alone.
    """
    *before, link = chain.split("~")
    own = {"alg": signer.algorithm, "typ": "dlg+jwt", **signer.reference} if signer else header_of(link)
    parts = (
        header_text(_json(_changed(own, header or {}))),
        claims_text(_json(_changed(claims_of(link), claims or {}))),
    )
    signing_input = ".".join(map(encode_base64url, parts))
    make = sign or (signer._sign if signer else None)
    assert make is not None, "somebody must sign"
    return "~".join([*before, f"{signing_input}.{encode_base64url(make(signing_input.encode()))}"])


def _changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not DROP}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def with_certificates(
    issuer: SpiffeId,
    certificates: Sequence[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    algorithm: str = "ES256",
) -> LinkSigner:
    """Return a signer that nobody checked: any certificates under any name."""
    x5c = [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]
    return LinkSigner(issuer, algorithm, {"x5c": x5c}, None, None, ECKey(key, algorithm).sign)


@dataclass(frozen=True)
class Showing:
    """A chain as it is shown: by whom, to whom, and what is known then. The default one shows a root in act form."""

    chain: str
    presenter: SpiffeId = PLANNER
    destination: SpiffeId = RETRIEVER
    certificate: x509.Certificate | None = None
    now: float = NOW
    revocations: Revocations = field(default_factory=lambda: NO_REVOCATIONS)
    seen_before: bool = False  # the second showing is judged

    def verified(self, cache: LinkCache | None = None) -> Delegation:
        """Verify the chain in the world of this run. Raises Refusal."""
        return verify_chain(self.chain, self.presentation, world().trust(), cache, self.revocations)

    @property
    def presentation(self) -> Presentation:
        """What the connection proves."""
        sha = self.certificate.fingerprint(hashes.SHA256()) if self.certificate else None
        return Presentation(self.presenter, self.destination, self.now, sha, self.certificate)


def shown_by_retriever(chain: str, **changes: Any) -> Showing:
    """Show a chain of two links as it was meant."""
    return replace(Showing(chain, RETRIEVER, CRM), **changes)


def shown_by_crm(chain: str, **changes: Any) -> Showing:
    """Show a chain of three links as it was meant."""
    return replace(Showing(chain, CRM, MAILER), **changes)


@dataclass(frozen=True)
class Authority:
    """A certificate that signs others, and its key: for certificates that the development CA would not make."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def of(cls, ca: DevelopmentCa) -> Self:
        """Borrow the key of the development CA."""
        return cls(ca.certificate, ca._key)

    @classmethod
    def root(cls, name: str | x509.Name = "root", **changes: Any) -> Self:
        """Make a root of its own; `changes` as for `sign`."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_certificate(key.public_key(), name, name, key, key.public_key(), **{"ca": True} | changes), key)

    def intermediate(self, name: str = "intermediate", **changes: Any) -> "Authority":
        """Sign a CA below this one."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(self.sign(key.public_key(), name, **{"ca": True} | changes), key)

    def sign(self, public_key: Any, name: str | x509.Name = "leaf", **changes: Any) -> x509.Certificate:
        """Sign a certificate."""
        issuer = self.certificate.subject
        return _certificate(public_key, name, issuer, self.key, self.key.public_key(), **changes)

    def svid(self, uris: Sequence[str], key: Any = None, **changes: Any) -> tuple[x509.Certificate, Any]:
        """Sign the certificate of a workload, with a new P-256 key unless one is given."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return self.sign(key.public_key(), uris=uris, **changes), key


def _certificate(
    public_key: Any,
    subject: str | x509.Name,
    issuer: str | x509.Name,
    signing_key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    uris: Sequence[str] = (),
    ca: bool = False,
    signs_certificates: bool | None = None,
    digital_signature: bool | None = None,
    not_before: float = NOW - 910,
    not_after: float = NOW + 2700,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    signs = ca if signs_certificates is None else signs_certificates
    usage = x509.KeyUsage(
        digital_signature=not ca if digital_signature is None else digital_signature,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(0, UTC) + timedelta(seconds=not_before))
        .not_valid_after(datetime.fromtimestamp(0, UTC) + timedelta(seconds=not_after))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    for extension in ([x509.SubjectAlternativeName(names)] if names else []) + list(extensions):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def _name(text: str | x509.Name) -> x509.Name:
    return text if isinstance(text, x509.Name) else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
