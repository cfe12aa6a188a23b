"""CheckRequest bytes to attributes: every field bounded, every header once, every body judged."""

from collections.abc import Callable, Sequence

import pytest
from support.check_requests import QUESTION, RECEIVED_NS, Question, agent

from ext_authz.attributes.body import Body, BodyState
from ext_authz.attributes.request import (
    MAX_BODY_BYTES,
    MAX_CERTIFICATE_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_EXTENSIONS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_METHOD_BYTES,
    Attributes,
    parse_attributes,
)
from ext_authz.attributes.salvage import salvage_attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.pb.external_auth_pb2 import CheckRequest

# Headers that mean something to us and must stand once.
STRICT = (
    *("x-forwarded-client-cert", "x-agent-action", "x-target-resource", "x-request-timestamp", "x-delegation-token"),
    *("authorization", "x-envoy-auth-partial-body", "content-type", "content-length", "content-encoding"),
    "transfer-encoding",
)
WITHOUT_COMMA = (
    "x-agent-action",
    "x-target-resource",
    "x-delegation-token",
    "x-envoy-auth-partial-body",
    "content-length",
)
CORRELATION = ("traceparent", "x-request-id")
BOTH_FORMS = pytest.mark.parametrize("raw", [True, False], ids=["header_map", "headers"])


def _reason(data: bytes) -> Reason:
    with pytest.raises(Refusal) as refusal:
        parse_attributes(data)
    return refusal.value.reason


def _changed(change: Callable[[CheckRequest], object], question: Question = QUESTION) -> bytes:
    message = question.message()
    change(message)
    return message.SerializeToString()


@BOTH_FORMS
def test_request_as_envoy_sends_it(raw: bool) -> None:  # noqa: FBT001
    """Every field comes out as it went in, whichever way Envoy encodes headers and body."""
    question = QUESTION.but(raw=raw, certificate="PEM", headers=[("X-Agent-Action", "search")])
    attributes = parse_attributes(question.serialized())
    expected = Attributes(
        principal=agent("planner-agent"),
        certificate="PEM",
        destination=agent("retrieval-agent"),
        extensions={"direction": "inbound", "workload": agent("retrieval-agent")},
        method="POST",
        path="/v1/search",
        query="q=quarterly",
        headers={
            "x-request-id": "fb9d0d9b-aa7c-4c38-a5ca-87dfa3d8459d",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "content-type": "application/json",
            "content-length": "29",
            "x-forwarded-client-cert": dict(question.lines())["x-forwarded-client-cert"],  # type: ignore[dict-item]
            "x-envoy-auth-partial-body": "false",
            "x-agent-action": "search",
        },
        body=Body(BodyState.WHOLE, b'{"query": "quarterly report"}'),
        received_ns=RECEIVED_NS,
    )
    assert expected == attributes


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\x0a", b"\x0a\x05abc", b"GET / HTTP/1.1\r\n\r\n", b"\x0a\x04\x0a\x02\x22\xff"]
)
def test_bytes_that_are_no_check_request(data: bytes) -> None:
    """What cannot be decoded, or says nothing, is refused."""
    assert Reason.REQUEST_MALFORMED is _reason(data)


@pytest.mark.parametrize("name", STRICT)
def test_strict_header_stands_once(name: str) -> None:
    """A second line of a header that means something is refused, also with the same value and in other letters."""
    without = QUESTION.but(without=[name], xfcc=None if name == "x-forwarded-client-cert" else "default", partial=None)
    parse_attributes(without.but(headers=[(name, "0")]).serialized())
    for lines in ([(name, "0"), (name, "0")], [(name, "0"), (name.title(), "1")], [(name, ""), (name, "0")]):
        assert Reason.HEADER_AMBIGUOUS is _reason(without.but(headers=lines).serialized())


def test_prompt_header_stands_once() -> None:
    """Two prompts are one too many: only one of them would be screened, or reach the agent."""
    assert Reason.HEADER_AMBIGUOUS is _reason(
        QUESTION.but(headers=[("x-ai-prompt", "a"), ("x-ai-prompt", "b")]).serialized()
    )


@pytest.mark.parametrize("name", WITHOUT_COMMA)
@pytest.mark.parametrize("value", ["0,1", ",0", "0,", ","])
def test_merged_header_is_refused(name: str, value: str) -> None:
    """A comma where none can be means that Envoy joined two lines."""
    question = QUESTION.but(without=[name], partial=None, headers=[(name, value)])
    assert Reason.HEADER_AMBIGUOUS is _reason(question.serialized())
    assert Reason.HEADER_AMBIGUOUS is _reason(question.but(raw=False).serialized())


@pytest.mark.parametrize("name", CORRELATION)
@pytest.mark.parametrize(
    "lines", [("a", "b"), ("a", "a"), ("a", "b", "c"), (b"\xff",), ("a\nb",), ("\u00e9",)], ids=repr
)
def test_correlation_never_refuses(name: str, lines: Sequence[str | bytes]) -> None:
    """A correlation header that is doubled or unreadable is as good as none."""
    question = QUESTION.but(without=[name], headers=[(name, value) for value in lines])
    assert "" == parse_attributes(question.serialized()).headers[name]


