"""Any text to the one spelling that rules are written for: what a reader would see, in lower case.

1. Each character is folded on its own, by one table, so time is linear and nothing can be raised. Form KC of a whole
   text is not used: it sorts runs of combining marks, which takes quadratic time on hostile ones.
2. Patterns are folded with the same table. That is why look-alikes and accents may be folded everywhere, without asking
   which language or script a word is in: honest Russian and the Russian rule change alike.
3. The text only ever loses what cannot be seen; no visible character is dropped.
"""

import unicodedata

from ext_authz.injection.confusables import LOOK_ALIKES

# Marks that combine with letters of any script. Marks that are letters of their own script (Indic vowels) stay.
_COMBINING = (
    range(0x0300, 0x0370),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE20, 0xFE30),
    range(0x0483, 0x048A),  # Cyrillic titlo and thousands, loved by "zalgo" text
    range(0x3099, 0x309B),  # Japanese voicing: a decomposed syllable and a composed one fold alike
)
_MARKS = dict.fromkeys(mark for block in _COMBINING for mark in block)
# What is invisible without being in category C (control, format, surrogate, private, unassigned): fillers, selectors.
_INVISIBLE = frozenset("\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\ufffc\ufffd") | frozenset(
    chr(selector) for block in (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0)) for selector in block
)
# Tag characters spell ASCII that no screen shows and every model reads.
_TAGS = range(0xE0020, 0xE007F)
_TAG_OFFSET = 0xE0000
_BLANK = "\u2800"  # a Braille cell without dots: the blank that is no space to Unicode
# Categories that a caller could fill memory with: a million code points for private use, unassigned, or surrogates.
_NOT_REMEMBERED = frozenset({"Co", "Cn", "Cs"})

_SPACES = b"\t\n\v\f\r\x1c\x1d\x1e\x1f"
_ASCII_CONTROLS = bytes(byte for byte in (*range(0x20), 0x7F) if byte not in _SPACES)
_ASCII_FOLD = bytes.maketrans(_SPACES, b" " * len(_SPACES)).translate(bytes(range(256)).lower())


class _Folds(dict[int, str]):
    """Folded characters, each computed once: at most one entry for every assigned character (150,000, some 20 MB)."""

    def __missing__(self, code_point: int) -> str:
        character = chr(code_point)
        folded = _fold(character)
        if unicodedata.category(character) not in _NOT_REMEMBERED:
            self[code_point] = folded
        return folded


_FOLDS = _Folds()


def normalise(text: str) -> bytes:
    """Return the text as patterns expect it, in UTF-8: folded, lower case, one space between words.

    Takes any str, lone surrogates and control characters included.
    """
    data = text.encode("ascii") if text.isascii() else fold_characters(text).encode()
    data = data.translate(_ASCII_FOLD, _ASCII_CONTROLS)
    return b" ".join(data.split()) if b"  " in data else data


def fold_characters(text: str) -> str:
    """Return the text with each character folded; spaces stay as they are."""
    return text.translate(_FOLDS)


def _fold(character: str) -> str:
    code_point = ord(character)
    category = unicodedata.category(character)
    if code_point in _TAGS:
        return chr(code_point - _TAG_OFFSET)
    if character.isspace() or character == _BLANK:
        return " "
    if category[0] == "C" or character in _INVISIBLE:
        return ""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return unicodedata.normalize("NFKC", decomposed.translate(_MARKS)).translate(LOOK_ALIKES)
