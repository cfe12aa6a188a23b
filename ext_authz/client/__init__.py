"""For agents: delegation chains made, narrowed and attached to calls."""

from ext_authz.client.auth import DELEGATION_TOKEN, DelegationAuth
from ext_authz.client.exchange import Exchange, ExchangeError
from ext_authz.client.minting import Narrowing, Root, attenuate, mint_root
from ext_authz.client.signing import (
    LinkSigner,
    MintingError,
    PrivateKey,
    certificate_sha256,
    generate_private_key,
    load_certificates,
    load_private_key,
    private_key_pem,
    public_jwk,
)
from ext_authz.client.svid_files import SvidFiles

__all__ = [
    "DELEGATION_TOKEN",
    "DelegationAuth",
    "Exchange",
    "ExchangeError",
    "LinkSigner",
    "MintingError",
    "Narrowing",
    "PrivateKey",
    "Root",
    "SvidFiles",
    "attenuate",
    "certificate_sha256",
    "generate_private_key",
    "load_certificates",
    "load_private_key",
    "mint_root",
    "private_key_pem",
    "public_jwk",
]
