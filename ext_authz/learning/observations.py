"""Audit records and access logs to observations: who asked whom for what, and how often.

1. Files are read line by line, and every line is somebody's word: what is not understood is counted, never believed.
2. Only calls between verified workloads are observations.
3. What is kept is bounded: past MAX_DISTINCT different requests, new ones are counted and left out.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from ext_authz.attributes.path import parse_target
from ext_authz.bounded_lines import bounded_lines
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

# Different requests that are kept: a thousand agents with a hundred routes each.
MAX_DISTINCT = 100_000
# Bytes of a line; a record has about 1,500.
MAX_LINE_BYTES = 65_536

# Calls that the matrix or the registry refused, and nothing else: what a policy could be missing.
_MISSING = frozenset({Reason.NOT_IN_MATRIX, Reason.ACTION_UNREGISTERED})


class Request(NamedTuple):
    """One kind of request between two workloads."""

    subject: SpiffeId
    resource: SpiffeId
    method: str
    path: str
    action: str  # the registered action that a decision found; empty: none, or nobody decided


@dataclass(slots=True)
class Observations:
    """What a set of files tells."""

    counts: Counter[Request] = field(default_factory=Counter)
    lines: int = 0
    not_understood: int = 0  # neither a record nor an access log entry
    without_identity: int = 0  # no verified workload on both sides
    unsuccessful: int = 0  # denied, failed, or refused by the workload itself
    beyond_bound: int = 0

    def add(self, file: IO[bytes], *, with_missing: bool) -> None:
        """Add the lines of one file; `with_missing` also counts calls that no rule granted. Raises OSError."""
        for line in bounded_lines(file, MAX_LINE_BYTES):
            self.lines += 1
            self._add(line, with_missing=with_missing)

    def _add(self, line: bytes, *, with_missing: bool) -> None:
        entry = _parsed(line)
        attributes = entry.get("attributes")
        try:
            if isinstance(attributes, dict) and "agent.caller" in attributes:
                request = self._of_record(attributes, with_missing=with_missing)
            elif {"peer", "local", "method", "path"} <= entry.keys():
                request = self._of_access_log(entry)
            else:
                raise ValueError("another format")
        except SpiffeIdError:
            self.without_identity += 1
        except (ValueError, TypeError, Refusal):
            self.not_understood += 1
        else:
            if request is not None:
                self._count(request)

    def _count(self, request: Request) -> None:
        if request not in self.counts and len(self.counts) >= MAX_DISTINCT:
            self.beyond_bound += 1
        else:
            self.counts[request] += 1

    def _of_record(self, attributes: Mapping[str, Any], *, with_missing: bool) -> Request | None:
        reason = attributes.get("ext_authz.reason")
        if reason != Reason.ALLOWED and not (with_missing and reason in _MISSING):
            self.unsuccessful += 1
            return None
        if attributes.get("ext_authz.caller_verified") is not True:
            raise SpiffeIdError("only Envoy's word")
        return _request(
            attributes["agent.caller"],
            attributes.get("agent.target"),
            attributes.get("ext_authz.method"),
            attributes.get("request.path"),
            attributes.get("agent.action", ""),
        )

    def _of_access_log(self, entry: Mapping[str, Any]) -> Request | None:
        status = entry.get("status", 0)
        if type(status) is not int or not 200 <= status < 400:
            self.unsuccessful += 1
            return None
        return _request(entry["peer"], entry["local"], entry["method"], entry["path"], "")


def _parsed(line: bytes) -> Mapping[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        return {}
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _request(subject: Any, resource: Any, method: Any, path: Any, action: Any) -> Request:
    """Build a request from values of a line. Raises SpiffeIdError, ValueError, Refusal."""
    if not all(isinstance(value, str) for value in (method, path, action)):
        raise ValueError("a value is no text")
    if not (isinstance(subject, str) and isinstance(resource, str)):
        raise SpiffeIdError("no identity")
    if not (method.isascii() and method.isalpha() and method.isupper() and len(method) <= 20):
        raise ValueError("no method")
    workloads = SpiffeId.parse_workload(subject), SpiffeId.parse_workload(resource)
    return Request(*workloads, method, parse_target(path).path, action)