def test_other_headers_are_not_kept() -> None:
    """What means nothing to us is neither kept nor judged: copies, bytes and identity headers of the caller."""
    lines = [
        ("x-dup", "a"),
        ("x-dup", "b"),
        ("x-bytes", b"\xff\x00"),
        ("cookie", "c"),
        ("x_forwarded_client_cert", "URI=evil"),
    ]
    usual, asked = (parse_attributes(QUESTION.but(headers=headers).serialized()) for headers in ((), lines))
    assert usual == asked


def test_same_name_in_two_letter_cases_of_the_map() -> None:
    """The map form can hold a name twice too: in different letter cases."""

    def change(message: CheckRequest) -> None:
        message.attributes.request.http.headers["X-Delegation-Token"] = "b"
        message.attributes.request.http.headers["x-delegation-token"] = "a"

    assert Reason.HEADER_AMBIGUOUS is _reason(_changed(change, QUESTION.but(raw=False)))


def test_headers_in_both_forms() -> None:
    """Two lists of headers could tell two stories."""

    def change(message: CheckRequest) -> None:
        message.attributes.request.http.headers["accept"] = "*/*"

    assert Reason.HEADER_AMBIGUOUS is _reason(_changed(change))


def test_body_in_both_forms() -> None:
    """Two bodies could tell two stories."""

    def change(message: CheckRequest) -> None:
        message.attributes.request.http.body = "{}"

    assert Reason.REQUEST_MALFORMED is _reason(_changed(change))


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize(
    "value", [b"\xc0\xc0", b"\xff", b"a\x00", b"a\nb", b"a\r", b"a\x7f", "\u00e9".encode(), b"\t"], ids=repr
)
def test_strict_header_is_printable_ascii(name: str, value: bytes) -> None:
    """A header that means something holds nothing that readers could take for something else."""
    reason = Reason.IDENTITY_INVALID if name == "x-forwarded-client-cert" else Reason.REQUEST_MALFORMED
    question = QUESTION.but(without=[name], partial=None, xfcc=None, headers=[(name, value)])
    assert reason is _reason(question.serialized())


@pytest.mark.parametrize(("text", "value"), [("h\u00e9", "h\u00e9".encode()), ("\ufffd", b"\xff"), ("a\nb", b"a\nb")])
def test_prompt_header_is_any_text(text: str, value: bytes) -> None:
    """A prompt is screened, never interpreted: it may hold anything."""
    assert text == parse_attributes(QUESTION.but(headers=[("x-ai-prompt", value)]).serialized()).headers["x-ai-prompt"]


def _with_headers(count: int) -> bytes:
    usual = len(QUESTION.lines())
    return QUESTION.but(headers=[(f"x-{number}", "") for number in range(count - usual)]).serialized()


def _with_extensions(count: int) -> bytes:
    return QUESTION.but(extensions={f"key-{number}": "" for number in range(count)}).serialized()


def _in_the_map(count: int) -> bytes:
    usual = len(QUESTION.lines())
    return QUESTION.but(raw=False, headers=[(f"x-{number}", "") for number in range(count - usual)]).serialized()


@pytest.mark.parametrize(
    ("reason", "limit", "serialized"),
    [
        (Reason.REQUEST_MALFORMED, MAX_HEADERS, _with_headers),
        (Reason.REQUEST_MALFORMED, MAX_HEADERS, _in_the_map),
        (Reason.REQUEST_MALFORMED, MAX_HEADER_BYTES, lambda n: QUESTION.but(xfcc="x" * n).serialized()),
        (
            Reason.REQUEST_MALFORMED,
            MAX_HEADER_BYTES,
            lambda n: QUESTION.but(headers=[("x-ai-prompt", "x" * n)]).serialized(),
        ),
        (Reason.REQUEST_MALFORMED, MAX_CERTIFICATE_BYTES, lambda n: QUESTION.but(certificate="x" * n).serialized()),
        (Reason.REQUEST_MALFORMED, MAX_EXTENSIONS, _with_extensions),
        (Reason.REQUEST_MALFORMED, MAX_EXTENSION_BYTES, lambda n: QUESTION.but(extensions={"a": "x" * n}).serialized()),
        (Reason.REQUEST_MALFORMED, MAX_METHOD_BYTES, lambda n: QUESTION.but(method="M" * n).serialized()),
        (Reason.BODY_TOO_LARGE, MAX_BODY_BYTES, lambda n: QUESTION.but(body=b"x" * n).serialized()),
        (Reason.BODY_TOO_LARGE, MAX_BODY_BYTES, lambda n: QUESTION.but(raw=False, body=b"x" * n).serialized()),
        (Reason.BODY_TOO_LARGE, MAX_BODY_BYTES, lambda n: QUESTION.but(size=n).serialized()),
    ],
    ids=[
        *("headers", "headers in the map", "XFCC", "prompt", "certificate", "extensions", "extension", "method"),
        *("body", "text body", "size"),
    ],
)
def test_limits(reason: Reason, limit: int, serialized: Callable[[int], bytes]) -> None:
    """Exactly as much as the limit passes; one more is refused, never cut."""
    parse_attributes(serialized(limit))
    assert reason is _reason(serialized(limit + 1))


