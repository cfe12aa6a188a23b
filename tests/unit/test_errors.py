"""The error tree and the reason codes."""

import json
import re

import pytest

from ext_authz.errors import (
    MEANINGS,
    ConfigurationError,
    ExtAuthzError,
    NotAllowed,
    Outcome,
    PolicyError,
    Reason,
    Refusal,
    SettingsError,
    Undecided,
)
from ext_authz.response import MAX_DETAIL_CHARACTERS


def test_tree() -> None:
    """Whose fault an error is, is its type."""
    assert (NotAllowed,) == Refusal.__bases__ == Undecided.__bases__
    assert (ConfigurationError,) == PolicyError.__bases__ == SettingsError.__bases__
    assert (ExtAuthzError,) == NotAllowed.__bases__ == ConfigurationError.__bases__


def test_every_reason_has_one_meaning() -> None:
    """Each code has outcome, statuses and a sentence for people: lower case, no full stop, short."""
    assert set(Reason) == MEANINGS.keys()
    for reason in Reason:
        assert re.fullmatch(r"[a-z_]+", reason.value)
        assert re.fullmatch(r"[a-z].*[^.]", reason.meaning.sentence)
        assert len(reason.meaning.sentence) <= MAX_DETAIL_CHARACTERS


def test_only_one_reason_allows() -> None:
    """Nothing but `allowed` allows."""
    assert [Reason.ALLOWED] == [reason for reason in Reason if reason.meaning.outcome is Outcome.ALLOW]
    assert [Reason.ALLOWED] == [reason for reason in Reason if reason.meaning.rpc_code == 0]


def test_detail() -> None:
    """An error without a detail has the sentence of its reason."""
    assert "why" == Refusal(Reason.TRUST_DOMAIN, "why").detail
    assert Reason.TRUST_DOMAIN.meaning.sentence == Refusal(Reason.TRUST_DOMAIN).detail


def test_problems() -> None:
    """A configuration error holds every problem."""
    with pytest.raises(ExtAuthzError, match="a\nb") as error:
        raise PolicyError(["a", "b"])
    assert isinstance(error.value, PolicyError)
    assert ("a", "b") == error.value.problems


def test_reason_is_its_code() -> None:
    """A reason goes into JSON as its code."""
    assert '["trust_domain", "deny"]' == json.dumps([Reason.TRUST_DOMAIN, Outcome.DENY])
