"""The control store over HTTP: what `ext-authz token revoke` and `ext-authz quarantine` do, for programs.

1. Whoever can open the socket may change everything: its permissions are the authentication.
2. A change that was answered is on the disk and in force in this server; other servers follow within a second.
3. What is wrong is answered as a problem document (RFC 9457) that names every problem.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_authz.errors import ConfigurationError
from ext_authz.faults import place_of
from ext_authz.stores.control import ControlStore
from ext_authz.stores.database import StoreError
from ext_authz.stores.entry import Entry, EntryError, Kind
from ext_authz.stores.members import from_members, to_members
from ext_authz.tokens.strict_json import StrictJsonError, parse_object
from ext_authz.web import BodyError, header_lines, read_body

# Bytes of a body: an entry with the longest SPIFFE ID and reason, several times over.
MAX_BODY_BYTES = 16 * 1024

# Looks at the store at once and puts into force what it says; False when it cannot be read.
Look = Callable[[], Awaitable[bool]]

_LOG = logging.getLogger(__name__)


def controls_app(store: ControlStore, look: Look, clock: Callable[[], float] = time.time) -> Starlette:
    """Return the application of a store that this server follows."""
    controls = _Controls(store, look, clock)
    return Starlette(
        routes=[
            Route("/v1/controls", controls.listing, methods=["GET"]),
            Route("/v1/controls", controls.addition, methods=["POST"]),
            Route("/v1/controls/{kind}/{value:path}", controls.removal, methods=["DELETE"]),
        ],
        exception_handlers={HTTPException: _not_served, Exception: _failed},
    )


class _Refused(Exception):
    """The answer is a problem."""

    def __init__(self, status: HTTPStatus, *problems: str) -> None:
        super().__init__(status)
        self.status = status
        self.problems = problems


class _Controls:
    def __init__(self, store: ControlStore, look: Look, clock: Callable[[], float]) -> None:
        self._store = store
        self._look = look
        self._clock = clock

    async def listing(self, _: Request) -> Response:
        """Answer with what is in force, and what was lifted lately."""
        return await _answered(self._list())

    async def addition(self, request: Request) -> Response:
        """Put one entry into force and answer with what is in force now."""
        return await _answered(self._add(request))

    async def removal(self, request: Request) -> Response:
        """Take one entry out of force."""
        return await _answered(self._remove(request.path_params["kind"], request.path_params["value"]))

    async def _list(self) -> Response:
        now = self._clock()
        entries = await asyncio.to_thread(self._store.entries)
        shown = [entry for entry in entries if entry.lifted_at is not None or entry.is_in_force(now)]
        return JSONResponse({"entries": [to_members(entry) for entry in shown]})

    async def _add(self, request: Request) -> Response:
        members = await _members(request)
        try:
            entry = from_members(members, self._clock())
        except ConfigurationError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, *error.problems) from None
        (in_force,) = await asyncio.to_thread(self._store.add, entry)
        _LOG.info("put into force: %s %s", in_force.kind, in_force.value)
        await self._confirmed()
        return JSONResponse(to_members(in_force), status_code=HTTPStatus.CREATED)

    async def _remove(self, kind: str, value: str) -> Response:
        now = self._clock()
        try:
            entry = Entry.new(Kind(kind), value, now)
        except EntryError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{kind}: {error}") from None
        except ValueError:
            raise _Refused(HTTPStatus.NOT_FOUND, f"kind: expected {', '.join(Kind)}") from None
        if not await asyncio.to_thread(self._store.lift, entry.kind, entry.value, now):
            raise _Refused(HTTPStatus.NOT_FOUND, "it is not in force")
        _LOG.info("lifted: %s %s", entry.kind, entry.value)
        await self._confirmed()
        return JSONResponse({"kind": entry.kind, "value": entry.value, "lifted": True})

    async def _confirmed(self) -> None:
        """Return once this server acts by the change."""
        if not await self._look():
            raise _Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "written, and not in force here yet: the store cannot be read"
            )


async def _answered(answering: Awaitable[Response]) -> Response:
    try:
        return await answering
    except _Refused as refused:
        return _problem(refused.status, *refused.problems)
    except StoreError as error:
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, *error.problems)


async def _members(request: Request) -> Any:
    if [line.partition(";")[0].strip().lower() for line in header_lines(request, "content-type")] != [
        "application/json"
    ]:
        raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected content-type: application/json")
    try:
        return parse_object(await read_body(request, MAX_BODY_BYTES))
    except BodyError as error:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from None
    except (StrictJsonError, ClientDisconnect) as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"the body is no entry: {error}") from None


def _problem(status: HTTPStatus, *problems: str) -> Response:
    document = {"title": status.phrase, "status": status.value, "detail": "; ".join(problems), "problems": problems}
    return JSONResponse(document, status_code=status, media_type="application/problem+json")


async def _not_served(_: Request, error: Exception) -> Response:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    return _problem(status, "expected GET or POST /v1/controls, or DELETE /v1/controls/KIND/VALUE")


async def _failed(_: Request, error: Exception) -> Response:
    _LOG.error("an admin request failed inside: %s", place_of(error))
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; look with GET what is in force")
