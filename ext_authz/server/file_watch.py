"""Files outside of the policy directory: bundles that SPIRE writes, keys that agents register.

They are looked at by name, not watched by directory: a file that is renamed into place, written in place or swapped behind a
symbolic link looks different, whatever the file system tells watchers.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from watchfiles import awatch

from ext_authz.tokens.key_files import Stamps, stamps_now

# Seconds between two looks. Two looks that agree make a change: together with a reload that stays under a second.
LOOK_SECONDS = 0.25
# Milliseconds that a burst of file changes may last before it is read: editors and ConfigMap swaps touch several files.
SETTLE_MILLISECONDS = 200
# Milliseconds after which a watcher says that nothing happened, and with it that it watches.
SILENCE_MILLISECONDS = 500


def directory_stamps(*directories: Path) -> Stamps:
    """Return the stamps of directories and of all that stands in them."""
    paths = list(directories)
    for directory in directories:
        with suppress(OSError):  # then its own stamp says that it is not there
            paths += directory.iterdir()
    return stamps_now(dict.fromkeys(paths))


async def directory_changes(
    *directories: Path, before: Stamps, every: int = SILENCE_MILLISECONDS
) -> AsyncGenerator[bool, None]:
    """Yield True when something in the directories changed, and False when nothing did for `every` milliseconds.

    `before` are their stamps from before they were read: what changed until the watch stood is a change too. Raises
    FileNotFoundError for a directory that is not there.
    """
    is_first = True
    # No filter: the usual one passes over everything below .git, node_modules and the like.
    async for changes in awatch(
        *directories,
        watch_filter=None,
        debounce=SETTLE_MILLISECONDS,
        recursive=False,
        rust_timeout=every,
        yield_on_timeout=True,
    ):
        yield bool(changes) or (is_first and directory_stamps(*directories) != before)
        is_first = False


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
