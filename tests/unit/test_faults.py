"""A failure inside is named by type and place, never by a value."""

import json

from ext_authz.faults import place_of
from ext_authz.identity.spiffe_id import SpiffeId


def _caught(call: object, *arguments: object) -> Exception:
    try:
        call(*arguments)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001
        return error
    raise AssertionError


def test_innermost_line_of_the_package() -> None:
    """The place is the innermost line of this package, also where a library raised."""
    place = place_of(_caught(SpiffeId.parse, None))
    assert "TypeError at identity/spiffe_id.py:" == place.rstrip("0123456789")


def test_failure_outside_of_the_package() -> None:
    """An error that passed no line of ours has a type only, and one that was never raised too."""
    assert "JSONDecodeError" == place_of(_caught(json.loads, "canary"))
    assert "ValueError" == place_of(ValueError("canary"))


def test_values_are_left_out() -> None:
    """The text of an error is not in its place."""
    assert "canary" not in place_of(_caught(SpiffeId.parse, "canary"))
