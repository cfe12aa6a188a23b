"""The HTTP side of the exchange: a form in, a token or an error out, and the keys that it signs with.

1. The client is the one SPIFFE ID of the XFCC header that our own sidecar wrote, never anything in the body.
2. Every answer about tokens says `cache-control: no-store`; nothing that fails inside reaches a client.
"""

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_authz.attributes.request import CONTENT_ENCODING, CONTENT_TYPE, XFCC
from ext_authz.errors import Refusal
from ext_authz.exchange.admission import Client
from ext_authz.exchange.form import MAX_FORM_BYTES
from ext_authz.exchange.issuing import Issued
from ext_authz.exchange.keys import MAX_AGE_SECONDS
from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, invalid_request
from ext_authz.exchange.service import Exchange
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.identity.xfcc import XfccMode, immediate_peer
from ext_authz.tokens.exchange_names import DELEGATION_CHAIN_TYPE, KEYS_PATH, NOT_A_BEARER_TOKEN, TOKEN_PATH
from ext_authz.web import BodyError, header_lines, read_body

_FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "application/x-www-form-urlencoded;charset=utf-8"})
# RFC 6749 section 5.1
_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def exchange_app(exchange: Exchange) -> Starlette:
    """Return the application of an exchange."""

    async def token(request: Request) -> Response:
        try:
            issued = await exchange.exchange(lambda: _client(request, exchange.own), lambda: _form(request))
        except ExchangeRefusal as refusal:
            return _refused(refusal)
        return _issued(issued, exchange.now())

    async def keys(_: Request) -> Response:
        return JSONResponse(exchange.key_set(), headers={"cache-control": f"public, max-age={MAX_AGE_SECONDS}"})

    return Starlette(routes=[Route(TOKEN_PATH, token, methods=["POST"]), Route(KEYS_PATH, keys, methods=["GET"])])


def _client(request: Request, own: SpiffeId) -> Client:
    """Return whose certificate the sidecar saw. Raises ExchangeRefusal."""
    lines = header_lines(request, XFCC)
    if len(lines) != 1:
        raise ExchangeRefusal(ErrorCode.INVALID_CLIENT, "expected one XFCC header, written by the exchange's sidecar")
    try:
        peer = immediate_peer(lines[0], XfccMode.SANITIZE_SET)
    except Refusal as refusal:
        raise ExchangeRefusal(ErrorCode.INVALID_CLIENT, refusal.detail) from None
    if peer.by != own:
        raise ExchangeRefusal(ErrorCode.INVALID_CLIENT, "the XFCC header was written by another workload's sidecar")
    return Client(peer.uri, bytes.fromhex(peer.certificate_sha256))


async def _form(request: Request) -> bytes:
    """Return the body of a form. Raises ExchangeRefusal."""
    types = header_lines(request, CONTENT_TYPE)
    if len(types) != 1 or types[0].replace(" ", "").lower() not in _FORM_TYPES:
        raise ExchangeRefusal(ErrorCode.INVALID_REQUEST, "expected application/x-www-form-urlencoded", 415)
    if header_lines(request, CONTENT_ENCODING):
        raise ExchangeRefusal(ErrorCode.INVALID_REQUEST, "the body is compressed", 415)
    if request.url.query:
        raise invalid_request("parameters stand in the body, not in the path")
    try:
        return await read_body(request, MAX_FORM_BYTES)
    except ClientDisconnect:
        raise invalid_request("the body did not arrive") from None
    except BodyError as error:
        raise ExchangeRefusal(ErrorCode.INVALID_REQUEST, str(error), 413) from None


def _issued(issued: Issued, now: float) -> Response:
    """Answer as RFC 8693 section 2.2.1 says."""
    granted = issued.granted
    answer = {
        "access_token": issued.chain,
        "issued_token_type": DELEGATION_CHAIN_TYPE,
        "token_type": NOT_A_BEARER_TOKEN,
        "expires_in": max(0, int(granted.expires_at - now)),
        "scope": " ".join(sorted(granted.scopes)),
    }
    return JSONResponse(answer, headers=_NO_STORE)


def _refused(refusal: ExchangeRefusal) -> Response:
    """Answer as RFC 6749 section 5.2 says."""
    answer = {"error": refusal.code.value, "error_description": refusal.detail}
    return JSONResponse(answer, status_code=refusal.http_status, headers=_NO_STORE)
