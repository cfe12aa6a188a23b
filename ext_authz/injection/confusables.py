"""Letters that look like Latin ones: what a reader takes for `a` becomes `a`.

1. Only letters stand here that casefolding and normalisation form KD leave alone; those fold first.
2. The map is applied to patterns too, so real Russian or Greek still meets the rules written in it.
3. An ambiguous shape gets one letter; which one matters little, as both sides get the same.
"""
# ruff: noqa: RUF001 - look-alikes are the subject of this file

# Per letter: Cyrillic (small capitals too: тм is how attackers write tm), Greek, Armenian, Cherokee, then Latin letters
# that are dotless, script, small capital or stroked. The idea: Unicode Technical Standard 39, confusables.txt.
_LATIN = {
    "a": "аαɑᴀᎪ",
    "b": "вβᏴʙɓƀ",
    "c": "сϲᏟᴄƈ",
    "d": "ԁᎠᴅđɖɗ",
    "e": "еεҽᎬᴇǝɇ",
    "f": "ꜰƒ",
    "g": "ԍցᏀɡɢɠǥ",
    "h": "нһհᎻʜħɦ",
    "i": "іιᎥıɩɪɨ",
    "j": "јϳյᎫᴊɉ",
    "k": "кκᏦᴋƙ",
    "l": "ӏᏞʟłɫɬ",
    "m": "мᎷᴍɱ",
    "n": "ηոռɴŋɲ",
    "o": "оοօᴏøɵ",
    "p": "рρᏢᴘƥ",
    "q": "ԛզꞯɋ",
    "r": "гᎡʀɍɼ",
    "s": "ѕᏚꜱʂ",
    "t": "тτᎢᴛŧʈ",
    "u": "υսᴜʉ",
    "v": "ѵνᏙᴠʋ",
    "w": "ԝωᎳᴡ",
    "x": "хχ",
    "y": "уүγᎩʏɏ",
    "z": "Ꮓᴢƶʐȥ",
}
# Typographic quotes and dashes, so that a rule needs one kind of each.
_PUNCTUATION = {"'": "‘’‛ʼ´", '"': "“”„‟", "-": "‐‑‒–—―−"}
# Negative circled, negative squared and regional indicator letters run from A to Z, and form KD leaves them alone.
_ENCLOSED_ALPHABETS = (0x1F150, 0x1F170, 0x1F1E6)


LOOK_ALIKES = {ord(other): plain for plain, others in (_LATIN | _PUNCTUATION).items() for other in others} | {
    first + index: letter for first in _ENCLOSED_ALPHABETS for index, letter in enumerate(_LATIN)
}
