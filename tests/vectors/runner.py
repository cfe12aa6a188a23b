"""Vectors of the format `xfcc-vectors/1`: how they are found, and what judges a SPIFFE ID, an XFCC header or a request.

1. The verdict of a vector is normative; its reason is printed and never compared.
2. What a vector expects and this runner cannot compare fails: nothing is judged halfway.
3. The requests are encoded by envoy-data-plane, so another implementation of the messages is the other end of the wire.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ext_authz.attributes.request import DELEGATION_TOKEN, Attributes, parse_attributes
from ext_authz.errors import Refusal
from ext_authz.identity import xfcc
from ext_authz.identity.certificate import PeerCertificate
from ext_authz.identity.identify import Identifier, Identity
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.identity.xfcc import XfccMode, immediate_peer, parse_xfcc

with warnings.catch_warnings():  # envoy-data-plane is older than the pydantic that it runs on
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.service.auth.v3 import AttributeContext, CheckRequest

FORMAT = "xfcc-vectors/1"
# Formats that another runner reads.
OTHER_RUNNERS = frozenset({"delegation-token-vectors/1"})

_CONFIG_KEYS = frozenset({"xfcc_mode", "require_xfcc", "needs_body", "expected_destinations", "max_body_bytes", "now"})
_SIZE = re.compile(r"<([0-9]+) bytes>")


@dataclass(frozen=True)
class Vector:
    """One vector, and what its file says about all of them."""

    path: Path
    defaults: Mapping[str, Any]
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The name under which it is known."""
        return str(self.content["id"])

    @property
    def kind(self) -> str:
        """What is judged."""
        return str(self.content["kind"])

    def setting(self, name: str, otherwise: Any = None) -> Any:
        """Return a setting: of the vector itself, of its `config`, of its file."""
        for place in (self.content, self.content.get("config") or {}, self.defaults):
            if place.get(name) is not None:
                return place[name]
        return otherwise


@dataclass(frozen=True)
class Verdict:
    """What the package made of a vector."""

    ok: bool
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def read_file(path: Path) -> tuple[str, list[Vector]]:
    """Return the format of a file and its vectors; none where the format is not ours."""
    document = json.loads(path.read_text("utf-8"))
    if document["format"] != FORMAT:
        return document["format"], []
    return FORMAT, [Vector(path, document.get("defaults", {}), content) for content in document["vectors"]]


def judge(vector: Vector) -> Verdict:
    """Return the verdict of the package on a vector of any kind but check_response. Raises KeyError for an unknown kind."""
    with _limits(vector):
        try:
            return _JUDGES[vector.kind](vector)
        except Refusal as refusal:
            return Verdict(ok=False, reason=f"{refusal.reason}: {refusal.detail}")
        except SpiffeIdError as error:
            return Verdict(ok=False, reason=str(error))


def expected_result(vector: Vector) -> Mapping[str, Any]:
    """Return what a vector expects beside the verdict: the peer of an XFCC header, facts of a request."""
    expect = dict(vector.content["expect"])
    unknown = expect.keys() - {"ok", "reason", "peer", "result", "note"}
    if unknown:
        raise KeyError(f"expectations that this runner cannot compare: {sorted(unknown)}")
    return {**(expect.get("peer") or {}), **(expect.get("result") or {})}


def filled(text: str) -> str:
    """Return the text that a placeholder such as `<4096 bytes>` stands for; any other text as it is."""
    size = _SIZE.fullmatch(text)
    return "x" * int(size[1]) if size else text


def _input(vector: Vector) -> str | None:
    recipe = vector.content.get("input_recipe")
    if recipe is None:
        text: str | None = vector.content["input"]
        return text
    repeated = recipe["repeat_char"] * int(recipe["count"])
    return str(recipe.get("prefix", "") + repeated + recipe.get("suffix", ""))


