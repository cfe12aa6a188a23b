"""The CheckRequests that are measured: what Envoy sends for an agent's call, built by the tests' own builder."""

import json
from collections.abc import Iterator
from itertools import count

from support.check_requests import QUESTION, Question

BODY_BYTES = 4096

_TEXT = (
    "the quarterly report shows that revenue in the north grew faster than planned while costs stayed flat "
    "because two suppliers agreed to longer terms and the new warehouse opened a month early"
)
_WORDS = _TEXT.split()


def _chat(seed: int) -> bytes:
    """Return a chat of about BODY_BYTES in a dozen messages; another seed gives other texts."""
    messages = []
    for turn in count():
        text = " ".join(_WORDS[(turn * 7 + seed + index) % len(_WORDS)] for index in range(48))
        messages.append({"role": ("user", "assistant")[turn % 2], "content": f"{seed} {turn} {text}"})
        body = json.dumps({"model": "m", "messages": messages}).encode()
        if len(body) >= BODY_BYTES:
            return body
    raise AssertionError


ALLOW = QUESTION.serialized()
ALLOW_WITHOUT_BODY = Question(method="GET", path="/v1/search", body=b"", partial=None).serialized()
DENY = QUESTION.but(caller=QUESTION.target, target=QUESTION.caller).serialized()
ALLOW_4K_SEEN = QUESTION.but(body=_chat(0)).serialized()


def new_bodies() -> Iterator[bytes]:
    """Yield requests whose 4 kB bodies hold texts that were never seen before."""
    for seed in count(1):
        yield QUESTION.but(body=_chat(seed)).serialized()
