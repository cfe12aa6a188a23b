"""Secrets as pure functions of a workload's state, and the SDS conversation as a state machine."""

import logging
from dataclasses import replace

import pytest
from google.rpc.status_pb2 import Status

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.sds import SecretConversation, SecretsRefused, build_secrets
from ext_authz.local.svid import IdentityState
from ext_authz.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from ext_authz.pb.secret_pb2 import Secret, SPIFFECertValidatorConfig

OWN = "spiffe://agents.example.com"
PARTNER = "spiffe://partner.test"
PLANNER = SpiffeId.parse_workload(f"{OWN}/planner-agent")
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@pytest.fixture
def state() -> IdentityState:
    own, partner = DevelopmentCa.create("agents.example.com"), DevelopmentCa.create("partner.test")
    federated = {"partner.test": partner.bundle}
    return IdentityState(version=7, svid=own.issue(PLANNER), bundle=own.bundle, federated_bundles=federated)


@pytest.fixture
def conversation(state: IdentityState) -> SecretConversation:
    return SecretConversation(state)


def names_of(secrets: list[Secret]) -> list[str]:
    return [secret.name for secret in secrets]


def trust_domains_of(secret: Secret) -> list[str]:
    config = SPIFFECertValidatorConfig()
    assert secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    return [domain.name for domain in config.trust_domains]


def ask(*names: str, nonce: str = "", error: str = "") -> DiscoveryRequest:
    detail = Status(code=13, message=error) if error else None
    return DiscoveryRequest(resource_names=names, type_url=TYPE_URL, response_nonce=nonce, error_detail=detail)


def answered(response: DiscoveryResponse | None) -> DiscoveryResponse:
    assert response is not None
    return response


@pytest.mark.parametrize("name", [PLANNER.uri, "default"])
def test_svid_has_two_names(state: IdentityState, name: str) -> None:
    """The SVID and its key come under the SPIFFE ID and under `default`."""
    [secret] = build_secrets(state, [name])
    assert name == secret.name
    assert state.svid.chain_pem == secret.tls_certificate.certificate_chain.inline_bytes
    assert state.svid.private_key_pem == secret.tls_certificate.private_key.inline_bytes


@pytest.mark.parametrize(
    ("name", "trust_domains"),
    [
        ("ROOTCA", ["agents.example.com"]),
        (OWN, ["agents.example.com"]),
        ("ALL", ["agents.example.com", "partner.test"]),
        (PARTNER, ["partner.test"]),
    ],
)
def test_bundles_come_as_the_spiffe_validator(state: IdentityState, name: str, trust_domains: list[str]) -> None:
    """Every bundle is tied to its trust domain by Envoy's SPIFFE validator, never merged into one list of roots."""
    [secret] = build_secrets(state, [name])
    assert name == secret.name
    assert secret.validation_context.custom_validator_config.name == "envoy.tls.cert_validator.spiffe"
    assert not secret.validation_context.HasField("trusted_ca")
    assert trust_domains == trust_domains_of(secret)


@pytest.mark.parametrize("names", [[], [""]])
def test_without_names_all_kinds_come(state: IdentityState, names: list[str]) -> None:
    """A request without names gets each thing once, under its SPIFFE name."""
    assert [OWN, PARTNER, PLANNER.uri] == names_of(build_secrets(state, names))


def test_names_may_be_combined(state: IdentityState) -> None:
    """One request can name the SVID, one form of the own bundle and the federated ones, each as often as it likes."""
    assert ["ALL", PARTNER, "default"] == names_of(build_secrets(state, ["default", "ALL", PARTNER, "ALL"]))


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        ([f"{OWN}/other-agent"], f'"{OWN}/other-agent"'),
        (["default", "nope", "all"], '"all" "nope"'),
        (["ROOTCA", "ALL"], '"ALL"'),
        ([PLANNER.uri, "default"], '"default"'),
    ],
)
def test_unknown_names_are_refused(state: IdentityState, names: list[str], unknown: str) -> None:
    """What the workload cannot have refuses the whole request in SPIRE's words; so does a second name for one thing."""
    with pytest.raises(SecretsRefused) as refusal:
        build_secrets(state, names)
    assert f"workload is not authorized for the requested identities [{unknown}]" == str(refusal.value)


def test_first_request_is_answered(conversation: SecretConversation) -> None:
    """The answer carries the state's version, a nonce, and the type that was asked for."""
    response = answered(conversation.receive(ask("default")))
    assert (response.version_info, response.type_url, len(response.resources)) == ("7", TYPE_URL, 1)
    assert response.nonce


def test_ack_is_not_answered(conversation: SecretConversation) -> None:
    """After an ACK the stream is silent."""
    response = answered(conversation.receive(ask("default")))
    assert conversation.receive(ask("default", nonce=response.nonce)) is None


def test_nack_is_logged_and_not_answered(conversation: SecretConversation, caplog: pytest.LogCaptureFixture) -> None:
    """A rejected secret is not sent again; Envoy's error reaches the log on one line, cut to 300 characters."""
    response = answered(conversation.receive(ask("default")))
    with caplog.at_level(logging.WARNING):
        assert conversation.receive(ask("default", nonce=response.nonce, error="no\n" + "x" * 400)) is None
    [line] = caplog.messages
    assert f"Envoy rejected the secrets '\"default\"': 'no\\n{'x' * 297}'" == line


def test_newer_state_is_pushed_with_a_new_nonce(conversation: SecretConversation, state: IdentityState) -> None:
    """A rotation is sent under the names asked for last, also after a NACK."""
    first = answered(conversation.receive(ask("default")))
    conversation.receive(ask("default", nonce=first.nonce, error="rejected"))
    second = answered(conversation.update(replace(state, version=8)))
    assert second.version_info == "8"
    assert first.nonce != second.nonce


def test_update_before_any_request_sends_nothing(conversation: SecretConversation, state: IdentityState) -> None:
    """Nothing is pushed to a stream that has asked for nothing."""
    assert conversation.update(replace(state, version=8)) is None
    assert answered(conversation.receive(ask("default"))).version_info == "8"


def test_stale_nonce_is_ignored(conversation: SecretConversation, state: IdentityState) -> None:
    """A request that answers an older response changes nothing, not even the subscription."""
    first = answered(conversation.receive(ask("default")))
    answered(conversation.update(replace(state, version=8)))
    assert conversation.receive(ask("ALL", nonce=first.nonce)) is None
    third = answered(conversation.update(replace(state, version=9)))
    [resource] = third.resources
    secret = Secret()
    assert resource.Unpack(secret)
    assert secret.name == "default"


def test_new_names_on_the_same_stream_are_answered(conversation: SecretConversation) -> None:
    """A subscription that grows is answered at once, with the same version and all that it names."""
    first = answered(conversation.receive(ask("default")))
    second = answered(conversation.receive(ask("default", "ALL", nonce=first.nonce)))
    assert (first.version_info, 2) == (second.version_info, len(second.resources))


def test_request_is_bounded(conversation: SecretConversation) -> None:
    """Too many names, or one that is too long, are refused before anything is built."""
    for names in (["default"] * 65, ["x" * 2049]):
        with pytest.raises(SecretsRefused, match="expected at most 64 names of at most 2048 characters"):
            conversation.receive(ask(*names))
