"""RBAC behind ext_authz: what no answer of the authorization server can open."""

from envoy_data_plane.envoy.config.rbac.v3 import (
    Permission,
    PermissionSet,
    Policy,
    Principal,
    PrincipalAuthenticated,
)
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as Rules
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ext_authz.render.extension import http_filter

# CONNECT makes a tunnel, in which nobody looks at requests; TRACE sends a request's headers back (RFC 9110 section 9.3.8).
REFUSED_METHODS = ("CONNECT", "TRACE")


def rbac_filter(trust_domains: tuple[str, ...]) -> HttpFilter:
    """Let workloads of these trust domains pass, with any method that is not refused."""
    policy = Policy(
        permissions=[Permission(not_rule=Permission(or_rules=PermissionSet(rules=[*map(_method, REFUSED_METHODS)])))],
        principals=[*map(_workload_of, trust_domains)],
    )
    return http_filter(
        "envoy.filters.http.rbac",
        Rbac(rules_stat_prefix="defence_in_depth_", rules=Rules(policies={"workloads": policy})),
    )


def _method(name: str) -> Permission:
    return Permission(header=HeaderMatcher(name=":method", string_match=StringMatcher(exact=name)))


def _workload_of(trust_domain: str) -> Principal:
    name = StringMatcher(prefix=f"spiffe://{trust_domain}/")
    return Principal(authenticated=PrincipalAuthenticated(principal_name=name))
