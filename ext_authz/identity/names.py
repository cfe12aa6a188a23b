"""The names that policy authors write, and the SPIFFE IDs that they mean.

1. What starts with `spiffe://` is taken whole.
2. What has a slash is a path in the trust domain, taken whole.
3. Anything else is a name and goes through `id_path`.
4. Where a subject may stand, `@` begins the name of a group, and `*` is one whole segment of the path (`identity/patterns.py`).
"""

from dataclasses import dataclass

from ext_authz.identity.patterns import WILDCARD, Subject, SubjectPattern
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

DEFAULT_ID_PATH = "{name}"
GROUP_SIGN = "@"
# Stands in for a trust domain that is missing or wrong, so that the rest of a policy can be checked too (RFC 2606).
NO_TRUST_DOMAIN = "missing.invalid"


@dataclass(frozen=True, slots=True)
class Names:
    """How names become SPIFFE IDs in one policy."""

    trust_domain: str
    id_path: str = DEFAULT_ID_PATH  # in Kubernetes ns/agents/sa/{name}

    def resolve(self, name: str) -> SpiffeId:
        """Return the workload that `name` means. Raises SpiffeIdError."""
        return SpiffeId.parse_workload(self._written_out(name))

    def resolve_subject(self, name: str) -> Subject:
        """Return the workload that `name` means, or with wildcards the workloads. Raises SpiffeIdError."""
        uri = self._written_out(name)
        return SubjectPattern.parse(uri) if WILDCARD in uri else SpiffeId.parse_workload(uri)

    def name_of(self, uri: str) -> str:
        """Return the shortest text that `resolve_subject` takes for `uri`: how people are told of it."""
        path = uri.removeprefix(f"spiffe://{self.trust_domain}/")
        if path == uri:
            return uri
        before, _, after = self.id_path.partition("{name}")
        name = path[len(before) : len(path) - len(after)]
        if name and "/" not in name and path == f"{before}{name}{after}":
            return name
        return path if "/" in path else f"/{path}"

    def _written_out(self, name: str) -> str:
        if name.startswith("spiffe://"):
            return name
        path = name.removeprefix("/") if "/" in name else self.id_path.replace("{name}", name)
        return f"spiffe://{self.trust_domain}/{path}"


def check_names(names: Names) -> None:
    """Raise SpiffeIdError unless trust domain and `id_path` make valid SPIFFE IDs."""
    if names.id_path.count("{name}") != 1:
        raise SpiffeIdError("id_path holds {name} exactly once")
    if SpiffeId.parse(f"spiffe://{names.trust_domain}").path:
        raise SpiffeIdError("a trust domain has no path")
    names.resolve("name")
