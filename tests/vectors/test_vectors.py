"""Every wire vector in tests/vectors/data, and in the directory that TEST_VECTORS names."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vectors.envoys import Envoys, judge_answer, running_envoys
from vectors.runner import FORMAT, OTHER_RUNNERS, Vector, expected_result, judge, read_file

DATA = Path(__file__).with_name("data")
VARIABLE = "TEST_VECTORS"

_VERSION_DEPENDENT = re.compile(r"\bversion", re.IGNORECASE)
_ON_THE_ENVOY = "check_response"


def _files() -> Iterator[Path]:
    yield from sorted(DATA.glob("*.json"))
    if directory := os.environ.get(VARIABLE):
        if not Path(directory).is_dir():
            raise NotADirectoryError(f"{VARIABLE} names no directory: `{directory}`")
        yield from sorted(Path(directory).glob("*.json"))


def _cases() -> tuple[list[Any], list[Any]]:
    """Return the vectors, those for Envoy apart. One that stands in two files alike is run once."""
    found: dict[str, Vector] = {}
    here: list[Any] = []
    on_the_envoy: list[Any] = []
    for path in _files():
        format_name, vectors = read_file(path)
        if format_name not in {FORMAT, *OTHER_RUNNERS}:
            here.append(pytest.param(path, id=path.name))
        for vector in vectors:
            known = found.setdefault(vector.id, vector)
            if known is not vector and known.content == vector.content:
                continue
            name = vector.id if known is vector else f"{vector.id} of {path.name}"
            (on_the_envoy if vector.kind == _ON_THE_ENVOY else here).append(pytest.param(vector, id=name))
    return here, on_the_envoy


HERE, ON_THE_ENVOY = _cases()


@pytest.mark.parametrize("vector", HERE)
def test_vector(vector: Vector | Path) -> None:
    """The verdict on a SPIFFE ID, an XFCC header or a request is the vector's, and so is every fact that it names."""
    if isinstance(vector, Path):
        pytest.fail(f"{vector} has a format that nobody knows")
    if vector.content.get("input", "") is None and "recipe" in vector.content:
        pytest.skip(f"the input is a recipe in words: {vector.content['recipe']}")
    verdict = judge(vector)
    print(f"{vector.content.get('name')}: expected {vector.content['expect']}, got {verdict.reason or 'ok'}")  # noqa: T201
    assert vector.content["expect"]["ok"] is verdict.ok, verdict.reason
    expected = expected_result(vector) if verdict.ok else {}
    assert expected == {key: verdict.result[key] for key in expected}


@pytest.mark.parametrize("vector", ON_THE_ENVOY)
def test_answer(vector: Vector, envoys: Envoys) -> None:
    """The real Envoy does with an answer what the vector says."""
    expect = vector.content["expect"]
    words = f"{expect} {vector.content.get('name', '')} {vector.content.get('note', '')}"
    if _VERSION_DEPENDENT.search(words):
        pytest.skip(f"depends on Envoy's version: {words}")
    seen = envoys.seen(vector)
    print(f"{vector.content.get('name')}: expected {expect['envoy']}, saw {seen}")  # noqa: T201
    problems, not_compared = judge_answer(expect["envoy"], seen)
    assert [] == problems
    not_compared += sorted(expect.keys() - {"envoy", "reason", "note"})
    if not_compared:
        pytest.skip(f"the verdict holds; not compared: {', '.join(not_compared)}")


@pytest.fixture(scope="module")
def envoys() -> Iterator[Envoys]:
    """Every Envoy that the vectors need; each is started when its first vector comes."""
    with running_envoys() as running:
        yield running
