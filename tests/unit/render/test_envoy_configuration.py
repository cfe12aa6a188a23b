"""Configurations are read from files as Envoy reads them."""

from pathlib import Path

import pytest

from ext_authz.errors import ConfigurationError
from ext_authz.render.configuration import MAX_FILE_BYTES, look, messages, read_configuration, type_name


def test_field_names(tmp_path: Path) -> None:
    """Both spellings of protobuf's JSON form are one; names that are no fields stay."""
    file = tmp_path / "envoy.json"
    file.write_text('{"staticResources": {"listeners": [{"envoy.filters.http.extAuthz": 1, "MixedUp": 2}]}}')

    wanted = {"static_resources": {"listeners": [{"envoy.filters.http.extAuthz": 1, "MixedUp": 2}]}}
    assert wanted == read_configuration(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"- 1", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"a: [", "not readable as YAML or JSON"),
        (b"\xff\xfe\x00", "not readable as YAML or JSON"),
        (b"[" * 500, "not readable as YAML or JSON"),
        (b"#" * (MAX_FILE_BYTES + 1), "expected at most"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes, problem: str) -> None:
    """What is no configuration is refused, with the file's name."""
    file = tmp_path / "envoy.yaml"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=problem) as refused:
        read_configuration(file)
    assert str(refused.value).startswith(f"{file}: ")


def test_missing(tmp_path: Path) -> None:
    """A file that is not there is refused."""
    with pytest.raises(ConfigurationError, match="No such file"):
        read_configuration(tmp_path / "envoy.yaml")


def test_walk() -> None:
    """Messages come with their places, the outer ones first."""
    tree = {"a": [{"b": {}}, 1], "c": 2}

    assert [("", tree), ("a[0]", {"b": {}}), ("a[0].b", {})] == list(messages(tree))


def test_look() -> None:
    """What is missing on the way is None."""
    assert 1 == look({"a": {"b": 1}}, "a.b")
    assert look({"a": 1}, "a.b") is None
    assert look(None, "a") is None


def test_type_name() -> None:
    """The package of a type does not matter."""
    assert "ExtAuthz" == type_name({"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"})
    assert "" == type_name({})
