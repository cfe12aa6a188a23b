"""The JSON Schemas of policy documents: up to date, and of one mind with the models."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from support.authorizers import DEFAULT_POLICY

from docs.render_schemas import rendered
from ext_authz.documents.models import POLICY_KINDS
from ext_authz.documents.reader import YamlError, read_documents
from ext_authz.documents.schema import ANY_KIND, packaged_schemas

ROOT = Path(__file__).parents[3]
REFERENCE = (ROOT / "docs" / "policy-reference.md").read_text("utf-8")
GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = {name: json.loads(text) for name, text in packaged_schemas().items()}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def test_schemas_are_up_to_date() -> None:
    """What is packaged is what the models and the policy reference say now: `make schema` writes it."""
    folder = ROOT / "ext_authz" / "schemas"
    assert rendered() == {path.name: path.read_text("utf-8") for path in folder.iterdir()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_one(name: str) -> None:
    """Each schema follows the draft that it names."""
    Draft202012Validator.check_schema(SCHEMAS[name])


def _undescribed(name: str) -> Iterator[str]:
    schema = SCHEMAS[name]
    for part in (schema, *schema.get("$defs", {}).values()):
        for key, value in part.get("properties", {}).items():
            if not value.get("description"):
                yield f"{part.get('title')}.{key}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_described(name: str) -> None:
    """An editor that shows a key can say what it means."""
    assert [] == list(_undescribed(name))


def documents(text: str) -> list[Any]:
    """Return the values of the documents of a YAML text, none where it cannot be read."""
    try:
        return [document.value for document in read_documents(text)]
    except YamlError:
        return []


def blocks(kind: str) -> list[Any]:
    """Return the documents of the reference's examples of a kind: `policy` or `wrong`."""
    found = re.findall(rf"^```yaml {kind}\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
    return [document for text in found for document in documents(text)]


GOOD = blocks("policy") + [
    document for path in sorted(DEFAULT_POLICY.glob("*.yaml")) for document in documents(path.read_text("utf-8"))
]
DOUBTFUL = blocks("wrong") + [
    document for path in sorted(GOLDEN.glob("*.yaml")) for document in documents(path.read_text("utf-8"))
]


def is_valid(document: Any) -> bool:
    """Tell whether the schema of every kind accepts a document; that of its own kind says the same."""
    valid = VALIDATORS[ANY_KIND].is_valid(document)
    kind = document.get("kind") if isinstance(document, dict) else None
    if isinstance(kind, str) and kind in POLICY_KINDS:
        assert valid == VALIDATORS[kind].is_valid(document)
    return valid


def is_accepted(document: Any) -> bool:
    """Tell whether the loader's model accepts a document."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in POLICY_KINDS:
        return False
    try:
        POLICY_KINDS[kind].model_validate(document)
    except ValidationError:
        return False
    return True


def _ids(given_documents: list[Any]) -> list[str]:
    return [f"{number}-{document.get('kind')}" for number, document in enumerate(given_documents)]


@pytest.mark.parametrize("document", GOOD, ids=_ids(GOOD))
def test_examples_are_valid(document: Any) -> None:
    """Every document of the reference's policies, and of the default policy, is valid."""
    assert [] == [error.message for error in VALIDATORS[ANY_KIND].iter_errors(document)]
    assert is_valid(document)


@pytest.mark.parametrize("document", DOUBTFUL, ids=[str(number) for number in range(len(DOUBTFUL))])
def test_wrong_examples_are_invalid(document: Any) -> None:
    """A document that has the wrong shape to the loader has it to the schema, and no other document has."""
    assert is_accepted(document) == is_valid(document)


def test_there_are_wrong_examples() -> None:
    """Enough of the wrong documents are wrong in their shape for the test above to mean something."""
    assert sum(not is_accepted(document) for document in DOUBTFUL) >= 8


# Values that stand where others should; no text ends in a line break, which Python's patterns let pass.
odd = st.sampled_from(
    [None, True, False, 0, 1, 7, -1, 0.5, "", "*", "a", "x" * 65, "read", "Read", "GET /", "30m", [], [1], ["read"], {}, {"a": 1}]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """Change, remove or add something at one place of a good document."""
    document = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    node: Any = document
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        change = draw(st.sampled_from(["deeper", "replace", "remove", "add"]))
        if change == "add" or not keys:
            if isinstance(node, dict):
                node[draw(st.sampled_from(["extra", "actions", "scopes", "asserted", "Bad Key"]))] = draw(odd)
            else:
                node.append(draw(odd))
            return document
        key = draw(st.sampled_from(keys))
        if change == "deeper" and isinstance(node[key], dict | list):
            node = node[key]
        elif change == "remove":
            del node[key]
            return document
        else:
            node[key] = draw(odd)
            return document


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_schema_and_model_agree(document: Any) -> None:
    """Whatever is changed in a good document, the editor and the loader are of one mind about its shape."""
    assume(document.get("version") is not True)  # equals 1 to Python, and to nobody else
    assert is_accepted(document) == is_valid(document)
