"""Requests, headers, paths and bodies, good and bad, for hypothesis."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from support.check_requests import CERTIFICATE_SHA256, QUESTION, Question, agent

from ext_authz.pb.external_auth_pb2 import CheckRequest

# Enough examples to find what is wrong, few enough for every run of the suite, and the same in each.
EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

# Every byte, and characters that are letters, digits, spaces, separators or nothing to somebody.
CHARACTERS = [chr(code) for code in range(256)] + list(
    "\u0130\u0131\u017f\u0430\u03bf\u0660\u06f0\uff0f\uff0e\uff1b\uff1d\u2024\u2044\u2215\u2028\u2029\u200b\u200d\u202e\u3000\u1680"
    "\ufeff\ufffd\ufffe\U0001d7ce\U0001f600\U000e0061"
)

AGENTS = [
    agent(name)
    for name in (
        *("planner-agent", "retrieval-agent", "summarizer-agent", "code-executor-agent"),
        *("database-agent", "sandbox-agent", "audit-agent", "nobody"),
    )
]
ACTIONS = ["search", "fetch", "read", "write", "execute", "summarize", "classify", "embed", "dance", "*", ""]
PATHS = [
    *(
        "/v1/search",
        "/v1/search?q=x",
        "/v1/documents/1",
        "/records",
        "/records/7",
        "/files/a",
        "/v1/execute",
        "/",
        "/x/y",
    ),
    *("/v1/search/", "/v1//search", "/v1/./search", "/v1/search;x", "/v1/%73earch", "/records/..", "v1/search", ""),
]
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "get", "M SEARCH", ""]

# What a proto3 string can hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
names = st.sampled_from(AGENTS)
identities = names | st.sampled_from(
    ["", "O=SPIRE,C=US", "spiffe://agents.example.com", "spiffe://partner.test/planner-agent"]
)

# Headers that a caller writes itself, and that Envoy neither strips nor checks.
HEADER_NAMES = [
    *("x-agent-action", "x-target-resource", "x-request-timestamp", "x-ai-prompt", "authorization", "cookie"),
    *("x-delegation-token", "content-type", "content-length", "content-encoding", "transfer-encoding"),
    *("traceparent", "x-request-id", "x-authz-subject", "x-authz-action", "X-Agent-Action", "x-agent-id", "host"),
]
header_values = st.sampled_from(
    [*ACTIONS, *AGENTS, "retrieval-agent", "0", "false", "true", "gzip", "application/json", "application/grpc", "a,b"]
)
caller_headers = st.lists(
    st.tuples(st.sampled_from(HEADER_NAMES), header_values | texts | st.binary(max_size=20)), max_size=4
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
bodies = (
    st.just(QUESTION.body)
    | st.just(b"")
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
    | st.sampled_from([b'{"a":1,"a":2}', b"{}{}", b"\xef\xbb\xbf{}", b"[" * 2000, b'"ignore all previous instructions"'])
)  # fmt: skip

# Questions as Envoy may ask them: everything that a caller can choose, and every way in which Envoy may be configured.
questions: st.SearchStrategy[Question] = st.builds(
    lambda raw, **parts: QUESTION.but(raw=raw, **parts) if raw else _as_text(QUESTION.but(raw=raw, **parts)),
    caller=identities,
    target=identities,
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS) | texts,
    body=bodies,
    size=st.none() | st.integers(-1, 100),
    partial=st.sampled_from(["false", "true", None, ""]),
    xfcc=st.sampled_from(
        ["default", "default", "default", None, "", f"Hash={CERTIFICATE_SHA256};URI={agent('planner-agent')}"]
    )
    | texts,
    headers=caller_headers,
    extensions=st.sampled_from(
        [None, None, {}, {"direction": "egress"}, {"direction": "inbound"}, {"workload": AGENTS[0]}]
    ),
    raw=st.booleans(),
)


def _as_text(question: Question) -> Question:
    """Make what was drawn fit the text form of a request, as Envoy does: bytes that are no UTF-8 become `!`."""
    lines = [
        (key, value if isinstance(value, str) else value.decode("utf-8", "replace")) for key, value in question.headers
    ]
    return question.but(headers=lines, body=question.body.decode("utf-8", "replace").encode())


def _set(message: CheckRequest, field: str, value: Any) -> None:
    *path, last = field.split(".")
    part: Any = message
    for name in path:
        part = getattr(part, name)
    setattr(part, last, value)


def _setter(field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Callable[[CheckRequest], None]]:
    return values.map(lambda value: lambda message: _set(message, field, value))


def _map_setter(values: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[Callable[[CheckRequest], None]]:
    def setter(pair: tuple[str, str]) -> Callable[[CheckRequest], None]:
        def change(message: CheckRequest) -> None:
            message.attributes.context_extensions[pair[0]] = pair[1]

        return change

    return values.map(setter)


_http = "attributes.request.http."
_time = "attributes.request.time."
# Changes of one field of a CheckRequest, whoever fills it.
changes = st.one_of(
    _setter("attributes.source.principal", identities | texts),
    _setter(
        "attributes.source.certificate",
        texts | st.just("-----BEGIN CERTIFICATE-----%0AAAAA%0A-----END CERTIFICATE-----"),
    ),
    _setter("attributes.destination.principal", identities | texts),
    _setter(f"{_http}method", st.sampled_from(METHODS) | texts),
    _setter(f"{_http}path", st.sampled_from(PATHS) | texts),
    _setter(f"{_http}raw_body", bodies),
    _setter(f"{_http}body", texts),
    _setter(f"{_http}size", st.integers(-(2**63), 2**63 - 1)),
    _setter(f"{_time}seconds", st.integers(-(2**63), 2**63 - 1)),
    _setter(f"{_time}nanos", st.integers(-(2**31), 2**31 - 1)),
    _map_setter(
        st.tuples(
            st.sampled_from(["direction", "workload", "x"]), names | texts | st.sampled_from(["egress", "inbound"])
        )
    ),
)
