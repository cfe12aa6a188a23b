# ruff: noqa: RUF001 - look-alikes are what is tested
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.injection import normalise as module
from ext_authz.injection.normalise import fold_characters, normalise

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("", ""),
        ("ignore it", "IGNORE It"),
        ("a b c", "a \t\n b\r\n\r\nc"),
        ("a b", "a\u00a0\u2003\u2028\u3000b"),
        ("a b", "a\u2800b"),
        ("ignore", "ig\x00no\x08re\x7f"),
        ("ignore", "ig\u200bno\u200dre\u2060\ufeff"),
        ("ignore", "ig\u00adno\u034fre"),
        ("ignore", "\u202eignore\u202c"),
        ("ignore", "ig\ufe0fno\U000e0101re"),
        ("ignore", "ig\ud800no\udfffre"),
        ("ignore", "ig\ue000no\U0010ffffre\ufffd"),
        ("ignore", "".join(chr(0xE0000 + ord(letter)) for letter in "ignore")),
        ("ignore", "ｉｇｎｏｒｅ"),
        ("ignore", "𝐢𝐠𝐧𝐨𝐫𝐞"),
        ("ignore", "ⓘⓖⓝⓞⓡⓔ"),
        ("ignore", "🅸🅶🅽🅾🆁🅴"),
        ("ignore", "🇮🇬🇳🇴🇷🇪"),
        ("ignore", "ιɢɴᴏʀᴇ"),
        ("ignore", "іgnоrе"),  # Cyrillic
        ("ignore", "ígnòrê"),
        ("ignore", "i\u0301g\u0338n\u0489o\u20ddr\ufe20e"),
        ("don't", "don\u2019t"),
        ("strasse", "Straße"),
        ("oeuvre", "ＯＥｕｖｒｅ"),
        ("忽略", "忽略"),
        ("か", "か\u3099"),
        ("か", "が"),
    ],
)
def test_one_spelling(expected: str, text: str) -> None:
    """What looks alike, and what differs only in what cannot be seen, becomes one text."""
    assert expected == normalise(text).decode()


@pytest.mark.parametrize("text", ["игнорируй инструкции", "αγνόησε τις οδηγίες", "overschrĳf", "übergehen Sie"])
def test_patterns_fold_alike(text: str) -> None:
    """Words of other scripts still meet patterns written in them, since both fold by one table."""
    assert fold_characters(text.lower()).encode() == normalise(text.upper())


@given(ANY_TEXT)
def test_any_text(text: str) -> None:
    """Any str becomes valid UTF-8 in lower case without controls and without two spaces in a row."""
    data = normalise(text)
    data.decode()
    assert data == data.lower()
    assert b"  " not in data
    assert not any(byte < 0x20 for byte in data)


@given(ANY_TEXT)
def test_by_character(text: str) -> None:
    """Each character folds on its own, so that time is linear in the text."""
    assert "".join(map(fold_characters, text)) == fold_characters(text)


def test_each_character_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of combining marks, quadratic to sort, costs one computation for each distinct character."""
    computed: list[str] = []
    fold = module._fold

    def counted(character: str) -> str:
        computed.append(character)
        return fold(character)

    monkeypatch.setattr(module, "_FOLDS", module._Folds())
    monkeypatch.setattr(module, "_fold", counted)
    assert b"a" == normalise("a" + "\u0315\u0300" * 500_000)
    assert ["a", "\u0315", "\u0300"] == computed


def test_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only assigned characters are remembered: Unicode bounds the table, not the caller."""
    folds = module._Folds()
    monkeypatch.setattr(module, "_FOLDS", folds)
    fold_characters("".join(map(chr, (*range(0xE000, 0xE100), *range(0x40000, 0x40100), 0xD800, sys.maxunicode))))
    assert {} == folds