def test_body_limit_is_a_setting() -> None:
    """The limit of the body is the one that the server was given."""
    parse_attributes(QUESTION.but(body=b"xyz").serialized(), 3)
    with pytest.raises(Refusal) as refusal:
        parse_attributes(QUESTION.but(body=b"xyzw").serialized(), 3)
    assert Reason.BODY_TOO_LARGE is refusal.value.reason


@pytest.mark.parametrize("method", ["", "GET ", "G ET", "GET\n", "M-SEARCH", "GET1", "\u0130NFO", "\uff27ET"])
def test_method_is_a_word(method: str) -> None:
    """A method is made of ASCII letters."""
    assert Reason.REQUEST_MALFORMED is _reason(QUESTION.but(method=method).serialized())


def test_path_comes_from_the_attribute() -> None:
    """A `:path` header, or one that claims to be the original path, is not asked."""
    question = QUESTION.but(headers=[("x-envoy-original-path", "/other"), (":path", "/other")])
    assert "/v1/search" == parse_attributes(question.serialized()).path
    assert Reason.PATH_AMBIGUOUS is _reason(QUESTION.but(path="/a//b").serialized())


WHOLE, PARTIAL, MISSING, NONE = BodyState.WHOLE, BodyState.PARTIAL, BodyState.MISSING, BodyState.NONE


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (WHOLE, {"partial": "false"}),
        (WHOLE, {"partial": "false", "size": 29}),
        (WHOLE, {"partial": "false", "size": 0}),  # Envoy always counts: this is a field that was left out
        (PARTIAL, {"partial": "true"}),
        (PARTIAL, {"partial": None}),
        (PARTIAL, {"partial": ""}),
        (PARTIAL, {"partial": "False"}),
        (PARTIAL, {"partial": "false "}),
        (PARTIAL, {"partial": "true", "size": 0}),
        (PARTIAL, {"partial": "false", "size": 28}),
        (PARTIAL, {"partial": "false", "size": 30}),
        (PARTIAL, {"partial": "false", "size": -1}),
        (MISSING, {"body": b""}),
        (MISSING, {"body": b"", "partial": None}),
        (MISSING, {"body": b"", "partial": None, "method": "PUT"}),
        (MISSING, {"body": b"", "partial": None, "method": "GET", "size": 1}),
        (MISSING, {"body": b"", "partial": None, "method": "GET", "headers": [("content-length", "5")]}),
        (MISSING, {"body": b"", "partial": None, "method": "GET", "headers": [("content-length", "0x0")]}),
        (MISSING, {"body": b"", "partial": None, "method": "GET", "headers": [("transfer-encoding", "chunked")]}),
        (MISSING, {"body": b"", "headers": [("content-length", "0"), ("transfer-encoding", "chunked")]}),
        (NONE, {"body": b"", "headers": [("content-length", "0")]}),
        (NONE, {"body": b"", "partial": None, "headers": [("content-length", "0")]}),
        *((NONE, {"body": b"", "partial": None, "method": method}) for method in ("GET", "HEAD", "OPTIONS", "TRACE", "DELETE")),
    ],
    ids=str,
)  # fmt: skip
def test_state_of_the_body(state: BodyState, changes: dict[str, object]) -> None:
    """A body is whole only where Envoy says so and nothing contradicts it; one that may exist and did not come is missing."""
    assert state is parse_attributes(QUESTION.but(**changes).serialized()).body.state


def test_unread_fields_are_skipped() -> None:
    """Fields of Envoy's that we do not read, and fields of later versions, change nothing."""
    extra = b"\xaa\x1f\x03abc"  # field 501
    assert parse_attributes(QUESTION.serialized()) == parse_attributes(QUESTION.serialized() + extra)


@pytest.mark.parametrize(
    ("nanoseconds", "seconds", "nanos"),
    [
        (1_000_000_001, 1, 1),
        (253_402_300_798_999_999_999, 253_402_300_798, 999_999_999),
        (0, 0, 0),
        (0, -1, 0),
        (0, 1, -1),
        (0, 1, 1_000_000_000),
        (0, 253_402_300_799, 0),
        (0, 10**12, 0),
        (0, 2**63 - 1, 0),
        (0, -(2**63), 0),
    ],
)
def test_time_of_arrival(nanoseconds: int, seconds: int, nanos: int) -> None:
    """A time that no record could show is as good as none: the record must not fail with it."""

    def change(message: CheckRequest) -> None:
        message.attributes.request.time.seconds = seconds
        message.attributes.request.time.nanos = nanos

    data = _changed(change)
    assert nanoseconds == parse_attributes(data).received_ns == salvage_attributes(data).received_ns
    assert 0 == parse_attributes(_changed(lambda message: message.attributes.request.ClearField("time"))).received_ns
