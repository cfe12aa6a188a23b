"""Each rule finds its weakness in a configuration that has no other."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ext_authz.render.configuration import messages, type_name
from ext_authz.render.document import render
from ext_authz.render.lint import has_http, lint
from ext_authz.render.rules import RULES
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar

SHARED: dict[str, Any] = {
    "spiffe_id": "spiffe://agents.example.com/database-agent",
    "admin": "unix:/run/envoy/admin.sock",
    "certificates": "unix:/run/spire/agent/agent.sock",
}
INBOUND = yaml.safe_load(
    render(
        InboundSidecar.parse(
            **SHARED, listen="0.0.0.0:8443", app="127.0.0.1:8080", authz="unix:/run/authz.sock", streams=["/v1/stream"]
        )
    )
)
OUTBOUND = yaml.safe_load(
    render(OutboundSidecar.parse(**SHARED, listen="127.0.0.1:1", upstreams=["a=10.0.0.1:8443,spiffe://td/a"]))
)

Edit = Callable[[dict[str, Any]], object]


def put(path: str, *, to: object) -> Edit:
    """Set a field at a dotted path."""

    def edit(message: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            message = message[name]
        message[last] = to

    return edit


def drop(path: str) -> Edit:
    """Remove a field at a dotted path."""

    def edit(message: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            message = message[name]
        del message[last]

    return edit


def drop_filter(name: str) -> Edit:
    """Remove an HTTP filter."""

    def edit(manager: dict[str, Any]) -> None:
        manager["http_filters"] = [item for item in manager["http_filters"] if type_name(item["typed_config"]) != name]

    return edit


def in_filter(name: str, field: str) -> Edit:
    """Set a flag beside an HTTP filter's configuration."""

    def edit(manager: dict[str, Any]) -> None:
        [item] = [item for item in manager["http_filters"] if type_name(item["typed_config"]) == name]
        item[field] = True

    return edit


FILTER_OFF = {
    "envoy.filters.http.ext_authz": {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
        "config": {},
        "disabled": True,
    }
}
SDS_TIMEOUT = "common_tls_context.combined_validation_context.validation_context_sds_secret_config.sds_config.initial_fetch_timeout"
NAMES = "common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names"
TLS_VERSION = "common_tls_context.tls_params.tls_minimum_protocol_version"

