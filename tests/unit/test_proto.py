"""The messages in proto/: compiled code is fresh, and Envoy's own definitions read what we write and the reverse."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as envoy_tls
from envoy_data_plane.envoy.service.auth import v3 as envoy_auth
from envoy_data_plane.envoy.service.discovery import v3 as envoy_discovery
from google.protobuf.message import Message
from support.authorizers import ROOT
from support.check_requests import QUESTION

from ext_authz.pb.attribute_context_pb2 import AttributeContext
from ext_authz.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from ext_authz.pb.external_auth_pb2 import CheckRequest, CheckResponse
from ext_authz.pb.secret_pb2 import Secret, SPIFFECertValidatorConfig

GENERATED = ROOT / "ext_authz" / "pb"


def _filled(message: Any) -> Any:
    """Set every field of a message, all that it holds included, to a value that is not the default."""
    for number, descriptor in enumerate(message.DESCRIPTOR.fields, start=1):
        if descriptor.containing_oneof and message.WhichOneof(descriptor.containing_oneof.name):
            continue
        is_map = descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry
        value = getattr(message, descriptor.name)
        if is_map:
            value[f"key-{number}"] = f"value-{number}"
        elif descriptor.message_type is not None and descriptor.message_type.full_name == "google.protobuf.Struct":
            value.update({"a": "b"})
        elif descriptor.message_type is not None:
            child = value.add() if descriptor.is_repeated else value
            _filled(child)
        elif descriptor.is_repeated:
            value.append(f"text-{number}")
        else:
            setattr(message, descriptor.name, _scalar(descriptor, number))
    return message


def _scalar(descriptor: Any, number: int) -> object:
    match descriptor.cpp_type:
        case descriptor.CPPTYPE_STRING if descriptor.type == descriptor.TYPE_BYTES:
            return f"bytes-{number}".encode()
        case descriptor.CPPTYPE_STRING:
            return f"text-{number}"
        case descriptor.CPPTYPE_BOOL:
            return True
        case descriptor.CPPTYPE_ENUM:
            return descriptor.enum_type.values[-1].number
        case _ if descriptor.name == "nanos":
            return 1000 * number  # the other side keeps microseconds
        case _:
            return 400 + number


# Envoy deprecates `append`; we still set it, because older Envoys read nothing else.
pytestmark = pytest.mark.filterwarnings("ignore:HeaderValueOption.append is deprecated:DeprecationWarning")

PAIRS: list[tuple[Any, Any]] = [
    (CheckRequest, envoy_auth.CheckRequest),
    (AttributeContext, envoy_auth.AttributeContext),
    (CheckResponse, envoy_auth.CheckResponse),
    (DiscoveryRequest, envoy_discovery.DiscoveryRequest),
    (DiscoveryResponse, envoy_discovery.DiscoveryResponse),
    (Secret, envoy_tls.Secret),
    (SPIFFECertValidatorConfig, envoy_tls.SpiffeCertValidatorConfig),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[ours.DESCRIPTOR.name for ours, _ in PAIRS])
def test_every_field_survives_a_round_through_envoys_definition(ours: Any, theirs: Any) -> None:
    """What we write comes back equal after Envoy's own definition has read it and written it again."""
    message = _filled(ours())

    reread = ours.FromString(bytes(theirs.parse(message.SerializeToString())))

    assert str(message) == str(reread)


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Name the fields whose value Envoy's definition does not show under our name."""
    for descriptor, value in ours.ListFields():
        here, seen = f"{path}.{descriptor.name}", getattr(theirs, descriptor.name)
        if isinstance(value, Message) and descriptor.message_type.file.package != "google.protobuf":
            yield from _differences(value, seen, here)
        elif descriptor.message_type is None and not descriptor.is_repeated and value != seen:
            yield f"{here}: {value!r} became {seen!r}"
        elif not seen:
            yield f"{here}: is missing"


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[ours.DESCRIPTOR.name for ours, _ in PAIRS])
def test_envoys_definition_reads_every_field_under_our_name(ours: Any, theirs: Any) -> None:
    """Envoy's definition gives every field the name that ours has: no number is borrowed from another field."""
    message = _filled(ours())

    assert [] == list(_differences(message, theirs.parse(message.SerializeToString())))


def test_envoys_check_request_is_read() -> None:
    """A CheckRequest written by Envoy's definition has the caller, the path and the header bytes where we look."""
    theirs = envoy_auth.CheckRequest.parse(QUESTION.serialized())

    ours = CheckRequest.FromString(bytes(theirs))

    assert QUESTION.caller == ours.attributes.source.principal
    assert QUESTION.path == ours.attributes.request.http.path
    assert QUESTION.body == ours.attributes.request.http.raw_body


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    """Compiling proto/ anew gives the committed files: run `make proto` when this fails."""
    subprocess.run([sys.executable, ROOT / "proto" / "compile.py", tmp_path], check=True, timeout=60)
    fresh = {path.name: path.read_text() for path in (tmp_path / "ext_authz" / "pb").iterdir()}

    committed = {path.name: path.read_text() for path in GENERATED.glob("*_pb2.py*")}

    assert fresh == committed
