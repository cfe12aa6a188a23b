"""SPIFFE IDs: parsed strictly, never normalised, equal by their bytes. The vectors hold the grammar's cases."""

from dataclasses import FrozenInstanceError

import pytest

from ext_authz.identity.spiffe_id import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, SpiffeIdError


def test_parts() -> None:
    """An ID has its text, its trust domain and its path."""
    spiffe_id = SpiffeId.parse_workload("spiffe://example.org/ns/a/sa/b")
    assert ("example.org", "/ns/a/sa/b") == (spiffe_id.trust_domain, spiffe_id.path)
    assert "spiffe://example.org/ns/a/sa/b" == spiffe_id.uri == str(spiffe_id)
    assert "" == SpiffeId.parse("spiffe://example.org").path


def test_equality() -> None:
    """Two IDs are equal when their bytes are; an ID is never equal to a text."""
    one, same = (SpiffeId.parse("spiffe://example.org/a") for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != SpiffeId.parse("spiffe://example.org/A")
    text: object = "spiffe://example.org/a"
    assert one != text


def test_ids_do_not_change() -> None:
    """What was parsed stays as it was."""
    with pytest.raises(FrozenInstanceError):
        SpiffeId.parse("spiffe://example.org/a").uri = "spiffe://example.org/b"  # type: ignore[misc]


def test_workload_has_a_path() -> None:
    """The ID of a trust domain names no workload."""
    with pytest.raises(SpiffeIdError, match="has a path"):
        SpiffeId.parse_workload("spiffe://example.org")


@pytest.mark.parametrize(
    ("limit", "prefix", "suffix"),
    [(MAX_ID_BYTES, "spiffe://td/", ""), (MAX_TRUST_DOMAIN_BYTES + 11, "spiffe://", "/x")],
)
def test_limits(limit: int, prefix: str, suffix: str) -> None:
    """An ID of exactly the limit passes, one byte more does not."""
    for length in (limit, limit + 1):
        text = prefix + "a" * (length - len(prefix) - len(suffix)) + suffix
        if length == limit:
            assert text == SpiffeId.parse_workload(text).uri
        else:
            with pytest.raises(SpiffeIdError, match="at most"):
                SpiffeId.parse_workload(text)


def test_error_does_not_repeat_the_text() -> None:
    """What was no ID does not come back in the error."""
    for text in ("canary", "spiffe://canary/", "spiffe://canary", "spiffe://" + "canary" * 500):
        with pytest.raises(SpiffeIdError) as error:
            SpiffeId.parse_workload(text)
        assert "canary" not in str(error.value)
