"""The key directory: JWK sets that say themselves whose they are, one file for each issuer.

1. Whoever may write there speaks for every issuer that stands nowhere else: it belongs to whoever registers agents.
2. A key may bring certificates, for links that refer to it by thumbprint; they are verified at each use, as those in links are.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ext_authz.documents.reader import quoted
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import JwksError, KeySet, RegisteredCertificates, parse_jwks, public_key_of
from ext_authz.tokens.strict_json import parse_object
from ext_authz.tokens.svid import Bundles, SigningSvid, SvidError, decode_certificates

SUFFIX = ".json"
# Files, as many as agents in a large mesh, and bytes of one: a few keys with their certificates.
MAX_KEY_FILES = 1024
MAX_REGISTRATION_BYTES = 128 * 1024


class Registration(NamedTuple):
    """The keys of one issuer."""

    issuer: SpiffeId
    keys: KeySet


class RegistrationError(ValueError):
    """A file of the directory registers nothing; the text says why."""


def parse_registration(data: bytes, names: Names, bundles: Bundles) -> Registration:
    """Read one file of the directory. Raises RegistrationError."""
    try:
        keys = parse_jwks(data)
        document = parse_object(data)
        issuer = _issuer(document, names)
        certificates = dict(_certificates(document["keys"], issuer))
    except (JwksError, SvidError) as error:
        raise RegistrationError(str(error)) from None
    if certificates and not bundles.get(issuer.trust_domain):
        raise RegistrationError(f"has certificates, and {quoted(issuer.trust_domain)} is not in `bundles`")
    return Registration(issuer, KeySet(keys, certificates=certificates))


def _issuer(document: Mapping[str, Any], names: Names) -> SpiffeId:
    name = document.get("issuer")
    if not isinstance(name, str):
        raise RegistrationError("says not whose keys these are: a member `issuer` names a workload")
    try:
        return names.resolve(name)
    except SpiffeIdError as error:
        raise RegistrationError(f"{quoted(name)} names no workload: {error}") from None


def _certificates(members: list[Mapping[str, Any]], issuer: SpiffeId) -> Iterator[tuple[str, RegisteredCertificates]]:
    """Yield the certificates of keys by the thumbprint of the first one (RFC 7517 section 4.7)."""
    for member in members:
        if "x5c" not in member:
            continue
        path = decode_certificates(member["x5c"])
        leaf = SigningSvid.of(path, issuer)
        if path[0].public_key() != public_key_of(member):
            raise RegistrationError("has a certificate for another key")
        yield encode_base64url(leaf.sha256), RegisteredCertificates(member["kid"], tuple(path))
