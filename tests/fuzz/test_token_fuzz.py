"""Random damage to good chains, a million times: nothing but refusals comes of it.

`make fuzz` runs it and `make test` does not. FUZZ_INPUTS sets how many inputs the decoder gets, the verifier gets a tenth;
FUZZ_SEED repeats a run.
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.delegations import CRM, RETRIEVER, Showing, shown_by_crm, shown_by_retriever, world

from ext_authz.errors import Refusal
from ext_authz.tokens.chain import LinkCache
from ext_authz.tokens.claims import ClaimError, Claims
from ext_authz.tokens.jws import decode_base64url, decode_link, encode_base64url, split_chain

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1_000_000"))
SEED = int(os.environ.get("FUZZ_SEED", time.time_ns()))

# Of the tests' clock: none of it is a secret.
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STRANGE = "=+/*.~,;% \t\r\n\0\x7f\x80\u00e9\u0130\u0430\u200b\ufeff\uff0e\ud800\U0001f600"
SNIPPETS = (
    *("e30", "bnVsbA", "W10", "~", ".", "..", "AAAA", "eyJhbGciOiJub25lIn0", "Bearer ", "A" * 500),
    *(
        '"',
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\\",
        "\\u0000",
        "\\ud800",
        "null",
        "true",
        "1e9",
        "NaN",
        "-",
        "9" * 30,
        "0.0",
    ),
    *('"iss":', '"scope":', '"exp":', '"act":{', '"x":[[[[', "spiffe://agents.example.com/evil", "*"),
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3000),
    # What the library says about certificates with odd serial numbers and the like.
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]


class Mutator:
    """Makes damaged texts out of good ones."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  (a run must be repeatable)
        self._ways: tuple[Callable[[str], str], ...] = (
            *(self._other_letter, self._strange_letter, self._left_out, self._repeated, self._inserted),
            *(self._inside, self._inside, self._inside, self._shuffled, self._anything),
        )

    def pick(self, corpus: list[Showing]) -> Showing:
        """Return any of the good chains."""
        return self._chance.choice(corpus)

    def damaged(self, text: str) -> str:
        """Return a text with one to three kinds of damage."""
        for _ in range(self._chance.choice((1, 1, 1, 2, 3))):
            text = self._chance.choice(self._ways)(text)
        return text

    def _place(self, text: str) -> int:
        return self._chance.randrange(len(text) + 1)

    def _other_letter(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + self._chance.choice(ALPHABET) + text[place + 1 :]

    def _strange_letter(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + self._chance.choice(STRANGE) + text[place + self._chance.randrange(2) :]

    def _left_out(self, text: str) -> str:
        first, last = sorted((self._place(text), self._place(text)))
        return text[:first] + text[last:]

    def _repeated(self, text: str) -> str:
        first, last = sorted((self._place(text), self._place(text)))
        return text[:last] + text[first:]

    def _inserted(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + self._chance.choice(SNIPPETS) + text[place:]

    def _shuffled(self, text: str) -> str:
        """Change the order of links or of segments."""
        separator = self._chance.choice("~.")
        parts = text.split(separator)
        self._chance.shuffle(parts)
        return separator.join(parts[: self._chance.randrange(len(parts) + 1)])

    def _inside(self, text: str) -> str:
        """Damage what a segment encodes, and encode it again."""
        links = [link.split(".") for link in text.split("~")]
        segments = self._chance.choice(links)
        index = self._chance.randrange(len(segments))
        try:
            content = decode_base64url(segments[index])
            words = content.decode("latin-1")
            words = self._chance.choice((self._inserted, self._left_out, self._repeated, self._bit_flipped))(words)
            segments[index] = encode_base64url(words.encode("latin-1"))
        except ValueError:
            return text
        return "~".join(map(".".join, links))

    def _bit_flipped(self, words: str) -> str:
        if not words:
            return words
        place = self._chance.randrange(len(words))
        return words[:place] + chr(ord(words[place]) ^ 1 << self._chance.randrange(8)) + words[place + 1 :]

    def _anything(self, text: str) -> str:
        """Forget the text: three segments of anything."""
        del text
        values: tuple[object, ...] = (
            None,
            {},
            [],
            1,
            "a",
            {"alg": "none"},
            {"iss": "a", "sub": None},
            {"x": {"y": [[1]]}},
        )
        objects = [encode_base64url(json.dumps(self._chance.choice(values)).encode()) for _ in range(2)]
        return ".".join([*objects, encode_base64url(self._chance.randbytes(self._chance.randrange(70)))])


def corpus() -> list[Showing]:
    """Return good chains of every form."""
    w = world()
    thumbprint = w.svids[RETRIEVER].with_presented_svid(w.certificates[RETRIEVER], w.private_keys[RETRIEVER])
    return [
        Showing(w.root()),
        Showing(w.passed_on(w.grant(), w.planner_root, CRM), destination=CRM),
        shown_by_retriever(w.two_links()),
        shown_by_retriever(w.passed_on(w.root(), thumbprint, CRM), certificate=w.certificates[RETRIEVER]),
        shown_by_crm(w.three_links()),
        shown_by_crm(w.checkpoint(w.two_links())),
    ]


def test_decoder() -> None:
    """The decoder refuses or decodes; nothing else ever comes out of it."""
    mutator, good = Mutator(SEED), corpus()
    decoded = 0
    for _ in range(INPUTS):
        text = mutator.damaged(mutator.pick(good).chain)
        try:
            for index, link in enumerate(split_chain(text)):
                Claims.parse(decode_link(link, index).claims)
            decoded += 1
        except (Refusal, ClaimError):
            pass
        except Exception as error:
            raise AssertionError(f"FUZZ_SEED={SEED}: {text!r}") from error
    assert decoded, "the damage is so great that nothing is ever decoded"


def test_verifier() -> None:
    """The verifier refuses whatever is not a good chain."""
    mutator, good, cache = Mutator(SEED + 1), corpus(), LinkCache()
    untouched = {showing.chain for showing in good}
    for showing in good:
        assert showing.verified(cache)
    for _ in range(INPUTS // 10):
        showing = mutator.pick(good)
        text = mutator.damaged(showing.chain)
        try:
            replace(showing, chain=text).verified(cache)
        except Refusal:
            continue
        except Exception as error:
            raise AssertionError(f"FUZZ_SEED={SEED}: {text!r}") from error
        assert text in untouched, f"FUZZ_SEED={SEED}: let through: {text!r}"
