"""Verdicts by text: a chat sends its history with every call, and what was screened once need not be screened again.

1. Two generations: what fills the younger one makes it the older one, and the old one is forgotten. A caller who
   floods the cache costs others their entries, never memory or time.
2. An entry is a fact about a text, so threads that race can lose an entry but cannot make a wrong one.
"""

import sys

from ext_authz.injection.rules import Rule

Verdict = tuple[Rule, ...]  # the rules that match a text

# Entries and bytes of one generation; there are two. 8 MiB hold the histories of some 500 chats of 16 kB.
MAX_TEXTS = 8_192
MAX_BYTES = 8 * 1024 * 1024
# Bytes of one text. A longer one is screened each time: at 8 microseconds a kB that is cheap beside what it costs to send.
MAX_TEXT_BYTES = 32 * 1024


class VerdictCache:
    """A map from text to verdict with bounded count and bytes."""

    def __init__(self) -> None:
        self._young: dict[str, Verdict] = {}
        self._old: dict[str, Verdict] = {}
        self._young_bytes = 0

    def get(self, text: str) -> Verdict | None:
        """Return the verdict of a text that was seen lately, else None."""
        verdict = self._young.get(text)
        if verdict is None:
            verdict = self._old.get(text)
            if verdict is not None:
                self.put(text, verdict)
        return verdict

    def put(self, text: str, verdict: Verdict) -> None:
        """Remember a verdict, unless the text is too long."""
        size = sys.getsizeof(text)
        if size > MAX_TEXT_BYTES:
            return
        if len(self._young) >= MAX_TEXTS or self._young_bytes + size > MAX_BYTES:
            self._young, self._old = {}, self._young
            self._young_bytes = 0
        self._young[text] = verdict
        self._young_bytes += size
