"""One JWK set from its address: one answer, bounded in time and bytes, or a KeyFetchError that never repeats it.

1. The address asked is the one of the policy, or the one that its issuer's metadata names; redirects are not followed.
2. Only 200 with strict JSON counts; what stands in it is read by the parser of the source.
3. Bytes are counted as they come and as they unfold.
"""

import asyncio
import hashlib
import re
import ssl
import zlib
from collections.abc import Callable
from typing import NamedTuple

import httpx

from ext_authz.tokens.key_address import KeyAddressError, check_named_address
from ext_authz.tokens.keys import JwksError, KeysById, KeySet, KeySource
from ext_authz.tokens.strict_json import StrictJsonError, parse_object

# Bytes of an answer, compressed or not: as many as of a key file.
MAX_ANSWER_BYTES = 1024 * 1024
# Seconds for connecting, for any one read, and for everything together, metadata included.
CONNECT_SECONDS, READ_SECONDS, TOTAL_SECONDS = 3.0, 5.0, 10.0
# Levels of a provider's metadata: aliases of endpoints, tables of formats.
_METADATA_DEPTH = 8
_METADATA_PATH = ".well-known/openid-configuration"

_SILENT = "it does not answer in time"

# RFC 9111 section 5.2.2.1
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})(?=$|[\s,\"])", re.IGNORECASE)


class KeyFetchError(Exception):
    """The address gave no keys; the text says why, without a word of what came."""


class Answer(NamedTuple):
    """A JWK set as its address gave it."""

    keys: KeysById
    digest: str  # SHA-256 of its text, hexadecimal
    max_age_seconds: int | None  # what Cache-Control allows; None: it does not say


class _Document(NamedTuple):
    text: bytes
    max_age_seconds: int | None


async def fetch_keys(source: KeySource, tls: ssl.SSLContext) -> Answer:
    """Fetch the JWK set of a source. Raises KeyFetchError."""
    try:
        async with asyncio.timeout(TOTAL_SECONDS), _client(tls) as client:
            url = await _address_of_keys(client, source.url) if source.is_issuer else source.url
            document = await _get(client, url)
            # In a thread: a megabyte takes longer to read than decisions should wait.
            keys = await asyncio.to_thread(source.parse, document.text)
    except TimeoutError:
        raise KeyFetchError(_SILENT) from None
    except (JwksError, KeyAddressError) as error:
        raise KeyFetchError(str(error)) from None
    return Answer(keys, hashlib.sha256(document.text).hexdigest(), document.max_age_seconds)


async def fetch_once(source: KeySource) -> KeySet:
    """Fetch the keys of a source for a command that ends soon. Raises KeyFetchError."""
    answer = await fetch_keys(source, httpx.create_ssl_context())
    return KeySet(answer.keys, digest=answer.digest)


def _client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    """Return a client for one fetch: no connection and no cookie outlives it.

    Proxies of the environment count for other machines only; http is for this one.
    """
    own = ("http://", "https://localhost", "https://127.0.0.1", "https://[::1]")
    return httpx.AsyncClient(
        verify=tls,
        mounts={pattern: httpx.AsyncHTTPTransport(verify=tls) for pattern in own},
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        headers={"accept": "application/json", "accept-encoding": "gzip", "user-agent": "ext-authz"},
        follow_redirects=False,
    )


async def _address_of_keys(client: httpx.AsyncClient, issuer: str) -> str:
    """Ask an issuer's metadata for the address of its keys (OpenID Connect Discovery 1.0 section 4)."""
    document = await _get(client, f"{issuer.removesuffix('/')}/{_METADATA_PATH}")
    try:
        metadata = await asyncio.to_thread(parse_object, document.text, _METADATA_DEPTH)
    except StrictJsonError as error:
        raise KeyFetchError(f"its metadata is no strict JSON: {error}") from None
    if metadata.get("issuer") != issuer:  # section 4.3: exactly the same
        raise KeyFetchError("its metadata is of another issuer")
    url = metadata.get("jwks_uri")
    check_named_address(url, issuer)
    return str(url)


async def _get(client: httpx.AsyncClient, url: str) -> _Document:
    try:
        async with client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise KeyFetchError(f"it answers {response.status_code}")
            text = await _read(response)
    except httpx.TimeoutException:
        raise KeyFetchError(_SILENT) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise KeyFetchError(_cause(error)) from None
    return _Document(text, _max_age(response.headers))


async def _read(response: httpx.Response) -> bytes:
    """Read the body up to its bound; of a compressed one no more is unfolded than that."""
    unfold = _unfolding(response.headers.get("content-encoding", "identity"))
    received, text = 0, bytearray()
    async for chunk in response.aiter_raw():
        received += len(chunk)
        try:
            text += unfold(chunk, MAX_ANSWER_BYTES + 1 - len(text))
        except zlib.error:
            raise KeyFetchError("its answer is damaged") from None
        if max(received, len(text)) > MAX_ANSWER_BYTES:
            raise KeyFetchError(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(text)


def _unfolding(encoding: str) -> Callable[[bytes, int], bytes]:
    """Return what turns bytes of the wire into at most so many bytes of the text."""
    if encoding.lower() == "gzip":
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress
    if encoding.lower() == "identity":
        return lambda chunk, _: chunk
    raise KeyFetchError("its answer is encoded in a way that was not asked for")


def _max_age(headers: httpx.Headers) -> int | None:
    found = _MAX_AGE.search(headers.get("cache-control", ""))
    return int(found[1]) if found else None


def _cause(error: BaseException) -> str:
    """Say what kept a request from its answer, by the kinds of the exceptions alone."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate does not hold"
        cause = cause.__cause__ or cause.__context__
    return f"no answer ({type(error).__name__})"
