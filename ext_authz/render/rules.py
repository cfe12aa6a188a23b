"""Settings of single messages that are valid and unsafe, as a table."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ext_authz.render.configuration import look, messages

Message = Mapping[str, Any]

EXT_AUTHZ = "ExtAuthz"
EXT_AUTHZ_PER_ROUTE = "ExtAuthzPerRoute"
MANAGER = "HttpConnectionManager"
INBOUND_TLS = "DownstreamTlsContext"
OUTBOUND_TLS = "UpstreamTlsContext"


class Rule(NamedTuple):
    """A test that a message of one type must not pass."""

    name: str
    type_name: str
    is_weak: Callable[[Message], bool]
    sentence: str


def _is_on(path: str) -> Callable[[Message], bool]:
    return lambda message: look(message, path) is True


def _is_off(path: str) -> Callable[[Message], bool]:
    return lambda message: look(message, path) is not True


def _is(path: str, *values: Any) -> Callable[[Message], bool]:
    return lambda message: look(message, path) in values


def _is_not(path: str, *values: Any) -> Callable[[Message], bool]:
    return lambda message: look(message, path) not in values


def _is_set(path: str) -> Callable[[Message], bool]:
    return lambda message: look(message, path) is not None


def _is_missing(path: str) -> Callable[[Message], bool]:
    return lambda message: look(message, path) is None


def _has_no_timeout(ext_authz: Message) -> bool:
    return (
        look(ext_authz, "grpc_service.timeout") is None and look(ext_authz, "http_service.server_uri.timeout") is None
    )


def _takes_body_as_text(ext_authz: Message) -> bool:
    body = look(ext_authz, "with_request_body")
    return body is not None and look(body, "pack_as_bytes") is not True


def _sds_may_time_out(context: Message) -> bool:
    sources = [secret for _, secret in messages(dict(context)) if "sds_config" in secret]
    return any(look(source, "sds_config.initial_fetch_timeout") not in ("0s", "0.0s") for source in sources)


def _forged_headers_stay(manager: Message) -> bool:
    mutations = [mutation for _, mutation in messages(manager.get("early_header_mutation_extensions"))]
    return not any(look(mutation, "remove_on_match.key_matcher.prefix") == "x-authz-" for mutation in mutations)


def _trusts_anyone(context: Message) -> bool:
    validations = [
        validation
        for _, validation in messages(dict(context))
        if {"match_typed_subject_alt_names", "match_subject_alt_names"} & validation.keys()
    ]
    return not validations


# fmt: off
RULES = (
    Rule("fail-open", EXT_AUTHZ, _is_on("failure_mode_allow"), "requests pass while the authorization server is down"),
    Rule("shadow-mode", EXT_AUTHZ, _is_on("shadow_mode"), "denials are computed and not enforced"),
    Rule("partly-enabled", EXT_AUTHZ, _is_set("filter_enabled"), "a percentage, or whoever sets the runtime key, decides whether requests are checked"),
    Rule("partly-enabled", EXT_AUTHZ, _is_set("filter_enabled_metadata"), "metadata decide whether requests are checked"),
    Rule("disabled-allows", EXT_AUTHZ, _is_off("deny_at_disable.default_value"), "set deny_at_disable: without it, a filter that is disabled lets requests pass"),
    Rule("error-as-denial", EXT_AUTHZ, _is_not("status_on_error.code", "ServiceUnavailable", 503), "set status_on_error: without it, an outage looks like a denial (403)"),
    Rule("no-timeout", EXT_AUTHZ, _has_no_timeout, "state how long a request may wait for its decision"),
    Rule("no-peer-certificate", EXT_AUTHZ, _is_off("include_peer_certificate"), "the authorization server cannot compare XFCC with the certificate"),
    Rule("folded-headers", EXT_AUTHZ, _is_off("encode_raw_headers"), "set encode_raw_headers: a header sent twice arrives as one, joined by a comma"),
    Rule("hidden-headers", EXT_AUTHZ, _is_set("allowed_headers"), "a header that is not listed looks as if it had not been sent, delegation tokens too"),
    Rule("unchecked-mutations", EXT_AUTHZ, _is_off("validate_mutations"), "set validate_mutations: the server's headers are used as they come"),
    Rule("any-mutation", EXT_AUTHZ, _is_off("decoder_header_mutation_rules.disallow_all"), "the server may set any request header; disallow all and list its own"),
    Rule("route-changes", EXT_AUTHZ, _is_on("clear_route_cache"), "what was checked on one route may be sent on another"),
    Rule("partial-body", EXT_AUTHZ, _is_on("with_request_body.allow_partial_message"), "the server decides on the beginning of a body, the agent gets all of it"),
    Rule("text-body", EXT_AUTHZ, _takes_body_as_text, "set pack_as_bytes: bytes that are not UTF-8 are replaced before the server sees them"),
    Rule("unchecked-route", EXT_AUTHZ_PER_ROUTE, _is_on("disabled"), "requests on this route are not checked"),
    Rule("path-not-normalised", MANAGER, _is_off("normalize_path"), "/a/../b is checked as it stands"),
    Rule("path-slashes", MANAGER, _is_off("merge_slashes"), "//a and /a are two paths for the check and may be one for the agent"),
    Rule("path-escaped-slashes", MANAGER, _is_not("path_with_escaped_slashes_action", "REJECT_REQUEST"), "%2f may be a slash for the agent; reject it"),
    Rule("header-underscores", MANAGER, _is_not("common_http_protocol_options.headers_with_underscores_action", "REJECT_REQUEST", "DROP_HEADER"), "many frameworks take x_authz_subject for x-authz-subject"),
    Rule("endless-connections", MANAGER, _is_missing("common_http_protocol_options.max_connection_duration"), "a certificate is looked at once a connection, and expires unnoticed"),
    Rule("forged-headers", MANAGER, _forged_headers_stay, "remove x-authz-* by early header mutation: a caller's own copies reach the authorization server, and may reach the agent"),
    Rule("foreign-xfcc", MANAGER, _is("forward_client_cert_details", "ALWAYS_FORWARD_ONLY"), "an XFCC header is believed on connections without mTLS"),
    Rule("foreign-xfcc", MANAGER, _is_set("forward_client_cert_matcher"), "the request itself may choose how its XFCC header is treated"),
    Rule("no-client-certificate", INBOUND_TLS, _is_off("require_client_certificate"), "callers without a certificate are let in"),
    Rule("old-tls", INBOUND_TLS, _is_not("common_tls_context.tls_params.tls_minimum_protocol_version", "TLSv1_3"), "set tls_minimum_protocol_version to TLSv1_3"),
    Rule("old-tls", OUTBOUND_TLS, _is_not("common_tls_context.tls_params.tls_minimum_protocol_version", "TLSv1_3"), "set tls_minimum_protocol_version to TLSv1_3"),
    Rule("resumption", INBOUND_TLS, _is_off("disable_stateless_session_resumption"), "a resumed session proves no certificate"),
    Rule("any-peer", INBOUND_TLS, _trusts_anyone, "set match_typed_subject_alt_names: every certificate of a trusted CA is let in"),
    Rule("any-peer", OUTBOUND_TLS, _trusts_anyone, "set match_typed_subject_alt_names to the callee's SPIFFE ID: any workload may answer in its place"),
    Rule("ready-without-svid", INBOUND_TLS, _sds_may_time_out, "set initial_fetch_timeout: 0s, or Envoy calls itself ready before it has an SVID"),
    Rule("ready-without-svid", OUTBOUND_TLS, _sds_may_time_out, "set initial_fetch_timeout: 0s, or Envoy calls itself ready before it has an SVID"),
)
# fmt: on
