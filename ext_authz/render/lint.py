"""What makes a sidecar weak, found in any Envoy configuration.

1. Envoy accepts all of this: each rule is about a setting that is valid and unsafe.
2. A rule looks at one message, or at one filter chain where messages depend on each other.
3. A setting that is missing counts as its default.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ext_authz.render.configuration import look, messages, type_name
from ext_authz.render.rules import EXT_AUTHZ, EXT_AUTHZ_PER_ROUTE, INBOUND_TLS, MANAGER, RULES, Message


@dataclass(frozen=True, slots=True)
class Weakness:
    """One unsafe setting: where it stands, which rule says so, and why."""

    place: str
    rule: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: {self.sentence}"


def lint(configuration: dict[str, Any]) -> list[Weakness]:
    """Return every weakness of a configuration, in the order of the file."""
    return [weakness for place, message in messages(configuration) for weakness in _weaknesses(place, message)]


def has_http(configuration: dict[str, Any]) -> bool:
    """Whether there is anything to lint: listeners that come by xDS are not in the file."""
    return any(type_name(message) == MANAGER for _, message in messages(configuration))


def _weaknesses(place: str, message: Message) -> Iterator[Weakness]:
    name = type_name(message)
    for rule in RULES:
        if rule.type_name == name and rule.is_weak(message):
            yield Weakness(place, rule.name, rule.sentence)
    for key, check in _BY_FIELD.items():
        if key in message:
            yield from check(place, message)


def _check_filters(place: str, manager: Message) -> Iterator[Weakness]:
    """Look at the order of the HTTP filters."""
    filters = manager["http_filters"]
    buffer_seen = False
    for index, item in enumerate(filters if isinstance(filters, list) else ()):
        config = look(item, "typed_config")
        if type_name(config) == "Buffer":
            buffer_seen = True
        if type_name(config) != EXT_AUTHZ:
            continue
        here = f"{place}.http_filters[{index}]"
        if look(item, "disabled") or look(item, "is_optional"):
            yield Weakness(
                here, "unchecked-route", "the filter is off, or may be left out, where no route says otherwise"
            )
        if look(config, "with_request_body") and not buffer_seen:
            sentence = "put a buffer filter before ext_authz: over HTTP/2 its own limit lets longer bodies through, cut"
            yield Weakness(here, "no-buffer", sentence)


def _check_route(place: str, route: Message) -> Iterator[Weakness]:
    """Look at what a route changes about filters."""
    settings = route["typed_per_filter_config"]
    configs = settings if isinstance(settings, dict) else {}
    switched_off = {name for name, config in configs.items() if look(config, "disabled") is True}
    if any(type_name(configs[name]) == "FilterConfig" and "ext_authz" in name for name in switched_off):
        yield Weakness(place, "unchecked-route", "requests on this route are not checked")
    asks = [config for config in configs.values() if type_name(config) == EXT_AUTHZ_PER_ROUTE]
    buffers = not any(look(config, "check_settings.disable_request_body_buffering") for config in asks)
    if buffers and any("buffer" in name for name in switched_off):
        sentence = "with the buffer filter off, switch off ext_authz's body too: its own limit cuts longer ones"
        yield Weakness(place, "no-buffer", sentence)


def _check_chain(place: str, chain: Message) -> Iterator[Weakness]:
    """Look at how XFCC is treated, which depends on whether there is mTLS."""
    if type_name(look(chain, "transport_socket.typed_config")) != INBOUND_TLS:
        return
    for inner, manager in messages(chain["filters"], f"{place}.filters"):
        if type_name(manager) != MANAGER:
            continue
        if look(manager, "forward_client_cert_details") not in ("SANITIZE_SET", "APPEND_FORWARD"):
            sentence = "set forward_client_cert_details to SANITIZE_SET: the authorization server is not told who calls"
            yield Weakness(inner, "no-xfcc", sentence)
        if not any(type_name(message) == EXT_AUTHZ for _, message in messages(manager)):
            yield Weakness(inner, "no-ext-authz", "requests from other agents are not checked")


def _check_admin(place: str, message: Message) -> Iterator[Weakness]:
    admin = message["admin"]
    here = f"{place}.admin" if place else "admin"
    host = look(admin, "address.socket_address.address")
    if host is not None and not _is_loopback(host):
        yield Weakness(here, "open-admin", "the admin interface has no password: listen on a unix socket")
    if not look(admin, "allow_paths"):
        yield Weakness(
            here, "open-admin", "set allow_paths: whoever reaches /quitquitquit or /logging can switch the sidecar off"
        )


def _is_loopback(host: Any) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# Field that a message has -> what is looked at then.
_BY_FIELD: Mapping[str, Callable[[str, Message], Iterator[Weakness]]] = {
    "http_filters": _check_filters,
    "typed_per_filter_config": _check_route,
    "filters": _check_chain,
    "admin": _check_admin,
}