# rule, configuration, type of the message that is edited, edit
WEAKENINGS: list[tuple[str, dict[str, Any], str, Edit]] = [
    ("fail-open", INBOUND, "ExtAuthz", put("failure_mode_allow", to=True)),
    ("shadow-mode", INBOUND, "ExtAuthz", put("shadow_mode", to=True)),
    ("partly-enabled", INBOUND, "ExtAuthz", put("filter_enabled", to={"default_value": {"numerator": 100}})),
    ("partly-enabled", INBOUND, "ExtAuthz", put("filter_enabled_metadata", to={"filter": "x"})),
    ("disabled-allows", INBOUND, "ExtAuthz", drop("deny_at_disable")),
    ("disabled-allows", INBOUND, "ExtAuthz", put("deny_at_disable.default_value", to=False)),
    ("error-as-denial", INBOUND, "ExtAuthz", drop("status_on_error")),
    ("no-timeout", INBOUND, "ExtAuthz", drop("grpc_service.timeout")),
    ("no-peer-certificate", INBOUND, "ExtAuthz", drop("include_peer_certificate")),
    ("folded-headers", INBOUND, "ExtAuthz", drop("encode_raw_headers")),
    ("hidden-headers", INBOUND, "ExtAuthz", put("allowed_headers", to={"patterns": [{"exact": "a"}]})),
    ("unchecked-mutations", INBOUND, "ExtAuthz", put("validate_mutations", to=False)),
    ("any-mutation", INBOUND, "ExtAuthz", drop("decoder_header_mutation_rules")),
    ("route-changes", INBOUND, "ExtAuthz", put("clear_route_cache", to=True)),
    ("partial-body", INBOUND, "ExtAuthz", put("with_request_body.allow_partial_message", to=True)),
    ("text-body", INBOUND, "ExtAuthz", drop("with_request_body.pack_as_bytes")),
    ("unchecked-route", INBOUND, "ExtAuthzPerRoute", put("disabled", to=True)),
    ("unchecked-route", INBOUND, "HttpConnectionManager", put("route_config.typed_per_filter_config", to=FILTER_OFF)),
    ("unchecked-route", INBOUND, "HttpConnectionManager", in_filter("ExtAuthz", "disabled")),
    ("unchecked-route", INBOUND, "HttpConnectionManager", in_filter("ExtAuthz", "is_optional")),
    ("no-buffer", INBOUND, "HttpConnectionManager", drop_filter("Buffer")),
    ("no-buffer", INBOUND, "ExtAuthzPerRoute", put("check_settings.disable_request_body_buffering", to=False)),
    ("no-buffer", INBOUND, "ExtAuthzPerRoute", drop("check_settings.disable_request_body_buffering")),
    ("no-ext-authz", INBOUND, "HttpConnectionManager", drop_filter("ExtAuthz")),
    ("path-not-normalised", INBOUND, "HttpConnectionManager", drop("normalize_path")),
    ("path-slashes", OUTBOUND, "HttpConnectionManager", drop("merge_slashes")),
    (
        "path-escaped-slashes",
        INBOUND,
        "HttpConnectionManager",
        put("path_with_escaped_slashes_action", to="KEEP_UNCHANGED"),
    ),
    (
        "header-underscores",
        INBOUND,
        "HttpConnectionManager",
        drop("common_http_protocol_options.headers_with_underscores_action"),
    ),
    (
        "endless-connections",
        INBOUND,
        "HttpConnectionManager",
        drop("common_http_protocol_options.max_connection_duration"),
    ),
    ("forged-headers", OUTBOUND, "HttpConnectionManager", drop("early_header_mutation_extensions")),
    ("foreign-xfcc", OUTBOUND, "HttpConnectionManager", put("forward_client_cert_details", to="ALWAYS_FORWARD_ONLY")),
    ("foreign-xfcc", INBOUND, "HttpConnectionManager", put("forward_client_cert_matcher", to={})),
    ("no-xfcc", INBOUND, "HttpConnectionManager", drop("forward_client_cert_details")),
    ("no-xfcc", INBOUND, "HttpConnectionManager", put("forward_client_cert_details", to="FORWARD_ONLY")),
    ("no-client-certificate", INBOUND, "DownstreamTlsContext", drop("require_client_certificate")),
    ("old-tls", INBOUND, "DownstreamTlsContext", drop(TLS_VERSION)),
    ("old-tls", OUTBOUND, "UpstreamTlsContext", put(TLS_VERSION, to="TLSv1_2")),
    ("resumption", INBOUND, "DownstreamTlsContext", drop("disable_stateless_session_resumption")),
    ("any-peer", INBOUND, "DownstreamTlsContext", drop(NAMES)),
    ("any-peer", OUTBOUND, "UpstreamTlsContext", drop(NAMES)),
    ("ready-without-svid", INBOUND, "DownstreamTlsContext", drop(SDS_TIMEOUT)),
    ("ready-without-svid", OUTBOUND, "UpstreamTlsContext", put(SDS_TIMEOUT, to="15s")),
    ("open-admin", INBOUND, "", put("admin.address", to={"socket_address": {"address": "10.0.0.1"}})),
    ("open-admin", INBOUND, "", put("admin.address", to={"socket_address": {"address": "name"}})),
    ("open-admin", INBOUND, "", drop("admin.allow_paths")),
]


@pytest.mark.parametrize(("rule", "configuration", "name", "edit"), WEAKENINGS, ids=[case[0] for case in WEAKENINGS])
def test_weakness_is_found(rule: str, configuration: dict[str, Any], name: str, edit: Edit) -> None:
    """One unsafe setting is one weakness, with the place where it stands."""
    weak = copy.deepcopy(configuration)
    edit(next(message for _, message in messages(weak) if type_name(message) == name))

    found = lint(weak)

    assert [rule] == [weakness.rule for weakness in found]
    assert str(found[0]).startswith(f"{found[0].place}: {rule}: ")


def test_every_rule_is_tried() -> None:
    """No rule of the table is without a case here."""
    assert {rule.name for rule in RULES} <= {case[0] for case in WEAKENINGS}


def test_loopback_admin_port_is_no_weakness() -> None:
    """An admin interface on loopback is accepted."""
    configuration = copy.deepcopy(OUTBOUND)
    configuration["admin"]["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}

    assert [] == lint(configuration)


def test_nothing_to_lint() -> None:
    """A file whose listeners come by xDS has nothing that could be checked."""
    assert not has_http({"dynamic_resources": {}})
    assert has_http(INBOUND)


@pytest.mark.parametrize("configuration", [INBOUND, OUTBOUND], ids=["inbound", "outbound"])
def test_nonsense_is_no_crash(configuration: dict[str, Any]) -> None:
    """Whatever stands in the place of any field, the lint comes to an end: Envoy is the one to refuse it."""
    broken = copy.deepcopy(configuration)
    nonsense = itertools.cycle([None, "x", 1, [], [1], {}, {"x": [None]}])

    for _, message in list(messages(broken)):
        for key, value in message.items():
            message[key] = next(nonsense)
            lint(broken)
            message[key] = value
