"""The grammars and the default policy once more, written as plainly as possible, to compare the package with."""

import re
import string
from collections.abc import Iterator

from support.check_requests import agent

from ext_authz.pb.external_auth_pb2 import CheckRequest

TRUST_DOMAIN_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "._-")
SEGMENT_CHARACTERS = TRUST_DOMAIN_CHARACTERS | frozenset(string.ascii_uppercase)
XFCC_KEYS = ("by", "hash", "cert", "chain", "subject", "uri", "dns")

Elements = list[list[tuple[str, str]]]


def is_spiffe_id(text: str) -> bool:
    """Say whether a text is a SPIFFE ID, character by character (SPIFFE-ID.md section 2)."""
    if not text.startswith("spiffe://") or len(text) > 2048:
        return False
    trust_domain, *segments = text[len("spiffe://") :].split("/")
    return (
        1 <= len(trust_domain) <= 255
        and all(character in TRUST_DOMAIN_CHARACTERS for character in trust_domain)
        and all(_is_segment(segment) for segment in segments)
    )


def is_workload(text: str) -> bool:
    """Say whether a text is the SPIFFE ID of a workload."""
    return is_spiffe_id(text) and text.count("/") > 2


def _is_segment(text: str) -> bool:
    return text not in {"", ".", ".."} and all(character in SEGMENT_CHARACTERS for character in text)


def read_xfcc(header: str) -> Elements | None:
    """Read an XFCC header character by character (contract B.1); None when it does not follow the grammar."""
    if len(header) > 65536 or any(not " " <= character <= "~" for character in header):
        return None
    try:
        elements = list(_elements(iter(header)))
    except (ValueError, StopIteration, RuntimeError):
        return None
    return elements if len(elements) <= 16 else None


def _elements(characters: Iterator[str]) -> Iterator[list[tuple[str, str]]]:
    pairs: list[tuple[str, str]] = []
    separator = ";"
    while separator:
        key = ""
        while (character := next(characters)) != "=":
            key += character
        if key.lower() not in XFCC_KEYS:
            raise ValueError(key)
        value, separator = _value(characters)
        pairs.append((key.lower(), value))
        if separator != ";":
            yield pairs
            pairs = []


def _value(characters: Iterator[str]) -> tuple[str, str]:
    """Return a value and the character behind it; the empty string at the end."""
    value, character = "", next(characters, "")
    if character != '"':
        while character not in {",", ";", ""}:
            if character in {'"', " "}:
                raise ValueError(character)
            value, character = value + character, next(characters, "")
        return value, character
    while (character := next(characters)) != '"':
        if character == "\\":
            escaped = next(characters)
            character = escaped if escaped in {'"', "\\"} else f"\\{escaped}"
        value += character
    behind = next(characters, "")
    if behind not in {",", ";", ""}:
        raise ValueError(behind)
    return value, behind


def names_a_peer(pairs: list[tuple[str, str]]) -> bool:
    """Say whether an element names an immediate peer."""
    values = {key: [value for name, value in pairs if name == key] for key in XFCC_KEYS}
    return (
        all(len(values[key]) <= 1 for key in ("by", "hash", "cert", "chain", "subject"))
        and len(values["uri"]) == 1
        and is_workload(values["uri"][0])
        and all(map(is_workload, values["by"]))
        and len(values["hash"]) == 1
        and len(values["hash"][0]) == 64
        and set(values["hash"][0]) <= set("0123456789abcdef")
    )


# policies/default, as its author would explain it.
_ROUTES = (
    ("search", "POST", r"/v1/search"),
    ("search", "GET", r"/v1/search"),
    ("fetch", "GET", r"/v1/documents/[^/]+"),
    ("read", "GET", r"/records/[^/]+"),
    ("read", "GET", r"/records"),
    ("write", "PUT", r"/records/[^/]+"),
    ("write", "PUT", r"/files/[^/]+"),
    ("execute", "POST", r"/v1/execute"),
    ("vector.query", "POST", r"/collections/[^/]+/points/query"),
    ("vector.delete", "POST", r"/collections/[^/]+/points/delete"),
)
_ASSERTED = frozenset({"execute", "summarize", "classify", "embed"})
_GRANTS = frozenset(
    (agent(subject), agent(resource), action)
    for subject, resource, actions in (
        ("planner-agent", "retrieval-agent", ("search", "fetch")),
        ("planner-agent", "summarizer-agent", ("summarize", "classify")),
        ("planner-agent", "code-executor-agent", ("execute",)),
        ("retrieval-agent", "database-agent", ("read",)),
        ("retrieval-agent", "summarizer-agent", ("embed",)),
        ("retrieval-agent", "vector-store-agent", ("vector.query",)),
        ("ingest-agent", "vector-store-agent", ("vector.upsert", "vector.delete")),
        ("code-executor-agent", "sandbox-agent", ("execute", "write")),
        ("planner-agent", "audit-agent", ("read",)),
        ("retrieval-agent", "audit-agent", ("read",)),
    )
    for action in actions
)


def is_granted(message: CheckRequest) -> bool:
    """Say whether policies/default grants what a request is. A request that is allowed must be granted."""
    attributes = message.attributes
    http = attributes.request.http
    path = http.path.partition("?")[0]
    routed = {action for action, method, pattern in _ROUTES if method == http.method and re.fullmatch(pattern, path)}
    asserted = {value for key, value in header_lines(message) if key.lower() == "x-agent-action"}
    actions = routed or (asserted & _ASSERTED)
    target = attributes.destination.principal or attributes.context_extensions.get("workload", "")
    return any((attributes.source.principal, target, action) in _GRANTS for action in actions)


def header_lines(message: CheckRequest) -> list[tuple[str, str]]:
    """Return every header line of a request, whichever way it is encoded."""
    http = message.attributes.request.http
    lines = [(line.key, line.raw_value.decode("latin-1") or line.value) for line in http.header_map.headers]
    return lines + list(http.headers.items())
