"""Everything that is wrong with an input, reported at once."""

from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from ext_authz.errors import ConfigurationError

T = TypeVar("T")


class Problems:
    """Collects problems while an input is read."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], text: str) -> T:
        """Parse `text`; a ValueError becomes a problem.

        What is returned then is no T: call `raise_found` before anything is done with it.
        """
        try:
            return parse(text)
        except ValueError as error:
            self._found.append(f"{name} `{text}`: {error}")
            return cast("T", None)

    def read_each(self, name: str, parse: Callable[[str], T], texts: Iterable[str]) -> tuple[T, ...]:
        """Parse each text once, as `read` does; what is said twice is said once."""
        return tuple(self.read(name, parse, text) for text in dict.fromkeys(texts))

    def add(self, problem: str) -> None:
        """Add one found by other means."""
        self._found.append(problem)

    def raise_found(self) -> None:
        """Raise ConfigurationError if there is any problem."""
        if self._found:
            raise ConfigurationError(self._found)
