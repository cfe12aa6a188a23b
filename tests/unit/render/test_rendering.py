"""What stands in a rendered configuration."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

from ext_authz.errors import Reason
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.configuration import look, messages, type_name
from ext_authz.render.document import render, to_bootstrap, to_mapping
from ext_authz.render.explicit import EXPLICIT
from ext_authz.render.lint import lint
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Sidecar

DATABASE = "spiffe://agents.example.com/database-agent"
RETRIEVAL = "spiffe://agents.example.com/retrieval-agent"
FILES = FileCertificates(Path("/run/svid.pem"), Path("/run/key.pem"), {"agents.example.com": Path("/run/bundle.pem")})


def inbound(**changes: Any) -> InboundSidecar:
    fields: dict[str, Any] = {
        "spiffe_id": DATABASE,
        "listen": "0.0.0.0:8443",
        "app": "127.0.0.1:8080",
        "authz": "unix:/run/ext-authz/check.sock",
        "admin": "unix:/run/envoy/admin.sock",
        "certificates": "unix:/run/spire/agent/agent.sock",
        "streams": ["/v1/stream"],
    }
    return InboundSidecar.parse(**fields | changes)


def outbound(**changes: Any) -> OutboundSidecar:
    fields: dict[str, Any] = {
        "spiffe_id": RETRIEVAL,
        "listen": "127.0.0.1:15001",
        "admin": "unix:/run/envoy/admin.sock",
        "certificates": "unix:/run/spire/agent/agent.sock",
        "upstreams": [
            f"database-agent=10.0.0.7:8443,{DATABASE}",
            "search-agent=search.partner.example.net:443,spiffe://partner.example.net/search-agent",
        ],
        "streams": ["/v1/stream"],
    }
    return OutboundSidecar.parse(**fields | changes)


SIDECARS: dict[str, Sidecar] = {
    "inbound": inbound(),
    "inbound with everything": inbound(
        app_http2=True, federated=["partner.example.net"], timeout="250ms", hosts=["a", "b"], authz="127.0.0.1:9191"
    ),
    "inbound with files": inbound(certificates=FILES, streams=[], access_log="/var/log/a log.json"),
    "outbound": outbound(),
    "outbound with files": outbound(certificates=FILES, streams=[]),
    "outbound to nobody": outbound(upstreams=[]),
    "outbound that asks": outbound(authz="unix:/run/ext-authz/own.sock", timeout="250ms"),
}


def parsed(sidecar: Sidecar) -> dict[str, Any]:
    """Read the rendered file."""
    configuration = yaml.safe_load(render(sidecar))
    assert isinstance(configuration, dict)
    return configuration


@cache
def all_messages() -> list[dict[str, Any]]:
    """Return every message of every rendering."""
    return [message for sidecar in SIDECARS.values() for _, message in messages(parsed(sidecar))]


def only(node: Any, name: str) -> dict[str, Any]:
    """Return the only message of a type."""
    [message] = [message for _, message in messages(node) if type_name(message) == name]
    return message


def cluster(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a cluster by its name."""
    [found] = [found for found in configuration["static_resources"]["clusters"] if found["name"] == name]
    assert isinstance(found, dict)
    return found


