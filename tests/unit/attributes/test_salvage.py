"""What a record can still say about a request that broke the request contract."""

import pytest
from support.check_requests import QUESTION, RECEIVED_NS, agent

from ext_authz.attributes.salvage import MAX_SHOWN_CHARACTERS, NOTHING, salvage_attributes


def test_what_is_salvaged() -> None:
    """Who, where, what and when; no certificate, query, body or header but those that correlate."""
    question = QUESTION.but(path="/a//b?secret", certificate="PEM", headers=[("x-ai-prompt", "secret")])
    expected = NOTHING._replace(
        principal=agent("planner-agent"),
        destination=agent("retrieval-agent"),
        method="POST",
        path="/a//b",
        headers={
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "x-request-id": "fb9d0d9b-aa7c-4c38-a5ca-87dfa3d8459d",
        },
        received_ns=RECEIVED_NS,
    )
    assert expected == salvage_attributes(question.serialized())
    assert expected == salvage_attributes(question.but(raw=False).serialized())


@pytest.mark.parametrize("data", [b"\xff", b"\x0a", b"\x0a\x7f", b"GET / HTTP/1.1", bytes(range(256))])
def test_bytes_that_are_no_check_request(data: bytes) -> None:
    """Of what cannot be decoded nothing is salvaged, and nothing is raised."""
    assert NOTHING == salvage_attributes(data)


def test_what_is_shown_is_short_and_printable() -> None:
    """Text that nobody checked cannot flood a log or write into it."""
    salvaged = salvage_attributes(
        QUESTION.but(
            caller="a\nb\u00e9\x1b[31m" * 1000, target="t" * 1000, path="/x" * 1000, method="M" * 99
        ).serialized()
    )
    assert "a?b??[31m" == salvaged.principal[:9]
    assert (MAX_SHOWN_CHARACTERS, MAX_SHOWN_CHARACTERS) == (len(salvaged.principal), len(salvaged.destination))
    assert (MAX_SHOWN_CHARACTERS, 20) == (len(salvaged.path), len(salvaged.method))


@pytest.mark.parametrize("path", ["/a?b?secret", "/a#secret", "/a?#secret", "/a#?secret"])
def test_query_and_fragment_are_left_out(path: str) -> None:
    """Neither a query nor a fragment is salvaged: they may hold anything."""
    assert "/a" == salvage_attributes(QUESTION.but(path=path).serialized()).path


def test_correlation_header_that_is_no_text() -> None:
    """Bytes of a correlation header are shown as question marks."""
    question = QUESTION.but(without=["x-request-id"], headers=[("x-request-id", b"a\xffb\n")])
    assert "a?b?" == salvage_attributes(question.serialized()).headers["x-request-id"]
