"""Settings: which source wins, what is refused, and that every problem comes in one run."""

from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import SettingsError
from ext_authz.settings import MAX_SOCKET_PATH_BYTES, Settings, merge_settings

POLICIES = {"policies": Path("policies/default")}


def merged(**settings: Any) -> Settings:
    """Return settings from a file alone."""
    return merge_settings({}, {}, POLICIES | settings)


def problems_of(
    file: dict[str, Any], environment: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> list[str]:
    """Return what is wrong with settings that name a policy directory."""
    with pytest.raises(SettingsError) as caught:
        merge_settings(flags or {}, environment or {}, POLICIES | file)
    return list(caught.value.problems)


def test_defaults() -> None:
    """With nothing but a policy directory the server is private to its user and waives no check."""
    assert merged().model_dump(exclude={"listen"}) == {
        "policies": Path("policies/default"),
        "socket_group": None,
        "socket_workload": None,
        "shadow": None,
        "tls_certificate": None,
        "tls_key": None,
        "tls_client_ca": None,
        "insecure": False,
        "xfcc_mode": "sanitize_set",
        "require_xfcc": True,
        "workloads": [],
        "max_body_bytes": 65536,
        "max_concurrent_checks": 4096,
        "drain_seconds": 5,
        "audit_file": None,
        "audit_max_waiting": 8192,
        "control_store": None,
        "max_control_age_seconds": 60,
        "admin_listen": None,
        "metrics_listen": None,
        "log_level": "info",
        "log_format": "text",
        "watch": True,
    }
    assert merged().listen.startswith("unix:/run/ext-authz/")


@pytest.mark.parametrize(
    ("flags", "environment", "file", "level"),
    [
        ({"log_level": "error"}, {"EXT_AUTHZ_LOG_LEVEL": "warning"}, {"log_level": "debug"}, "error"),
        ({"log_level": None}, {"EXT_AUTHZ_LOG_LEVEL": "warning"}, {"log_level": "debug"}, "warning"),
        ({}, {"EXT_AUTHZ_LOG_LEVEL": "warning"}, {"log_level": "debug"}, "warning"),
        ({}, {"LOG_LEVEL": "warning", "ext_authz_log_level": "warning"}, {"log_level": "debug"}, "debug"),
        ({}, {}, {}, "info"),
    ],
)
def test_precedence(flags: dict[str, Any], environment: dict[str, str], file: dict[str, Any], level: str) -> None:
    """A flag beats a variable, a variable beats the file, the file beats the default; a flag not given counts for nothing."""
    assert level == merge_settings(flags, environment, POLICIES | file).log_level


def test_sources_add_up() -> None:
    """Each source may set what the others leave open."""
    settings = merge_settings(
        {"policies": Path("a"), "listen": None}, {"EXT_AUTHZ_WATCH": "false"}, {"drain_seconds": 2.5}
    )
    assert (Path("a"), False, 2.5) == (settings.policies, settings.watch, settings.drain_seconds)


def test_variables_are_text() -> None:
    """Numbers, booleans, paths and lists can be written in variables."""
    environment = {
        "EXT_AUTHZ_MAX_BODY_BYTES": "1024",
        "EXT_AUTHZ_REQUIRE_XFCC": "false",
        "EXT_AUTHZ_DRAIN_SECONDS": "0.5",
        "EXT_AUTHZ_AUDIT_FILE": "/var/log/audit.jsonl",
        "EXT_AUTHZ_AUDIT_MAX_WAITING": "16",
        "EXT_AUTHZ_WORKLOADS": "spiffe://a/b  spiffe://a/c",
    }
    settings = merge_settings({}, environment, POLICIES)
    assert (1024, False, 0.5, Path("/var/log/audit.jsonl"), 16, ["spiffe://a/b", "spiffe://a/c"]) == (
        settings.max_body_bytes,
        settings.require_xfcc,
        settings.drain_seconds,
        settings.audit_file,
        settings.audit_max_waiting,
        settings.workloads,
    )


SERVICE_LINKS = {
    "EXT_AUTHZ_SERVICE_HOST": "10.96.0.7",
    "EXT_AUTHZ_SERVICE_PORT": "9001",
    "EXT_AUTHZ_SERVICE_PORT_GRPC": "9001",
    "EXT_AUTHZ_PORT": "tcp://10.96.0.7:9001",
    "EXT_AUTHZ_PORT_9001_TCP": "tcp://10.96.0.7:9001",
    "EXT_AUTHZ_PORT_9001_TCP_PROTO": "tcp",
    "EXT_AUTHZ_PORT_9001_TCP_PORT": "9001",
    "EXT_AUTHZ_PORT_9001_TCP_ADDR": "10.96.0.7",
}


@pytest.mark.parametrize("service", ["EXT_AUTHZ_", "EXT_AUTHZ_ADMIN_"])
def test_service_links_of_kubernetes_are_no_settings(service: str) -> None:
    """A Service named like the server, or with a longer name, does not keep the server from starting."""
    links = {key.replace("EXT_AUTHZ_", service, 1): value for key, value in SERVICE_LINKS.items()}
    assert merge_settings({}, links, POLICIES) == merged()


@pytest.mark.parametrize("variable", ["EXT_AUTHZ_PORT", "EXT_AUTHZ_LISTENER", "EXT_AUTHZ_", "EXT_AUTHZ_LOG-LEVEL"])
def test_unknown_variable(variable: str) -> None:
    """A variable that is no setting is refused: somebody believes that it counts."""
    assert [f"{variable}: no such setting"] == problems_of({}, {variable: "9001"})


def test_unknown_setting() -> None:
    """So is a key of the file, and a flag that is none."""
    assert ["colour: no such setting"] == problems_of({"colour": "red"})
    assert ["--no-colour: no such setting"] == problems_of({}, flags={"no_colour": True})


def test_policies_are_needed() -> None:
    """Without a policy directory the three ways of naming one are told."""
    with pytest.raises(SettingsError) as caught:
        merge_settings({"policies": None}, {}, {})
    assert caught.value.problems == (
        "policies: not given: set --policies, EXT_AUTHZ_POLICIES, or `policies` in the settings file",
    )


GOOD_ADDRESSES = [
    *("unix:/run/a.sock", f"unix:/{'a' * (MAX_SOCKET_PATH_BYTES - 1)}", "unix:/tmp/a b,c?d#e"),
    *("127.0.0.1:9001", "127.255.255.255:0", "localhost:65535", "[::1]:9001"),
]


@pytest.mark.parametrize("listen", GOOD_ADDRESSES)
def test_local_addresses(listen: str) -> None:
    """Unix sockets and loopback need no TLS."""
    settings = merged(listen=listen)
    assert (listen, True) == (settings.listen, settings.is_local)


HOST_PORT = "expected unix:/path or HOST:PORT"
BRACKETS = f"{HOST_PORT}, an IPv6 address in brackets: [::1]:9001"
BAD_ADDRESSES = {
    "": HOST_PORT,
    "9001": HOST_PORT,
    ":9001": HOST_PORT,
    "localhost": HOST_PORT,
    "localhost:": HOST_PORT,
    "localhost:http": HOST_PORT,
    "localhost:65536": HOST_PORT,
    "localhost:-1": HOST_PORT,
    "localhost:٣": HOST_PORT,
    "localhost: 1": HOST_PORT,
    "/run/a.sock": HOST_PORT,
    "UNIX:/run/a.sock": HOST_PORT,
    "::1:9001": BRACKETS,
    "dns:localhost:9001": BRACKETS,
    "ipv4:0.0.0.0:9001": BRACKETS,
    "unix:a.sock": "the path of a unix socket is absolute: unix:/path",
    "unix:": "the path of a unix socket is absolute: unix:/path",
    "unix://run/%2e%2e/a.sock": "the path of a unix socket holds no %: gRPC takes it for an escape",
    f"unix:/{'a' * MAX_SOCKET_PATH_BYTES}": f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes",
    f"unix:/{'ü' * 52}": f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes",
}


@pytest.mark.parametrize(("listen", "message"), BAD_ADDRESSES.items(), ids=lambda text: text[:30])
def test_bad_addresses(listen: str, message: str) -> None:
    """What is no address of ours is refused in each source, by its name there."""
    assert [f"listen: {message}"] == problems_of({"listen": listen})
    assert [f"EXT_AUTHZ_LISTEN: {message}"] == problems_of({}, {"EXT_AUTHZ_LISTEN": listen})
    assert [f"--listen: {message}"] == problems_of({}, flags={"listen": listen})


def is_open(listen: str) -> str:
    """Return the problem of an address that the network reaches."""
    return f"`{listen}` is open to the network without TLS: set tls_certificate and tls_key, or `insecure: true`"


TLS = {"tls_certificate": "svid.pem", "tls_key": "svid_key.pem"}
OPEN_ADDRESSES = [
    *("0.0.0.0:9001", "[::]:9001", "10.0.0.1:9001", "authz.example.com:9001", "*:9001", "128.0.0.1:9001"),
    *("127.1:9001", "127.0.0.1.example.com:9001", "127.0.0.256:9001", "127.0.0.1.1:9001", "127.0.0.:9001"),
    *("localhost.example.com:9001", "LOCALHOST:9001", "[::ffff:127.0.0.1]:9001", "[::2]:9001", "2130706433:9001"),
]


@pytest.mark.parametrize("listen", OPEN_ADDRESSES)
def test_open_addresses_need_tls(listen: str) -> None:
    """Whatever is not certainly loopback needs TLS, or the word `insecure` in so many letters."""
    assert [is_open(listen)] == problems_of({"listen": listen})
    for settings in (TLS, {**TLS, "tls_client_ca": "ca.pem"}, {"insecure": True}):
        assert listen == merged(listen=listen, **settings).listen
    assert listen == merge_settings({}, {"EXT_AUTHZ_INSECURE": "true"}, {**POLICIES, "listen": listen}).listen


PAIR = "tls_certificate and tls_key go together"
UNIX_TLS = "TLS is for TCP: a unix socket is protected by its permissions"
TRANSPORTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "certificate alone": ({"listen": "127.0.0.1:1", "tls_certificate": "a"}, [PAIR]),
    "key alone": ({"listen": "127.0.0.1:1", "tls_key": "a"}, [PAIR]),
    "key alone, open": ({"listen": "10.0.0.1:1", "tls_key": "a"}, [PAIR, is_open("10.0.0.1:1")]),
    "client CA alone": ({"listen": "127.0.0.1:1", "tls_client_ca": "a"}, ["tls_client_ca needs tls_certificate and tls_key"]),
    "unix socket": ({"listen": "unix:/a", **TLS}, [UNIX_TLS]),
    "unix socket, certificate alone": ({"listen": "unix:/a", "tls_certificate": "a"}, [PAIR, UNIX_TLS]),
    "unix socket, client CA alone": (
        {"listen": "unix:/a", "tls_client_ca": "a"},
        ["tls_client_ca needs tls_certificate and tls_key"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "problems"), TRANSPORTS.values(), ids=TRANSPORTS)
def test_transport_that_does_not_fit_together(settings: dict[str, Any], problems: list[str]) -> None:
    """Half of a pair, TLS on a unix socket, an open address: each is told, and all at once."""
    assert problems == problems_of(settings)


BOUNDS = {
    "max_body_bytes": (1, 1024 * 1024),
    "max_concurrent_checks": (1, 100_000),
    "drain_seconds": (0, 9),
    "audit_max_waiting": (1, 262_144),
}


@pytest.mark.parametrize(("name", "bounds"), BOUNDS.items(), ids=BOUNDS)
def test_bounds(name: str, bounds: tuple[int, int]) -> None:
    """A limit takes both its bounds and nothing beyond."""
    lowest, highest = bounds
    assert [lowest, highest] == [getattr(merged(**{name: value}), name) for value in bounds]
    assert [f"{name}: input should be greater than or equal to {lowest}"] == problems_of({name: lowest - 1})
    assert [f"{name}: input should be less than or equal to {highest}"] == problems_of({name: highest + 1})


def test_all_problems_at_once() -> None:
    """Problems of all sources, of single settings and of their combination, come in one run under the names used there."""
    problems = problems_of(
        {"colour": "red", "listen": "10.0.0.1:9001", "max_body_bytes": "many"},
        {"EXT_AUTHZ_COLOR": "red", "EXT_AUTHZ_DRAIN_SECONDS": "-1", "EXT_AUTHZ_WATCH": "perhaps"},
        {"log_format": "xml", "policies": None},
    )
    assert sorted(problems) == [
        "--log-format: input should be 'text' or 'json'",
        "EXT_AUTHZ_COLOR: no such setting",
        "EXT_AUTHZ_DRAIN_SECONDS: input should be greater than or equal to 0",
        "EXT_AUTHZ_WATCH: input should be a valid boolean, unable to interpret input",
        is_open("10.0.0.1:9001"),
        "colour: no such setting",
        "max_body_bytes: input should be a valid integer, unable to parse string as an integer",
    ]


def test_unknown_variable_beside_good_settings() -> None:
    """An unknown variable is refused also when all else is right."""
    assert ["EXT_AUTHZ_LISTN: no such setting"] == problems_of(
        {}, {"EXT_AUTHZ_LISTN": "unix:/a", "EXT_AUTHZ_WATCH": "1"}
    )


def test_problem_names_the_source_that_won() -> None:
    """A bad value in the file is no problem where a variable or flag replaces it."""
    bad_file = POLICIES | {"log_level": "loud"}
    assert merge_settings({}, {"EXT_AUTHZ_LOG_LEVEL": "error"}, bad_file).log_level == "error"
    assert merge_settings({"log_level": "error"}, {"EXT_AUTHZ_LOG_LEVEL": "loud"}, bad_file).log_level == "error"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"metrics_listen": "unix:/run/m.sock"}, "metrics_listen: expected HOST:PORT"),
        ({"metrics_listen": "9464"}, "metrics_listen: expected HOST:PORT"),
        ({"metrics_listen": "::1:9464"}, "metrics_listen: expected HOST:PORT, an IPv6 address in brackets: [::1]:9001"),
        (
            {"metrics_listen": "0.0.0.0:9464"},
            "`0.0.0.0:9464` shows metrics to the network: listen on loopback, or set `insecure: true`",
        ),
    ],
)
def test_wrong_metrics_address(settings: dict[str, Any], problem: str) -> None:
    """Metrics stay on this machine unless somebody says otherwise."""
    assert [problem] == problems_of(settings)


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "localhost:0", "[::1]:9464"])
def test_metrics_address(address: str) -> None:
    """Loopback needs no permission; any other address needs `insecure`."""
    assert address == merged(metrics_listen=address).metrics_listen
    assert "0.0.0.0:9464" == merged(metrics_listen="0.0.0.0:9464", insecure=True).metrics_listen


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"admin_listen": "127.0.0.1:9002"},
            "expected a unix socket, whose permissions say who may revoke: unix:/path",
        ),
        ({"admin_listen": "unix:admin.sock"}, "the path of a unix socket is absolute: unix:/path"),
        ({"admin_listen": "unix:/run/admin.sock"}, "admin_listen needs control_store, which is what it changes"),
        (
            {"admin_listen": "unix:/run/a.sock", "listen": "unix:/run/a.sock", "control_store": "/run/control.db"},
            "admin_listen and listen are two sockets: who may ask must not revoke",
        ),
    ],
)
def test_admin_listener(values: dict[str, str], problem: str) -> None:
    """Tools reach a server over a unix socket of its own, and only where there is something to change."""
    with pytest.raises(SettingsError) as caught:
        merge_settings({"policies": "policies"}, {}, values)
    (found,) = caught.value.problems
    assert found.endswith(problem)


def test_socket_of_one_workload() -> None:
    """A unix socket may belong to one workload, which is one of those that are answered for."""
    workload = "spiffe://agents.example.com/planner-agent"
    assert workload == merged(socket_workload=workload, workloads=[workload]).socket_workload
    assert ["socket_workload is for a unix socket: over TCP, tls_client_ca tells the sidecars apart"] == problems_of(
        {"socket_workload": workload, "listen": "127.0.0.1:9001"}
    )
    assert ["socket_workload is none of `workloads`: every question would be refused"] == problems_of(
        {"socket_workload": workload, "workloads": ["spiffe://agents.example.com/audit-agent"]}
    )