def values(message: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what stands at the wanted paths."""
    return {path: look(message, path) for path in wanted}


@pytest.mark.parametrize("sidecar", SIDECARS.values(), ids=SIDECARS)
def test_file_means_what_was_built(sidecar: Sidecar) -> None:
    """The file, with the defaults that are said in it, is the configuration that was built, and no default is changed."""
    built = to_bootstrap(sidecar)
    for cluster_ in built.static_resources.clusters if built.static_resources else ():
        if cluster_.outlier_detection:
            cluster_.outlier_detection.consecutive_5xx = None  # the library writes this field, and cannot read it

    assert built == Bootstrap.from_dict(parsed(sidecar), ignore_unknown_fields=True)


@pytest.mark.parametrize("sidecar", SIDECARS.values(), ids=SIDECARS)
def test_rendering_is_repeatable(sidecar: Sidecar) -> None:
    """Equal sidecars give equal bytes."""
    assert render(sidecar) == render(sidecar)


@pytest.mark.parametrize("sidecar", SIDECARS.values(), ids=SIDECARS)
def test_no_weakness(sidecar: Sidecar) -> None:
    """Our own lint finds nothing in our own configurations."""
    assert [] == lint(parsed(sidecar))


@pytest.mark.parametrize("name", EXPLICIT)
def test_every_default_of_the_table_is_said(name: str) -> None:
    """Each path of the table stands in some rendering: the table has no line without effect."""
    rendered = [message for message in all_messages() if str(message.get("@type")).endswith(f"/{name}")]

    for path in EXPLICIT[name]:
        assert any(look(message, path) is not None for message in rendered), path


def test_header_names_the_command() -> None:
    """The file begins with what it is and how it is made, quoted for a shell."""
    lines = render(SIDECARS["inbound with files"]).splitlines()

    assert f"# Envoy, inbound sidecar of {DATABASE}. Render it anew instead of editing it:" == lines[0]
    assert "#   ext-authz envoy render --role inbound \\" == lines[2]
    assert "#     --access-log '/var/log/a log.json'" in lines


def test_filter_order() -> None:
    """Cheap refusals come first, whole bodies before the check, RBAC behind it."""
    manager = only(parsed(inbound()), "HttpConnectionManager")

    wanted = ["LocalRateLimit", "Buffer", "ExtAuthz", "RBAC", "Router"]
    assert wanted == [type_name(item["typed_config"]) for item in manager["http_filters"]]


def test_ext_authz_settings() -> None:
    """Every setting that decides whether the check holds is written out, defaults too."""
    wanted = {
        "transport_api_version": "V3",
        "grpc_service.timeout": "0.050s",
        "grpc_service.envoy_grpc.cluster_name": "ext_authz",
        "failure_mode_allow": False,
        "shadow_mode": False,
        "clear_route_cache": False,
        "status_on_error.code": "ServiceUnavailable",
        "deny_at_disable.default_value": True,
        "validate_mutations": True,
        "include_peer_certificate": True,
        "include_tls_session": True,
        "encode_raw_headers": True,
        "emit_filter_state_stats": True,
        "enforce_response_header_limits": True,
        "max_denied_response_body_bytes": 4096,
        "disallowed_headers.patterns": [{"exact": "cookie", "ignore_case": True}],
        "decoder_header_mutation_rules.disallow_all": True,
        "decoder_header_mutation_rules.disallow_is_error": True,
        "decoder_header_mutation_rules.allow_expression.regex": "x-authz-[a-z0-9-]+",
        "with_request_body": {"max_request_bytes": 65536, "allow_partial_message": False, "pack_as_bytes": True},
        "filter_enabled": None,
        "allowed_headers": None,
    }

    assert wanted == values(only(parsed(inbound()), "ExtAuthz"), wanted)


def test_timeout_is_a_parameter() -> None:
    """Slow machines and strict audit need more than 50 ms."""
    ext_authz = only(parsed(SIDECARS["inbound with everything"]), "ExtAuthz")

    assert "0.250s" == look(ext_authz, "grpc_service.timeout")


def test_outbound_sidecar_asks_about_every_call() -> None:
    """The server is told who calls out and where the route goes, no body, and of calls that would go nowhere too."""
    configuration = parsed(SIDECARS["outbound that asks"])
    manager = only(configuration, "HttpConnectionManager")
    ext_authz = only(configuration, "ExtAuthz")
    hosts = {host["name"]: host["typed_per_filter_config"] for host in look(manager, "route_config.virtual_hosts")}
    extensions = {name: look(only(host, "ExtAuthzPerRoute"), "check_settings") for name, host in hosts.items()}
    workload = {"direction": "egress", "workload": RETRIEVAL}

    assert ["ExtAuthz", "Router"] == [type_name(item["typed_config"]) for item in manager["http_filters"]]
    assert (None, "0.250s") == (look(ext_authz, "with_request_body"), look(ext_authz, "grpc_service.timeout"))
    assert {
        "database-agent": {"context_extensions": workload | {"port": "8443"}},
        "search-agent": {"context_extensions": workload | {"port": "443"}},
        "everything_else": {"context_extensions": workload},
    } == extensions
    assert "/run/ext-authz/own.sock" in str(cluster(configuration, "ext_authz"))
    assert "decision" in look(only(configuration, "FileAccessLog"), "log_format.json_format")


def test_outbound_sidecar_that_asks_nobody() -> None:
    """Without an authorization server the list of upstreams decides, and nothing of a check is rendered."""
    text = render(SIDECARS["outbound"])

    assert "ExtAuthz" not in text
    assert "decision" not in text


def test_connection_manager_settings() -> None:
    """What can be read in two ways is refused, and everything has a limit."""
    wanted = {
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "use_remote_address": True,
        "xff_num_trusted_hops": 0,
        "internal_address_config.unix_sockets": False,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": True,
        "max_request_headers_kb": 32,
        "request_timeout": "30s",
        "request_headers_timeout": "5s",
        "stream_idle_timeout": "60s",
        "common_http_protocol_options.idle_timeout": "300s",
        "common_http_protocol_options.max_connection_duration": "1500s",
        "common_http_protocol_options.max_stream_duration": "60s",
        "common_http_protocol_options.max_headers_count": 64,
        "common_http_protocol_options.headers_with_underscores_action": "REJECT_REQUEST",
        "http2_protocol_options.max_concurrent_streams": 100,
        "http2_protocol_options.initial_stream_window_size": 65536,
    }

    assert wanted == values(only(parsed(inbound(streams=[])), "HttpConnectionManager"), wanted)


def test_access_log_names_the_decision() -> None:
    """A line of the access log leads to the line of the audit log, and has no query string."""
    line = look(only(parsed(inbound()), "FileAccessLog"), "log_format.json_format")

    assert "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%" == line["decision"]
    assert "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%" == line["reason"]
    assert "%PATH(NQ)%" == line["path"]


def test_inbound_tls() -> None:
    """TLS 1.3 with the hybrid key exchange, a client certificate of our trust domain by SDS, and no resumption."""
    context = only(parsed(inbound(federated=["partner.example.net"])), "DownstreamTlsContext")
    common = context["common_tls_context"]

    parameters = {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
        "ecdh_curves": ["X25519MLKEM768", "X25519"],
        "signature_algorithms": ["ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "rsa_pss_rsae_sha256"],
    }
    assert parameters == common["tls_params"]
    assert context["require_client_certificate"]
    assert context["disable_stateless_session_resumption"]
    assert context["disable_stateful_session_resumption"]
    [own] = common["tls_certificate_sds_secret_configs"]
    validation = common["combined_validation_context"]
    trusted = validation["validation_context_sds_secret_config"]
    assert (DATABASE, "ALL") == (own["name"], trusted["name"])
    assert ["0s", "0s"] == [look(secret, "sds_config.initial_fetch_timeout") for secret in (own, trusted)]
    names = validation["default_validation_context"]["match_typed_subject_alt_names"]
    prefixes = ["spiffe://agents.example.com/", "spiffe://partner.example.net/"]
    assert [{"san_type": "URI", "matcher": {"prefix": prefix}} for prefix in prefixes] == names


def test_certificate_files() -> None:
    """With files there is no SDS at all, and bundles are still used by trust domain."""
    configuration = parsed(SIDECARS["inbound with files"])
    common = only(configuration, "DownstreamTlsContext")["common_tls_context"]

    assert ["app", "ext_authz"] == [found["name"] for found in configuration["static_resources"]["clusters"]]
    assert "/run/svid.pem" == look(common["tls_certificates"][0], "certificate_chain.filename")
    [bundle] = only(common, "SPIFFECertValidatorConfig")["trust_domains"]
    assert {"name": "agents.example.com", "trust_bundle": {"filename": "/run/bundle.pem"}} == bundle


def test_only_the_socket_differs() -> None:
    """A SPIRE agent and the local identity provider get the same configuration but for one path."""
    spire = render(inbound(certificates="unix:/run/spire/agent/agent.sock"))
    local = render(inbound(certificates="unix:/tmp/local.sock"))

    assert local == spire.replace("/run/spire/agent/agent.sock", "/tmp/local.sock")  # noqa: S108


def test_context_extensions_on_every_route() -> None:
    """The authorization server is told on every route where the request arrives."""
    per_route = [message for _, message in messages(parsed(inbound())) if type_name(message) == "ExtAuthzPerRoute"]

    assert 2 == len(per_route)
    for message in per_route:
        assert {"direction": "inbound", "workload": DATABASE} == look(message, "check_settings.context_extensions")


def test_stream_route() -> None:
    """A stream is not buffered, may last, and ends; other routes keep their limits though Envoy waits longer for bodies."""
    manager = only(parsed(inbound(stream_limit="5m")), "HttpConnectionManager")
    stream, call = manager["route_config"]["virtual_hosts"][0]["routes"]

    assert {"path_separated_prefix": "/v1/stream"} == stream["match"]
    assert ("0s", "60s", "300s") == (
        stream["route"]["timeout"],
        stream["route"]["idle_timeout"],
        look(stream, "route.max_stream_duration.max_stream_duration"),
    )
    assert only(stream, "BufferPerRoute")["disabled"]
    assert look(only(stream, "ExtAuthzPerRoute"), "check_settings.disable_request_body_buffering")
    assert ({"prefix": "/"}, "30s") == (call["match"], call["route"]["timeout"])
    assert "300s" == manager["request_timeout"]
    assert "60s" == look(manager, "common_http_protocol_options.max_stream_duration")


def test_rbac() -> None:
    """Behind the check stands: own and federated trust domains, and neither CONNECT nor TRACE."""
    rules = only(parsed(inbound(federated=["partner.example.net"])), "RBAC")["rules"]
    policy = rules["policies"]["workloads"]

    assert "ALLOW" == rules["action"]
    methods = look(policy["permissions"][0], "not_rule.or_rules.rules")
    assert ["CONNECT", "TRACE"] == [look(rule, "header.string_match.exact") for rule in methods]
    principals = [look(principal, "authenticated.principal_name.prefix") for principal in policy["principals"]]
    assert ["spiffe://agents.example.com/", "spiffe://partner.example.net/"] == principals


def test_rate_limit_by_caller() -> None:
    """Each caller's certificate has a bucket of its own."""
    limit = only(parsed(inbound(caller_rate=7)), "LocalRateLimit")

    assert "connection.uri_san_peer_certificate" == only(limit["rate_limits"], "Descriptor")["text"]
    [descriptor] = limit["descriptors"]
    assert ([{"key": "caller"}], 7) == (descriptor["entries"], descriptor["token_bucket"]["max_tokens"])
    assert 35 == limit["token_bucket"]["max_tokens"]
    assert {"numerator": 100, "denominator": "HUNDRED"} == look(limit, "filter_enforced.default_value")


def test_authz_cluster() -> None:
    """A check is sent once, over HTTP/2 that notices a dead connection."""
    found = cluster(parsed(inbound()), "ext_authz")

    assert 0 == look(found["circuit_breakers"]["thresholds"][0], "max_retries")
    options = only(found, "HttpProtocolOptions")
    keepalive = look(options, "explicit_http_config.http2_protocol_options.connection_keepalive")
    assert {"interval": "10s", "timeout": "2s"} == keepalive


@pytest.mark.parametrize(("app_http2", "count"), [(False, 0), (True, 1)])
def test_app_protocol(count: int, *, app_http2: bool) -> None:
    """An agent that speaks gRPC is called over HTTP/2."""
    found = cluster(parsed(inbound(app_http2=app_http2)), "app")

    assert count == len([message for _, message in messages(found) if type_name(message) == "HttpProtocolOptions"])


@pytest.mark.parametrize("sidecar", SIDECARS.values(), ids=SIDECARS)
def test_admin_interface(sidecar: Sidecar) -> None:
    """It is a private socket on which nothing can be changed."""
    admin = parsed(sidecar)["admin"]

    assert {"path": "/run/envoy/admin.sock", "mode": 0o600} == look(admin, "address.pipe")
    allowed = {path for matcher in admin["allow_paths"] for path in matcher.values()}
    assert {"/ready", "/stats", "/config_dump", "/certs", "/clusters", "/listeners"} == allowed


@pytest.mark.parametrize("sidecar", SIDECARS.values(), ids=SIDECARS)
def test_overload_manager(sidecar: Sidecar) -> None:
    """Under memory pressure the least is given up first."""
    manager = parsed(sidecar)["overload_manager"]

    shares = [action["triggers"][0]["threshold"]["value"] for action in manager["actions"]]
    assert [0.90, 0.92, 0.95, 0.98] == shares
    assert 2 == len(manager["resource_monitors"])


def test_outbound_allow_list() -> None:
    """Each upstream is a virtual host of its own; anything else is refused as the authorization server refuses."""
    manager = only(parsed(outbound()), "HttpConnectionManager")
    *allowed, everything_else = manager["route_config"]["virtual_hosts"]

    assert [["database-agent"], ["search-agent"]] == [host["domains"] for host in allowed]
    retries = {route["route"]["retry_policy"]["retry_on"] for host in allowed for route in host["routes"]}
    assert {"connect-failure,refused-stream"} == retries
    [refusal] = everything_else["routes"]
    assert ["*"] == everything_else["domains"]
    assert 403 == refusal["direct_response"]["status"]
    body = yaml.safe_load(look(refusal, "direct_response.body.inline_string"))
    assert ("about:blank", 403, Reason.EGRESS_DENIED) == (body["type"], body["status"], body["reason"])
    assert "application/problem+json" == look(refusal["response_headers_to_add"][0], "header.value")


def test_outbound_removes_what_an_agent_forges() -> None:
    """XFCC and x-authz-* of the agent do not leave the pod."""
    manager = only(parsed(outbound()), "HttpConnectionManager")

    assert "SANITIZE" == manager["forward_client_cert_details"]
    removed = only(manager["early_header_mutation_extensions"], "HeaderMutation")["mutations"]
    wanted = [
        {"remove_on_match": {"key_matcher": {"prefix": "x-authz-"}}},
        {"remove": "x-envoy-auth-partial-body"},
        {"remove": "x-forwarded-client-cert"},
    ]
    assert wanted == removed


def test_upstream_cluster() -> None:
    """Exactly the named workload may answer, nothing is resumed, and no connection outlives half an SVID."""
    found = cluster(parsed(outbound()), "database-agent")
    context = only(found, "UpstreamTlsContext")

    assert ("database-agent", 0) == (context["sni"], context["max_session_keys"])
    validation = look(context, "common_tls_context.combined_validation_context.default_validation_context")
    assert [{"san_type": "URI", "matcher": {"exact": DATABASE}}] == validation["match_typed_subject_alt_names"]
    options = only(found, "HttpProtocolOptions")
    assert "1500s" == look(options, "common_http_protocol_options.max_connection_duration")
    assert {"max_concurrent_streams": 100} == look(options, "explicit_http_config.http2_protocol_options")
    assert 5 == look(found, "outlier_detection.consecutive_local_origin_failure")
    assert 0 == look(found, "outlier_detection.consecutive_5xx")


def test_upstream_by_name() -> None:
    """An address with a DNS name is looked up, one with an IP address is not."""
    configuration = parsed(outbound())

    assert "STATIC" == cluster(configuration, "database-agent")["type"]
    assert "STRICT_DNS" == cluster(configuration, "search-agent")["type"]


def test_mapping_has_no_unknown_field() -> None:
    """Field names are those of the .proto files: betterproto's own snake case breaks names with digits."""
    text = str(to_mapping(to_bootstrap(outbound())))

    assert "consecutive_5xx" in text
    assert "consecutive_5_xx" not in text
