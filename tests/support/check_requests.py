"""CheckRequests as Envoy 1.40 sends them: every test changes the one thing that it is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ext_authz.pb.external_auth_pb2 import CheckRequest

TRUST_DOMAIN = "agents.example.com"
CERTIFICATE_SHA256 = "ab" * 32
RECEIVED_NS = 1_795_299_009_884_324_000


def agent(name: str) -> str:
    """Return the SPIFFE ID of an agent of the default policy."""
    return f"spiffe://{TRUST_DOMAIN}/{name}"


@dataclass(frozen=True)
class Question:
    """A CheckRequest in the making. The default one is allowed by policies/default."""

    caller: str = field(default_factory=lambda: agent("planner-agent"))
    target: str = field(default_factory=lambda: agent("retrieval-agent"))
    method: str = "POST"
    path: str = "/v1/search?q=quarterly"
    body: bytes = b'{"query": "quarterly report"}'
    size: int | None = None  # None: the length of the body
    partial: str | None = "false"  # Envoy's marker; None: no body was buffered
    certificate: str = ""
    xfcc: str | None = "default"  # "default": what Envoy writes under SANITIZE_SET {uri}; None: no header
    headers: Sequence[tuple[str, str | bytes]] = ()  # added behind the usual ones
    without: Sequence[str] = ()  # usual headers that are left out
    extensions: Mapping[str, str] | None = None  # None: what the rendered configuration sets
    raw: bool = True  # encode_raw_headers and pack_as_bytes

    def but(self, **changes: Any) -> Self:
        """Return this question with some parts changed."""
        return replace(self, **changes)

    def lines(self) -> list[tuple[str, str | bytes]]:
        """Return the header lines in order."""
        xfcc = self.xfcc
        if xfcc == "default":
            xfcc = f"By={self.target};Hash={CERTIFICATE_SHA256};URI={self.caller}"
        usual: list[tuple[str, str | bytes]] = [
            (":authority", "retrieval-agent.agents.example.com"),
            (":path", self.path),
            (":method", self.method),
            (":scheme", "https"),
            ("user-agent", "httpx/0.28"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-external-address", "127.0.0.1"),
            ("x-request-id", "fb9d0d9b-aa7c-4c38-a5ca-87dfa3d8459d"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        ]
        if self.body:
            usual += [("content-type", "application/json"), ("content-length", str(len(self.body)))]
        if xfcc is not None:
            usual.append(("x-forwarded-client-cert", xfcc))
        if self.partial is not None:
            usual.append(("x-envoy-auth-partial-body", self.partial))
        return [line for line in usual if line[0] not in self.without] + list(self.headers)

    def message(self) -> CheckRequest:
        """Return the protobuf message."""
        request = CheckRequest()
        attributes = request.attributes
        attributes.source.principal = self.caller
        attributes.source.certificate = self.certificate
        attributes.destination.principal = self.target
        attributes.request.time.FromNanoseconds(RECEIVED_NS)
        http = attributes.request.http
        http.id = "15676519321004913549"
        http.method = self.method
        http.path = self.path
        http.host = "retrieval-agent.agents.example.com"
        http.scheme = "https"
        http.protocol = "HTTP/2"
        http.size = len(self.body) if self.size is None else self.size
        if self.raw:
            http.raw_body = self.body
            for key, value in self.lines():
                http.header_map.headers.add(key=key, raw_value=value if isinstance(value, bytes) else value.encode())
        else:
            http.body = self.body.decode()
            for key, value in self.lines():
                text = value if isinstance(value, str) else value.decode()
                http.headers[key] = f"{http.headers[key]},{text}" if key in http.headers else text
        extensions = {"direction": "inbound", "workload": self.target} if self.extensions is None else self.extensions
        for key, value in extensions.items():
            attributes.context_extensions[key] = value
        return request

    def serialized(self) -> bytes:
        """Return the bytes that gRPC carries."""
        return self.message().SerializeToString()


QUESTION = Question()
