"""Files to models: every problem of every file in one run, each with `path:line:column: `.

A policy is one directory of YAML files; each file holds one or more documents, each with a `kind`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ext_authz.documents.models import PLANNED_KINDS, POLICY_KINDS, ActionRegistry, Delegation, PolicyModel
from ext_authz.documents.problems import describe, unknown
from ext_authz.documents.reader import MAX_FILE_BYTES, Document, Places, YamlError, place_after, read_documents
from ext_authz.errors import PolicyError

SUFFIXES = (".yaml", ".yml")
# Registries that documents include by name.
PRESETS = Path(__file__).with_name("presets")
# Files in one policy directory: far above the ten kinds, far below what makes a reload slow.
MAX_FILES = 256

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source(Generic[ModelT]):
    """A model and where it was written."""

    model: ModelT
    path: str
    places: Places
    is_preset: bool = False  # of this package, and not of the policy's author
    name: str = field(init=False)  # of the file; kept, because a large matrix asks for it with each cell

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", Path(self.path).name)

    def locate(self, *steps: str | int) -> str:
        """Return `path:line:column` of the value at `steps`."""
        place = self.places.find(steps)
        return f"{self.path}:{place.line}:{place.column}"

    def locate_key(self, *steps: str | int) -> str:
        """Return `path:line:column` of the last key of `steps`: where a name stands, whose value may begin below it."""
        place = self.places.find_key(steps)
        return f"{self.path}:{place.line}:{place.column}"

    def line(self, *steps: str | int) -> str:
        """Return `path:line` of the last key or item of `steps`."""
        return f"{self.path}:{self.places.find_key(steps).line}"

    def rule_place(self, *steps: str | int) -> str:
        """Return `file:line`: how a rule is named in verdicts and records, the same on every machine."""
        return f"{self.name}:{self.places.find_key(steps).line}"


@dataclass(frozen=True, slots=True)
class PolicyDocuments:
    """All documents of a policy directory, and the digest of the bytes they were read from."""

    directory: Path
    sources: tuple[Source[PolicyModel], ...]
    digest: str  # SHA-256 over names and contents, hexadecimal

    def of(self, model: type[ModelT]) -> list[Source[ModelT]]:
        """Return the documents of one kind."""
        return [
            Source(source.model, source.path, source.places, source.is_preset)
            for source in self.sources
            if isinstance(source.model, model)
        ]


def load_policy(directory: Path, presets: Path = PRESETS) -> PolicyDocuments:
    """Read every YAML file of `directory`, hidden names left out, and the presets that they name.

    Raises PolicyError with all problems: unreadable or too large files, sub-directories (they are not read, and
    nothing written is ever ignored; the key directory of a Delegation document is), and whatever the documents themselves get wrong.
    """
    problems: list[str] = []
    sources: list[Source[PolicyModel]] = []
    digest = hashlib.sha256()
    files, folders = _entries(directory, problems)
    for path in files:
        text = _read(path, problems)
        if text is not None:
            digest.update(f"{path.name}\0{len(text)}\0{text}".encode())
            sources += _models(path, text, POLICY_KINDS, problems)
    # First, so that an action of a document that has the name of a preset's is the one that stands twice.
    for name in _presets(sources):
        text = _read(presets / f"{name}.yaml", problems) or ""
        digest.update(f"preset {name}\0{len(text)}\0{text}".encode())
        found = _models(presets / f"{name}.yaml", text, {ActionRegistry.__name__: ActionRegistry}, problems)
        sources[:0] = [replace(source, path=f"preset {name}", is_preset=True) for source in found]
    # A folder that a document names is read where that document is compiled.
    named = {Path(each.model.key_directory or "") for each in sources if isinstance(each.model, Delegation)}
    problems += [
        f"{folder}:1:1: sub-directories are not read: move the files up"
        for folder in folders
        if Path(folder.name) not in named
    ]
    if problems:
        raise PolicyError(problems)
    return PolicyDocuments(directory, tuple(sources), digest.hexdigest())


def load_file(path: Path, model: type[ModelT]) -> ModelT:
    """Read the one document of `path`, which is of the kind that `model` is named after. Raises PolicyError."""
    problems: list[str] = []
    text = _read(path, problems)
    sources: list[Source[ModelT]] = []
    if text is not None:
        sources = _models(path, text, {model.__name__: model}, problems)
    if not problems and len(sources) != 1:
        problems.append(f"{path}:1:1: holds {len(sources)} documents, not one of kind {model.__name__}")
    if problems:
        raise PolicyError(problems)
    return sources[0].model


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the one mapping of a file that is no policy document, such as the settings. Raises PolicyError."""
    problems: list[str] = []
    text = _read(path, problems)
    documents: list[Document] = []
    try:
        documents = read_documents(text or "")
    except YamlError as error:
        problems.append(f"{path}:{error.place.line}:{error.place.column}: {error}")
    if problems:
        raise PolicyError(problems)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise PolicyError([f"{path}:1:1: expected one mapping"])
    return dict(documents[0].value)


