"""Files outside of the policy directory: bundles that SPIRE writes, keys that agents register.

They are looked at by name, not watched by directory: a file that is renamed into place, written in place or swapped behind a
symbolic link looks different, whatever the file system tells watchers.
"""

from pathlib import Path

from ext_authz.tokens.key_files import Stamps, stamps_now

# Seconds between two looks. Two looks that agree make a change: together with a reload that stays under a second.
LOOK_SECONDS = 0.25


def directory_stamps(directory: Path) -> Stamps:
    """Return the stamps of a directory and of all that stands in it."""
    try:
        inside = list(directory.iterdir())
    except OSError:
        inside = []
    return stamps_now(dict.fromkeys([directory, *inside]))


class FileWatch:
    """Tells when files differ from what was read, and have come to rest."""

    def __init__(self, expected: Stamps) -> None:
        self.expected = self._last = expected

    def expect(self, stamps: Stamps) -> None:
        """Take these for what was read."""
        self.expected = self._last = stamps

    def is_change(self, found: Stamps) -> bool:
        """Take in what was found; return whether the files are to be read again. Each change is told once."""
        if found.keys() != self.expected.keys():  # others were expected when somebody looked
            return False
        has_changed = found == self._last != self.expected
        self._last = found
        if has_changed:
            self.expected = found
        return has_changed
