"""What reaches the exchange: forms that can be read one way, from a client that the exchange's own sidecar names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.delegations import CRM, EVIL, MAILER, RETRIEVER, world
from support.exchanges import EXCHANGE, FORM, Bench, form_of, xfcc_of

from ext_authz.exchange.app import exchange_app
from ext_authz.exchange.form import MAX_FORM_BYTES, MAX_PARAMETERS, ExchangeRequest, parse_form
from ext_authz.exchange.refusal import ExchangeRefusal
from ext_authz.tokens.exchange_names import DELEGATION_CHAIN_TYPE

INVALID_REQUEST = (400, "invalid_request")
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
LEAST = {"subject_token": "a.b.c", "audience": CRM.uri}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench.running(tmp_path) as bench:
        yield bench


def read(**parameters: Any) -> ExchangeRequest:
    """Read a form with the parameters that are needed, and others."""
    return parse_form(form_of(**LEAST | parameters), RETRIEVER)


def refusal(body: bytes) -> tuple[int, str]:
    """Return how a body is refused."""
    with pytest.raises(ExchangeRefusal) as caught:
        parse_form(body, RETRIEVER)
    return caught.value.http_status, caught.value.code


def test_least_form() -> None:
    """Token, type and audience are enough: everything else is then as the chain says."""
    expected = ExchangeRequest("a.b.c", False, CRM, None, None, None, None, None, False)  # noqa: FBT003
    assert expected == read()


def test_whole_form() -> None:
    """Every parameter is read; those that nobody knows are ignored, as RFC 6749 asks."""
    asked = read(
        scope="kb:search tickets:read",
        resource=[CRM.uri, MAILER.uri],
        mode="checkpoint",
        depth="2",
        lifetime="60",
        once="true",
        client_id=RETRIEVER.uri,
        requested_token_type=DELEGATION_CHAIN_TYPE,
        colour="blue",
    )
    scopes, targets = frozenset({"kb:search", "tickets:read"}), frozenset({CRM, MAILER})
    assert ExchangeRequest("a.b.c", False, CRM, scopes, targets, "checkpoint", 2, 60, True) == asked  # noqa: FBT003


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"grant_type": "client_credentials"}, (400, "unsupported_grant_type")),
        ({"grant_type": None}, INVALID_REQUEST),
        ({"subject_token": None}, INVALID_REQUEST),
        ({"subject_token": ""}, INVALID_REQUEST),
        ({"subject_token_type": None}, INVALID_REQUEST),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, INVALID_REQUEST),
        ({"subject_token_type": JWT_TYPE}, (400, "invalid_scope")),
        ({"subject_token_type": JWT_TYPE, "scope": "a", "mode": "append"}, INVALID_REQUEST),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, INVALID_REQUEST),
        ({"actor_token": "x.y.z"}, INVALID_REQUEST),
        ({"actor_token_type": "urn:ietf:params:oauth:token-type:jwt"}, INVALID_REQUEST),
        ({"client_secret": "hush"}, INVALID_REQUEST),
        ({"client_assertion": "x.y.z"}, INVALID_REQUEST),
        ({"client_id": EVIL.uri}, (401, "invalid_client")),
        ({"audience": None}, INVALID_REQUEST),
        ({"audience": ""}, INVALID_REQUEST),
        ({"audience": "crm"}, (400, "invalid_target")),
        ({"audience": "spiffe://agents.example.com"}, (400, "invalid_target")),
        ({"audience": f"{CRM}\n"}, (400, "invalid_target")),
        ({"resource": [CRM.uri, "https://crm"]}, (400, "invalid_target")),
        ({"resource": [CRM.uri, CRM.uri]}, (400, "invalid_target")),
        ({"resource": [CRM.uri, ""]}, INVALID_REQUEST),
        ({"resource": [f"{CRM}/{number}" for number in range(33)]}, (400, "invalid_target")),
        ({"scope": ""}, INVALID_REQUEST),
        ({"scope": " "}, (400, "invalid_scope")),
        ({"scope": "a  b"}, (400, "invalid_scope")),
        ({"scope": "a a"}, (400, "invalid_scope")),
        ({"scope": " ".join(map(str, range(65)))}, (400, "invalid_scope")),
        ({"mode": "both"}, INVALID_REQUEST),
        ({"depth": "-1"}, INVALID_REQUEST),
        ({"depth": "6"}, INVALID_REQUEST),
        ({"depth": "٣"}, INVALID_REQUEST),
        ({"depth": "1.0"}, INVALID_REQUEST),
        ({"lifetime": "0"}, INVALID_REQUEST),
        ({"lifetime": "3601"}, INVALID_REQUEST),
        ({"lifetime": "9" * 5000}, INVALID_REQUEST),
        ({"once": "1"}, INVALID_REQUEST),
        ({"once": "false"}, INVALID_REQUEST),
    ],
    ids=str,
)
def test_wrong_parameter(parameters: dict[str, Any], expected: tuple[int, str]) -> None:
    """A parameter with another value than it can have is refused, never taken for absent."""
    body = form_of(**LEAST | parameters)
    assert expected == refusal(body)


@pytest.mark.parametrize("name", ["grant_type", "subject_token", "audience", "scope", "mode", "once", "colour"])
def test_parameter_twice(name: str) -> None:
    """Two parameters of one name are refused, also those that nobody knows and those that say the same."""
    body = form_of(**LEAST, scope="a", mode="append", once="true", colour="blue")
    again = next(pair for pair in body.split(b"&") if pair.startswith(name.encode()))
    assert INVALID_REQUEST == refusal(body + b"&" + again)
    assert INVALID_REQUEST == refusal(body + b"&" + again.replace(name.encode()[:1], b"%%%02x" % ord(name[0]), 1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"&",
        b"a",
        b"a=b&",
        b"a=b&&c=d",
        b"=b",
        b"a=%",
        b"a=%4",
        b"a=%zz",
        b"a=%ff",
        b"a=\xc3\xa4",
        b"a=b c",
        b"a=b\n",
    ],
    ids=repr,
)
def test_damaged_form(body: bytes) -> None:
    """What is no form in UTF-8 is refused whole; nothing of it is repaired."""
    assert INVALID_REQUEST == refusal(body)
    assert INVALID_REQUEST == refusal(form_of(**LEAST) + b"&" + body)


def test_too_many_parameters() -> None:
    """A form has at most 64 parameters."""
    body = form_of(**LEAST)
    fits = b"".join(b"&p%d=1" % number for number in range(MAX_PARAMETERS - 4))
    parse_form(body + fits, RETRIEVER)
    assert INVALID_REQUEST == refusal(body + fits + b"&last=1")


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=200) | st.text(alphabet="abc=&%+;0123 é", max_size=80).map(str.encode))
def test_any_body(body: bytes) -> None:
    """Whatever comes is refused or read; nothing else happens."""
    with pytest.raises(ExchangeRefusal):
        parse_form(body, RETRIEVER)


@pytest.mark.parametrize(
    ("xfcc", "what"),
    [
        ([], "none"),
        ([xfcc_of(RETRIEVER), xfcc_of(RETRIEVER)], "two lines"),
        ([xfcc_of(EVIL) + "," + xfcc_of(RETRIEVER)], "two elements"),
        ([xfcc_of(RETRIEVER, by=EVIL)], "written by the sidecar of another"),
        ([xfcc_of(RETRIEVER).partition(";")[2]], "without By"),
        ([f"By={EXCHANGE};URI={RETRIEVER}"], "without a hash"),
        ([f"By={EXCHANGE};Hash={'0' * 64}"], "without a URI"),
        ([xfcc_of(RETRIEVER) + f";URI={EVIL}"], "two URIs"),
        ([f"By={EXCHANGE};Hash={'0' * 64};URI=spiffe://agents.example.com"], "a trust domain"),
        ([xfcc_of(RETRIEVER) + ' "'], "an open quote"),
        (["\xe4"], "no ASCII"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_client_that_is_not_known(bench: Bench, xfcc: list[str], what: str) -> None:
    """The client is who the one XFCC element of our own sidecar names, or nobody."""
    body = form_of(subject_token=world().root(), audience=CRM.uri, client_id=RETRIEVER.uri)
    answer = await bench.post(body, xfcc=xfcc)
    assert (401, "invalid_client") == answer.error, what


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", f"{FORM}; charset=latin-1", f"{FORM},{FORM}"]
)
async def test_content_type(bench: Bench, content_type: str) -> None:
    """Only a form in UTF-8 is read."""
    body = form_of(subject_token=world().root(), audience=CRM.uri)
    assert (415, "invalid_request") == (await bench.post(body, content_type=content_type)).error
    assert 200 == (await bench.post(body, content_type=f"{FORM}; charset=UTF-8")).status


async def test_body_too_large(bench: Bench) -> None:
    """A body is read up to its bound, and refused above it."""
    body = form_of(subject_token=world().root(), audience=CRM.uri) + b"&filler="
    fits = body + b"x" * (MAX_FORM_BYTES - len(body))
    assert [200, 413] == [(await bench.post(each)).status for each in (fits, fits + b"x")]


async def test_parameters_in_the_path(bench: Bench) -> None:
    """A token in a URL would stand in logs: it is refused even beside a good body."""
    body = form_of(subject_token=world().root(), audience=CRM.uri)
    assert INVALID_REQUEST == (await bench.post(body, path="/oauth/token?scope=a")).error


async def test_compressed_body(bench: Bench) -> None:
    """A compressed body is refused: its bound would say nothing."""
    transport = httpx.ASGITransport(app=exchange_app(bench.exchange))
    headers = {"content-type": FORM, "content-encoding": "gzip", "x-forwarded-client-cert": xfcc_of(RETRIEVER)}
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
        response = await client.post("/oauth/token", content=b"x", headers=headers)
    assert 415 == response.status_code


async def test_other_requests(bench: Bench) -> None:
    """There are two addresses, each with one method."""
    transport = httpx.ASGITransport(app=exchange_app(bench.exchange))
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
        answers = [await client.request(*line.split()) for line in ("GET /oauth/token", "POST /jwks.json", "GET /")]
    assert [405, 405, 404] == [answer.status_code for answer in answers]
