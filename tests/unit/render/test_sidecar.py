"""Records of sidecars cannot be made from bad input, and every problem is named at once."""

from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import ConfigurationError
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar

INBOUND: dict[str, Any] = {
    "spiffe_id": "spiffe://agents.example.com/ns/agents/sa/database-agent",
    "listen": "0.0.0.0:8443",
    "app": "127.0.0.1:8080",
    "authz": "unix:/run/ext-authz/check.sock",
    "admin": "unix:/run/envoy/admin.sock",
    "certificates": "unix:/run/spire/agent/agent.sock",
}
OUTBOUND: dict[str, Any] = {
    "spiffe_id": "spiffe://agents.example.com/retrieval-agent",
    "listen": "127.0.0.1:15001",
    "admin": "unix:/run/envoy/admin.sock",
    "certificates": "unix:/run/spire/agent/agent.sock",
}
UPSTREAM = "database-agent=10.0.0.7:8443,spiffe://agents.example.com/database-agent"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("spiffe_id", "spiffe://agents.example.com", "SPIFFE ID `spiffe://agents.example.com`: a workload's SPIFFE ID"),
        ("listen", "database-agent:80", "listener `database-agent:80`: expected an IP address"),
        ("app", "10.0.0.1:80", "app `10.0.0.1:80`: expected a loopback"),
        ("authz", "10.0.0.1:80", "authorization server `10.0.0.1:80`: expected a loopback"),
        ("admin", "0.0.0.0:9901", "admin `0.0.0.0:9901`: expected a loopback"),
        ("certificates", "127.0.0.1:80", "SDS server `127.0.0.1:80`: expected unix:"),
        ("hosts", ["a", "B"], "host `B`: expected a DNS name"),
        ("hosts", ["*"], "host `*`: expected a DNS name"),
        ("timeout", "0ms", "timeout `0ms`: expected at least 1ms"),
        ("federated", ["a/b"], "federated trust domain `a/b`: expected a trust domain"),
        ("federated", ["UP"], "federated trust domain `UP`: not a SPIFFE ID"),
        ("streams", ["/"], "stream `/`: expected the first segments"),
        ("stream_limit", "25m", "stream limit `25m`: expected less than a connection may last: 25m"),
        ("caller_rate", 0, "caller rate `0`: expected a number of calls a second"),
        ("caller_rate", -1, "caller rate `-1`: expected a number of calls a second"),
        ("access_log", "relative.log", "access log `relative.log`: expected an absolute path"),
        ("admin", "unix:/run/ext-authz/check.sock", "is the authorization server's address too"),
    ],
)
def test_inbound_refuses(field: str, value: object, problem: str) -> None:
    """One bad input is one problem, with the user's own value in it."""
    with pytest.raises(ConfigurationError) as refused:
        InboundSidecar.parse(**INBOUND | {field: value})

    [found] = refused.value.problems
    assert problem in found


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("authz", "10.0.0.1:80", "authorization server `10.0.0.1:80`: expected a loopback"),
        ("authz", "unix:/run/envoy/admin.sock", "is the admin's address too"),
        ("timeout", "0ms", "timeout `0ms`: expected at least 1ms"),
        ("listen", "0.0.0.0:15001", "listener `0.0.0.0:15001`: expected a loopback"),
        ("upstreams", ["database-agent"], "upstream `database-agent`: expected NAME=HOST:PORT,SPIFFE_ID"),
        ("upstreams", ["a=b:1,c"], "upstream `a=b:1,c`: not a SPIFFE ID"),
        ("upstreams", ["A=b:1,spiffe://c/d"], "expected a DNS name"),
        ("upstreams", [UPSTREAM, UPSTREAM.replace(".7", ".8")], "there is another one with this name"),
        ("admin", "127.0.0.1:15001", "is the listener's address too"),
    ],
)
def test_outbound_refuses(field: str, value: object, problem: str) -> None:
    """One bad input is one problem."""
    with pytest.raises(ConfigurationError) as refused:
        OutboundSidecar.parse(**OUTBOUND | {field: value})

    [found] = refused.value.problems
    assert problem in found


def test_all_problems_at_once() -> None:
    """Nobody has to try again for each problem."""
    with pytest.raises(ConfigurationError) as refused:
        InboundSidecar.parse(**INBOUND | {"spiffe_id": "x", "hosts": ["A", "B"], "timeout": "0s"})

    assert ["SPIFFE ID", "host", "host", "timeout"] == [text.split(" `")[0] for text in refused.value.problems]


def test_name_of_the_agent() -> None:
    """Without hosts, the last segment of the SPIFFE ID is the agent's name."""
    assert ("database-agent",) == InboundSidecar.parse(**INBOUND).hosts


def test_what_is_said_twice() -> None:
    """A repeated host counts once: Envoy refuses a route table with two."""
    assert ("a", "b") == InboundSidecar.parse(**INBOUND | {"hosts": ["a", "b", "a"]}).hosts


def test_certificate_files() -> None:
    """Paths of certificate files become absolute."""
    files = FileCertificates.parse(Path("svid.pem"), Path("key.pem"), ["agents.example.com=bundle.pem"])

    assert {"agents.example.com": Path.cwd() / "bundle.pem"} == files.trust_bundles
    assert (Path.cwd() / "svid.pem", Path.cwd() / "key.pem") == (files.certificate, files.private_key)


@pytest.mark.parametrize(
    ("key", "bundles", "problem"),
    [
        (None, ["a=b"], "expected a certificate and its private key"),
        (Path("key"), [], "expected at least one trust bundle"),
        (Path("key"), ["a"], "trust bundle `a`: expected DOMAIN=FILE"),
        (Path("key"), ["A=b"], "trust bundle `A=b`: not a SPIFFE ID"),
    ],
)
def test_incomplete_certificate_files(key: Path | None, bundles: list[str], problem: str) -> None:
    """Certificate, key and bundle are needed together."""
    with pytest.raises(ConfigurationError, match=problem):
        FileCertificates.parse(Path("certificate"), key, bundles)
