"""JSON Schemas (draft 2020-12) of policy documents, for editors: what `documents/models.py` accepts, no more and no less.

1. A schema says which shape a document has; what names mean is known to `ext-authz policy validate` only.
2. The sentences that editors show are those of docs/policy-reference.md. Schemas are made from both when the package is
   developed (`make schema`) and packaged as files.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from ext_authz.documents.models import POLICY_KINDS

FOLDER = Path(__file__).parents[1] / "schemas"
# The schema of a document of any kind: what a file of a policy directory holds, one or more.
ANY_KIND = "policy"
DRAFT = "https://json-schema.org/draft/2020-12/schema"

# From the keys of a mapping to what each of them means.
Describe = Callable[[frozenset[str]], Mapping[str, str]]


def packaged_schemas() -> Mapping[str, str]:
    """Return the text of every packaged schema by name: `policy`, and one for each kind."""
    paths = (FOLDER / file_name(name) for name in (ANY_KIND, *sorted(POLICY_KINDS)))
    return {path.name.partition(".")[0]: path.read_text("utf-8") for path in paths}


def file_name(name: str) -> str:
    """Return the file of a schema."""
    return f"{name}.schema.json"


def schemas(describe: Describe) -> dict[str, dict[str, Any]]:
    """Make every schema by name."""
    _, definitions = models_json_schema([(model, "validation") for model in POLICY_KINDS.values()])
    kinds = [{"$ref": f"#/$defs/{model.__name__}"} for model in POLICY_KINDS.values()]
    made = {ANY_KIND: definitions | {"oneOf": kinds}}
    made |= {kind: model.model_json_schema() for kind, model in POLICY_KINDS.items()}
    for name, schema in made.items():
        title = "A policy document" if name == ANY_KIND else name
        for part in (schema, *schema.get("$defs", {}).values()):
            _complete(part, describe)
        schema |= {"$schema": DRAFT, "title": title}
    return made


def _complete(part: dict[str, Any], describe: Describe) -> None:
    """Describe the keys of one mapping, and close what pydantic leaves open."""
    properties = part.get("properties", {})
    sentences = describe(frozenset(properties))
    for key, value in properties.items():
        value.pop("title", None)  # the key once more
        if key in sentences:
            value["description"] = sentences[key]
    for inner in _mappings(part):
        if "patternProperties" in inner:
            inner["additionalProperties"] = False


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)
