"""All patterns against one text in one pass: Hyperscan where it has a wheel, RE2 elsewhere, with the same verdicts.

1. Both engines work on bytes, so no text is invalid to them; patterns keep to what both read alike
   (`documents/injection_rules.py`).
2. Both take linear time, whatever the text.
3. An engine that fails raises; it never says that nothing matched.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import re2

from ext_authz.errors import Reason, Undecided

hyperscan: Any
try:
    import hyperscan
except ImportError:  # no wheel for this platform
    hyperscan = None

# Patterns in one RE2 set. Larger sets thrash the automaton's cache: 339 in one took forty times as long as 31.
MAX_PATTERNS_PER_SET = 32
# Bytes that one RE2 set may use for its automaton: eight times RE2's default, which our gaps (`.{0,40}`) outgrow.
RE2_MAX_MEMORY_BYTES = 64 * 1024 * 1024


class Engine(Protocol):
    """Compiled patterns; safe to use from several threads."""

    def match(self, text: bytes) -> list[int]:
        """Return the indices of all patterns that occur in the text, in ascending order."""


def compile_engine(patterns: Sequence[bytes]) -> Engine:
    """Compile the patterns for the fastest engine that is installed."""
    return Re2Engine(patterns) if hyperscan is None else HyperscanEngine(patterns)


class HyperscanEngine:
    """One database for all patterns."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=list(patterns),
            ids=list(range(len(patterns))),
            # Not UTF8: input that is not valid would be undefined behaviour, and bytes serve as well.
            flags=hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH,
        )
        self._thread = _Thread(self._database)

    def match(self, text: bytes) -> list[int]:
        matched: list[int] = []
        self._database.scan(text, match_event_handler=_collect, context=matched, scratch=self._thread.scratch)
        return sorted(matched)


class _Thread(threading.local):
    """Hyperscan's working memory: a thread must have its own."""

    def __init__(self, database: Any) -> None:
        self.scratch = hyperscan.Scratch(database)


def _collect(index: int, _start: int, _end: int, _flags: int, matched: list[int]) -> None:
    matched.append(index)


class Re2Engine:
    """Sets of at most MAX_PATTERNS_PER_SET patterns, one after the other."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        step = MAX_PATTERNS_PER_SET - 1  # one place is the canary's
        self._sets = [(first, _re2_set(patterns[first : first + step])) for first in range(0, len(patterns), step)]

    def match(self, text: bytes) -> list[int]:
        matched: list[int] = []
        for first, patterns in self._sets:
            found = patterns.Match(text)
            # RE2 says "no match" when its memory runs out; the canary, which matches everything, tells the two apart.
            if not found:
                raise Undecided(Reason.INTERNAL_ERROR, "the screening engine ran out of memory")
            matched += [first + index - 1 for index in sorted(found) if index]
        return matched


def _re2_set(patterns: Sequence[bytes]) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, as for Hyperscan
    options.dot_nl = True
    options.max_mem = RE2_MAX_MEMORY_BYTES
    options.log_errors = False
    compiled = re2.Set.SearchSet(options)
    for pattern in (b"", *patterns):
        compiled.Add(pattern)
    compiled.Compile()
    return compiled
