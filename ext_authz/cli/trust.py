"""Whose chains count for a command: what its flags say, or what a policy says."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ext_authz.cli.chains import read_flag, read_keys, read_workloads
from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import load
from ext_authz.server.key_answers import KeyFetchError, fetch_once
from ext_authz.stores.control import ControlStore
from ext_authz.tokens.chain import DelegationTrust
from ext_authz.tokens.keys import KeySet, KeySource
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations


class TrustFlags(NamedTuple):
    """What a command was told about trust, flag by flag."""

    root_issuers: Sequence[str]
    minters: Sequence[str]
    keys: Sequence[str]
    bundles: Sequence[str]


class Trust(NamedTuple):
    """Whose chains count, and which workload a name means."""

    delegation: DelegationTrust
    resolve: Callable[[str], SpiffeId]

    def workload(self, flag: str, name: str) -> SpiffeId:
        """Return the workload that a flag names."""
        return read_flag(flag, self.resolve, name)


def read_trust(policies: Path | None, flags: TrustFlags) -> Trust:
    """Return what the policy says, or what the flags say: one of both. Raises ConfigurationError."""
    if policies is not None:
        if any(flags):
            raise ConfigurationError(["--policies says whose chains count: leave the other flags about it out"])
        return _of_policy(policies)
    if not flags.root_issuers:
        raise ConfigurationError(["name --policies, or at least one --root-issuer"])
    trust = DelegationTrust(
        keys=read_keys(flags.keys, flags.bundles),
        root_issuers=frozenset(read_workloads("--root-issuer", flags.root_issuers)),
        minters=frozenset(read_workloads("--minter", flags.minters)),
    )
    return Trust(trust, SpiffeId.parse_workload)


def read_revocations(store: Path | None) -> Revocations:
    """Return what was revoked in a control store, nothing without one. Raises ConfigurationError."""
    if store is None:
        return NO_REVOCATIONS
    with ControlStore.open(store) as control:
        return control.snapshot(time.time()).revocations


def _of_policy(directory: Path) -> Trust:
    policy = load(directory)
    if policy.delegation is None:
        raise ConfigurationError([f"{directory}: no Delegation document says whose chains count"])
    delegation = policy.delegation.with_keys({source: _fetched(source) for source in policy.key_sources})
    return Trust(delegation.verifier.trust, policy.names.resolve)


def _fetched(source: KeySource) -> KeySet:
    try:
        return asyncio.run(fetch_once(source))
    except KeyFetchError as error:
        raise ConfigurationError([f"{source.url}: {error}"]) from None
