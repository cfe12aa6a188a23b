"""The documents say what the code does: links, reason codes, settings, policy keys, examples and commands."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel
from typer.main import get_command

from ext_authz.cli.main import app
from ext_authz.documents import models
from ext_authz.documents.models import Model
from ext_authz.errors import MEANINGS, PolicyError
from ext_authz.local.ca import DevelopmentCa
from ext_authz.policy.compile import load
from ext_authz.settings import Settings
from ext_authz.tokens.jws import encode_base64url

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REASONS = ROOT / "docs" / "reasons.md"
OPERATIONS = ROOT / "docs" / "operations.md"
POLICY_REFERENCE = ROOT / "docs" / "policy-reference.md"
MCP_AND_A2A = ROOT / "docs" / "mcp-and-a2a.md"

_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```yaml policy\n(.*?)^```", re.MULTILINE | re.DOTALL)
_WRONG_BLOCK = re.compile(r"^```yaml wrong\n(.*?)^```\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`(?:``)?([^`]+)`")
_COMMAND = re.compile(r"\bext-authz ((?:[a-z]+(?:-[a-z]+)* ?)+)")
_TEST_PATH = re.compile(r"`(tests/[^`\s]*)`")


def _documents() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            yield from folder.rglob("*.md")


DOCUMENTS = sorted(_documents())


def name_of(path: Path) -> str:
    """Name a document in a test's id."""
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    """Read a document once."""
    return path.read_text("utf-8")


def rows_of(path: Path, heading: str = "") -> dict[str, list[str]]:
    """Return the cells of table rows that begin with names in backticks, by name; of one section, if a heading is given."""
    return dict(every_row_of(path, heading))


def every_row_of(path: Path, heading: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the same rows, also where several tables have a name."""
    section = text_of(path).partition(f"\n## {heading}\n")[2].partition("\n## ")[0] if heading else text_of(path)
    for line in section.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            yield from ((name, cells) for name in re.findall(r"`([^`]+)`", cells[0]))


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", text_of(path)))
    return {"#" + re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(document: Path) -> None:
    """Each link to a file leads to one, and each anchor to a heading."""
    broken = []
    for target, anchor in _LINK.findall(_FENCE.sub("", text_of(document))):
        if ":" in target:
            continue
        path = (document.parent / target).resolve() if target else document
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target + anchor)
    assert [] == broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_tests_exist(document: Path) -> None:
    """Each test file and folder that a document names is there."""
    assert [] == [path for path in _TEST_PATH.findall(text_of(document)) if not (ROOT / path).exists()]


def test_reasons_are_those_of_the_code() -> None:
    """The table of reason codes has the codes, outcomes and statuses of errors.py, in its order."""
    expected = [
        [f"`{reason}`", meaning.outcome, str(meaning.http_status), f"{meaning.rpc_code.name} {meaning.rpc_code.value}"]
        for reason, meaning in MEANINGS.items()
    ]
    assert expected == [cells[:4] for cells in rows_of(REASONS).values()]


def _default_of(name: str) -> str:
    field = Settings.model_fields[name]
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_documented(name: str) -> None:
    """Operations has each setting with its default."""
    assert _default_of(name) == rows_of(OPERATIONS, "Settings")[name][1]


def test_readme_has_every_setting() -> None:
    """The README leaves no setting out, and names none that is not there."""
    assert list(Settings.model_fields) == list(rows_of(README, "Settings"))


def _policy_models() -> list[type[BaseModel]]:
    return [model for model in Model.__subclasses__() if model.__module__ == models.__name__]


@pytest.mark.parametrize("model", _policy_models(), ids=lambda model: model.__name__)
def test_policy_keys_are_documented(model: type[BaseModel]) -> None:
    """The policy reference has each key of a document, and says which must be there."""
    rows = list(every_row_of(POLICY_REFERENCE))
    keys = {field.alias or name: field for name, field in model.model_fields.items()}
    assert set(keys) <= {name for name, _ in rows}
    required = {name for name, field in keys.items() if field.is_required()}
    assert required <= {name for name, cells in rows if "required" in "".join(cells[2:3])}


def _blocks(pattern: re.Pattern[str]) -> list[Any]:
    return [
        pytest.param(*match.groups(), id=f"{name_of(path)}-{number}")
        for path in (README, POLICY_REFERENCE, MCP_AND_A2A)
        for number, match in enumerate(pattern.finditer(text_of(path)), 1)
    ]


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory `policies`, named as in the documents, with the key files that their examples name."""
    monkeypatch.chdir(tmp_path)
    directory = Path("policies")
    directory.mkdir()
    x = encode_base64url(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    key_set = {"keys": [{"kid": "sts-1", "kty": "OKP", "crv": "Ed25519", "x": x}]}
    (directory / "sts.jwks.json").write_text(json.dumps(key_set), "utf-8")
    (directory / "bundle.pem").write_bytes(DevelopmentCa.create("agents.example.com").bundle_pem)
    return directory


@pytest.mark.parametrize("block", _blocks(_BLOCK))
def test_policy_example_loads(policies: Path, block: str) -> None:
    """A policy that the documents show can be served and grants something."""
    (policies / "matrix.yaml").write_text(block, "utf-8")
    assert load(policies).grant_count > 0


@pytest.mark.parametrize(("block", "errors"), _blocks(_WRONG_BLOCK))
def test_wrong_example_prints_its_errors(policies: Path, block: str, errors: str) -> None:
    """The errors that the reference shows are those that the loader prints, word for word."""
    (policies / "matrix.yaml").write_text(block, "utf-8")
    with pytest.raises(PolicyError) as caught:
        load(policies)
    assert tuple(errors.splitlines()) == caught.value.problems


def _unknown_commands(words: list[str]) -> list[str]:
    """Return the words up to the first that is no command, empty if there is none."""
    command: Any = get_command(app)
    for number, word in enumerate(words, 1):
        commands = getattr(command, "commands", None)
        if commands is None:
            return []
        if word not in commands:
            return words[:number]
        command = commands[word]
    return []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_exist(document: Path) -> None:
    """Each `ext-authz ...` that a document shows is a command of the command line."""
    code = [match[0] for match in _FENCE.finditer(text_of(document))]
    code += _CODE.findall(_FENCE.sub("", text_of(document)))
    found = [match.split() for text in code for match in _COMMAND.findall(text)]
    assert [] == [unknown for words in found if (unknown := _unknown_commands(words))]