@contextmanager
def _limits(vector: Vector) -> Iterator[None]:
    """Put the limits that a file names in the place of ours."""
    with (
        patch.object(xfcc, "MAX_XFCC_BYTES", vector.setting("max_xfcc_bytes", xfcc.MAX_XFCC_BYTES)),
        patch.object(xfcc, "MAX_ELEMENTS", vector.setting("max_elements", xfcc.MAX_ELEMENTS)),
    ):
        yield


def _spiffe_id(vector: Vector) -> Verdict:
    parse = SpiffeId.parse_workload if vector.setting("workload", otherwise=True) else SpiffeId.parse
    spiffe_id = parse(_input(vector) or "")
    parts = {"trust_domain": spiffe_id.trust_domain, "path": spiffe_id.path}
    return Verdict(ok=True, result={**parts, **dict.fromkeys(("uri", "id", "spiffe_id"), spiffe_id.uri)})


def _xfcc(vector: Vector) -> Verdict:
    header = _input(vector)
    if header is None:
        return Verdict(ok=not vector.setting("require_xfcc", otherwise=True), reason="no XFCC header")
    peer = immediate_peer(header, XfccMode(vector.setting("mode") or vector.setting("xfcc_mode")))
    pairs = parse_xfcc(header)[-1]
    seen = {key: _only(pairs.get(key, ())) for key in ("cert", "chain")} | {"dns": pairs.get("dns", [])}
    by = peer.by.uri if peer.by else None
    return Verdict(
        ok=True, result=seen | {"uri": peer.uri.uri, "by": by, "hash": peer.certificate_sha256, "subject": peer.subject}
    )


def _only(values: Sequence[str]) -> str | None:
    return values[0] if values else None


def _check_request(vector: Vector) -> Verdict:
    config = vector.content.get("config") or {}
    if config.keys() - _CONFIG_KEYS:
        raise KeyError(f"config keys that this runner does not know: {sorted(config.keys() - _CONFIG_KEYS)}")
    identifier = Identifier(
        XfccMode(vector.setting("xfcc_mode", "sanitize_set")),
        vector.setting("require_xfcc", otherwise=True),
        frozenset(map(SpiffeId.parse_workload, vector.setting("expected_destinations", ()))),
    )
    attributes = parse_attributes(_serialized(vector), vector.setting("max_body_bytes", 65536))
    identity = identifier.identify(attributes, _now(vector, attributes))
    body = attributes.body.whole() if vector.setting("needs_body") else b""
    return Verdict(ok=True, result=_facts(attributes, identity, body))


def _facts(attributes: Attributes, identity: Identity, body: bytes) -> dict[str, Any]:
    token = attributes.headers.get(DELEGATION_TOKEN)
    return {
        **dict.fromkeys(("presenter", "subject", "caller", "principal", "uri"), identity.subject.uri),
        **dict.fromkeys(("destination", "resource", "workload"), identity.resource.uri),
        **dict.fromkeys(("hash", "cert_hash", "cert_sha256", "certificate_sha256"), identity.certificate_sha256),
        **dict.fromkeys(("delegation", "delegation_token", "token"), token),
        "path": attributes.path,
        "query": attributes.query,
        "method": attributes.method,
        "body": body.decode("utf-8", "replace"),
    }


def _serialized(vector: Vector) -> bytes:
    """Encode the AttributeContext; the delegation header gets our name where the file gives it another one."""
    text, name = json.dumps(vector.content["attributes"]), vector.setting("delegation_header", DELEGATION_TOKEN)
    if name != DELEGATION_TOKEN:
        text = text.replace(json.dumps(name), json.dumps(DELEGATION_TOKEN))
    return bytes(CheckRequest(attributes=AttributeContext.from_dict(json.loads(text))))


def _now(vector: Vector, attributes: Attributes) -> float:
    """Return the moment of the request: what the vector says, else one at which its certificate is valid."""
    now = vector.setting("now")
    if now is not None or attributes.received_ns:
        return float(attributes.received_ns / 1e9 if now is None else now)
    return PeerCertificate.parse(attributes.certificate).not_before if attributes.certificate else 0.0


_JUDGES = {"spiffe_id": _spiffe_id, "xfcc": _xfcc, "check_request": _check_request}
