"""Write the JSON Schemas in ext_authz/schemas anew: `make schema`. Their sentences are those of policy-reference.md."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ext_authz.documents.schema import FOLDER, file_name, schemas

REFERENCE = Path(__file__).parent / "policy-reference.md"

# A table of keys: a heading that begins with "key", and rows that begin with keys in backticks and end with a meaning.
_TABLE = re.compile(r"^\| key[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", re.MULTILINE)
_CELL = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def _tables() -> Iterator[dict[str, str]]:
    for table in _TABLE.finditer(REFERENCE.read_text("utf-8")):
        rows: dict[str, str] = {}
        for line in table[1].splitlines():
            keys, *_, meaning = (cell.strip() for cell in _CELL.split(line)[1:-1])
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", keys), _LINK.sub(r"\1", meaning).replace("\\|", "|"))
        yield rows


TABLES = list(_tables())
COMMON = next(table for table in TABLES if "kind" in table)


def describe(keys: frozenset[str]) -> Mapping[str, str]:
    """Return the sentences of the table that has most of these keys, and of the keys of every document."""
    own = keys - COMMON.keys()
    best = max(TABLES, key=lambda table: (len(own & table.keys()), -len(table)))
    return COMMON | best if own & best.keys() else {}


def rendered() -> dict[str, str]:
    """Return the text of each schema by the name of its file."""
    return {file_name(name): json.dumps(schema, indent=2) + "\n" for name, schema in schemas(describe).items()}


def main() -> None:
    """Write every schema into its file."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
