import sys

import pytest

from ext_authz.injection import verdicts
from ext_authz.injection.rules import Rule
from ext_authz.injection.verdicts import MAX_BYTES, MAX_TEXT_BYTES, MAX_TEXTS, VerdictCache

VERDICT = (Rule("test.rule", 0.5, b"x"),)


def entries(cache: VerdictCache) -> int:
    return len(cache._young) + len(cache._old)


def test_remembers() -> None:
    """A verdict is remembered, the empty one too; a text that was never seen has none."""
    cache = VerdictCache()
    cache.put("clean", ())
    cache.put("hostile", VERDICT)
    assert ((), VERDICT, None) == (cache.get("clean"), cache.get("hostile"), cache.get("other"))


def test_count_is_bounded() -> None:
    """A flood of texts leaves at most two generations of entries, the newest among them."""
    cache = VerdictCache()
    for number in range(5 * MAX_TEXTS):
        cache.put(str(number), ())
    assert 2 * MAX_TEXTS >= entries(cache)
    assert () == cache.get(str(5 * MAX_TEXTS - 1))
    assert cache.get("0") is None


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a generation together stay under the limit in bytes."""
    monkeypatch.setattr(verdicts, "MAX_BYTES", 10 * sys.getsizeof("000"))
    cache = VerdictCache()
    for number in range(100, 200):
        cache.put(str(number), ())
        assert 10 >= len(cache._young)
    assert 20 == entries(cache)


def test_long_texts_are_not_kept() -> None:
    """A long text would push out many short ones."""
    cache = VerdictCache()
    cache.put("x" * MAX_TEXT_BYTES, ())
    assert 0 == entries(cache)
    assert MAX_TEXT_BYTES <= MAX_BYTES


def test_used_entries_survive() -> None:
    """A text that comes again moves to the younger generation; one that does not is forgotten."""
    cache = VerdictCache()
    cache.put("used", ())
    cache.put("unused", ())
    for number in range(3 * MAX_TEXTS):
        cache.put(str(number), ())
        cache.get("used")
    assert () == cache.get("used")
    assert cache.get("unused") is None