def _presets(sources: Iterable[Source[PolicyModel]]) -> list[str]:
    """Return the presets that documents name, each once, in the order of their names."""
    return sorted(
        {name for source in sources if isinstance(source.model, ActionRegistry) for name in source.model.presets}
    )


def _entries(directory: Path, problems: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the files to read, and the folders beside them."""
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
    except OSError as error:
        problems.append(f"{directory}:1:1: cannot read the policy directory: {error.strerror}")
        return [], []
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry not in folders]
    if not files:
        problems.append(f"{directory}:1:1: no policy here: expected files ending in {' or '.join(SUFFIXES)}")
    if len(files) > MAX_FILES:
        problems.append(f"{directory}:1:1: {len(files)} files, at most {MAX_FILES} are read")
        return [], folders
    return files, folders


def _read(path: Path, problems: list[str]) -> str | None:
    try:
        if not path.is_file():
            problems.append(f"{path}:1:1: {'not a regular file' if path.exists() else 'no such file'}")
            return None
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) <= MAX_FILE_BYTES:
            return data.decode("utf-8")
        problems.append(f"{path}:1:1: larger than {MAX_FILE_BYTES} bytes")
    except OSError as error:
        problems.append(f"{path}:1:1: cannot read: {error.strerror}")
    except UnicodeDecodeError as error:
        place = place_after(data[: error.start].decode("utf-8"))
        problems.append(f"{path}:{place.line}:{place.column}: not UTF-8")
    return None


def _models(path: Path, text: str, kinds: Mapping[str, type[Any]], problems: list[str]) -> list[Source[Any]]:
    try:
        documents = read_documents(text)
    except YamlError as error:
        problems.append(f"{path}:{error.place.line}:{error.place.column}: {error}")
        return []
    sources = []
    for document in documents:
        model = _model(path, document, kinds, problems)
        if model is not None:
            sources.append(Source(model, str(path), document.places))
    return sources


def _model(path: Path, document: Document, kinds: Mapping[str, type[Any]], problems: list[str]) -> Any:
    value, places = document
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        problems.append(f"{path}:{places.place.line}:{places.place.column}: a document is a mapping with a `kind`")
        return None
    kind = value["kind"]
    if kind not in kinds:
        place = places.find(("kind",))
        problems.append(f"{path}:{place.line}:{place.column}: {unknown('kind', kind, PLANNED_KINDS, kinds)}")
        return None
    try:
        return kinds[kind].model_validate(value)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            steps = _steps(problem["loc"], value)
            about_key = problem["type"] == "extra_forbidden" or problem["loc"][-1] == "[key]"
            place = places.find_key(steps) if about_key else places.find(steps)
            problems.append(f"{path}:{place.line}:{place.column}: {describe(problem, kinds[kind])}")
        return None


def _steps(location: tuple[str | int, ...], value: Any) -> tuple[str | int, ...]:
    """Keep the steps that exist in the document: pydantic adds names of union members and of normalised keys."""
    steps: list[str | int] = []
    for step in location:
        inside = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
        if inside:
            value = value[step]
            steps.append(step)
    return tuple(steps)
