"""Both engines: the same verdicts, and no failure that looks like "no match"."""

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.documents.loader import load_file
from ext_authz.errors import Reason, Undecided
from ext_authz.injection import RULES_PATH, engine
from ext_authz.injection.engine import MAX_PATTERNS_PER_SET, HyperscanEngine, Re2Engine, compile_engine
from ext_authz.injection.normalise import normalise
from ext_authz.injection.rules import compile_rules

PACK = load_file(RULES_PATH, InjectionRules)
PATTERNS = [rule.pattern for rule in compile_rules(PACK)]
EXAMPLES = [text for rule in PACK.rules for text in (*rule.examples.match, *rule.examples.no_match)]
HYPERSCAN = HyperscanEngine(PATTERNS)
RE2 = Re2Engine(PATTERNS)
# Texts made of the words of the examples: near the rules, where engines could differ.
NEAR_TEXT = st.lists(st.sampled_from(sorted({word for text in EXAMPLES for word in text.split()})), max_size=30).map(
    " ".join
)
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("text", EXAMPLES)
def test_engines_agree_on_examples(text: str) -> None:
    """Hyperscan and RE2 find the same rules in every example."""
    assert RE2.match(normalise(text)) == HYPERSCAN.match(normalise(text))


@given(NEAR_TEXT | ANY_TEXT | st.tuples(NEAR_TEXT, ANY_TEXT).map("".join))
def test_engines_agree(text: str) -> None:
    """Hyperscan and RE2 find the same rules in any text."""
    assert RE2.match(normalise(text)) == HYPERSCAN.match(normalise(text))


@given(st.binary())
def test_engines_agree_on_bytes(data: bytes) -> None:
    """No bytes are invalid to either engine, UTF-8 or not."""
    assert RE2.match(data) == HYPERSCAN.match(data)


@pytest.mark.parametrize("compile_patterns", [HyperscanEngine, Re2Engine])
def test_indices(compile_patterns: type[HyperscanEngine | Re2Engine]) -> None:
    """Each pattern that occurs is told once, in ascending order, also beyond one RE2 set."""
    patterns = [f"<{number}>".encode() for number in range(3 * MAX_PATTERNS_PER_SET)]
    wanted = [0, 30, 31, 32, 62, 63, 95]
    text = b"".join(patterns[index] for index in reversed(wanted)) * 2
    assert wanted == compile_patterns(patterns).match(text)
    assert [] == compile_patterns(patterns).match(b"")


@pytest.mark.parametrize("compile_patterns", [HyperscanEngine, Re2Engine])
def test_dot_is_any_byte(compile_patterns: type[HyperscanEngine | Re2Engine]) -> None:
    """A dot is one byte of any value, line ends included, so that counts mean the same to both."""
    compiled = compile_patterns([b"a.b", b"a..b"])
    assert [0] == compiled.match(b"a\nb")
    assert [1] == compiled.match("aéb".encode())


def test_choice_of_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hyperscan is used where it is installed, RE2 elsewhere."""
    assert isinstance(compile_engine([b"a"]), HyperscanEngine)
    monkeypatch.setattr(engine, "hyperscan", None)
    assert isinstance(compile_engine([b"a"]), Re2Engine)


def test_re2_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """RE2 without memory is "could not decide", never "nothing found"."""

    class Exhausted:
        def Match(self, text: bytes) -> None:  # noqa: N802 - RE2's name
            """Answer as RE2 does when its memory ran out."""

    monkeypatch.setattr(engine, "_re2_set", lambda _patterns: Exhausted())
    with pytest.raises(Undecided) as failed:
        Re2Engine([b"a"]).match(b"a")
    assert Reason.INTERNAL_ERROR is failed.value.reason


def test_threads() -> None:
    """Threads that scan at the same time get the verdicts that one thread gets."""
    wanted = [HYPERSCAN.match(normalise(text)) for text in EXAMPLES]
    verdicts: list[list[list[int]]] = []

    def scan() -> None:
        verdicts.append([HYPERSCAN.match(normalise(text)) for text in EXAMPLES])

    threads = [Thread(target=scan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [wanted] * 4 == verdicts
