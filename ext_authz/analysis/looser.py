"""Whether one cell asks less than another: what the stricter one asks is then never asked.

A key of a cell that has no order of its own is compared for equality, and one that is left out asks nothing. So a key that
is new here makes cells incomparable, never looser by mistake.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ext_authz.documents.models import Cell, DelegationMode

# By key: whether the first value asks for no more than the second.
_NO_STRICTER: Mapping[str, Callable[[Any, Any], bool]] = {
    "scopes": lambda one, other: set(one) <= set(other),
    "not_during": lambda one, other: set(one or ()) <= set(other or ()),
    "max_hops": lambda one, other: one is None or (other is not None and one >= other),
    "delegation": lambda one, other: one in ("optional", other),
    "access_token": lambda one, other: one in (None, "optional", other),
}


def is_looser(one: Cell, other: Cell, usual: DelegationMode) -> bool:
    """Whether `one` asks for less than `other`, and for nothing that `other` does not ask; actions apart."""
    return _no_stricter(one, other, usual) and not _no_stricter(other, one, usual)


def _no_stricter(one: Cell, other: Cell, usual: DelegationMode) -> bool:
    return all(
        _asks_no_more(name, _value(one, name, usual), _value(other, name, usual))
        for name in Cell.model_fields
        if name != "actions"
    )


def _asks_no_more(name: str, one: Any, other: Any) -> bool:
    compare = _NO_STRICTER.get(name)
    return one == other or not one if compare is None else compare(one, other)


def _value(cell: Cell, name: str, usual: DelegationMode) -> Any:
    value = getattr(cell, name)
    return usual if name == "delegation" and value is None else value
