"""An Envoy configuration as it stands in a file, ours or anyone's: read, walked, and looked into."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ext_authz.errors import ConfigurationError

# Larger than any static configuration that people maintain; a file of this size takes PyYAML some seconds.
MAX_FILE_BYTES = 4 * 1024 * 1024

_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_CAMEL_CASE = re.compile(r"[a-z][A-Za-z0-9]*")


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file; fields get the names of the .proto files. Raises ConfigurationError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError([f"{path}: expected at most {MAX_FILE_BYTES} bytes"])
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ConfigurationError([f"{path}: not readable as YAML or JSON: {_one_line(error)}"]) from error
    if not isinstance(content, dict):
        raise ConfigurationError([f"{path}: expected a mapping, the bootstrap configuration of Envoy"])
    configuration = _with_field_names(content)
    assert isinstance(configuration, dict)  # noqa: S101  (a mapping stays one)
    return configuration


def messages(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk over every message in a configuration, the outer ones first, each with its place."""
    if isinstance(node, dict):
        yield place, node
        for key, child in node.items():
            yield from messages(child, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from messages(child, f"{place}[{index}]")


def type_name(message: Any) -> str:
    """Return the type of a message inside an Any, without its package; empty for anything else."""
    return str(message.get("@type", "")).rpartition(".")[2] if isinstance(message, dict) else ""


def look(message: Any, path: str) -> Any:
    """Return what stands at a dotted path; None where something is missing on the way."""
    for name in path.split("."):
        message = message.get(name) if isinstance(message, dict) else None
    return message


def _with_field_names(node: Any) -> Any:
    """Turn lowerCamelCase keys, the other spelling in protobuf's JSON form, into the names of the .proto files."""
    if isinstance(node, list):
        return [_with_field_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {_field_name(str(key)): _with_field_names(value) for key, value in node.items()}


def _field_name(key: str) -> str:
    return _CAPITAL.sub(r"_\1", key).lower() if _CAMEL_CASE.fullmatch(key) else key


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
