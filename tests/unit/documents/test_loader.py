"""Policy directories: which files are read, what their authors are told, and what changes the digest."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field, StringConstraints

from ext_authz.documents.loader import MAX_FILES, load_file, load_policy, read_mapping
from ext_authz.documents.models import (
    PLANNED_KEYS,
    PLANNED_KINDS,
    POLICY_KINDS,
    ActionRegistry,
    Model,
    PermissionMatrix,
    PolicyModel,
)
from ext_authz.documents.reader import MAX_FILE_BYTES
from ext_authz.errors import PolicyError

GOLDEN = Path(__file__).parent / "golden"
MATRIX = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
REGISTRY = "kind: ActionRegistry\nactions:\n  search: {asserted: true}\n"


def write(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files into a directory, which is made, and return it."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def problems_of(directory: Path) -> list[str]:
    """Return what is wrong with a policy directory, paths shortened to what stands in it."""
    with pytest.raises(PolicyError) as caught:
        load_policy(directory)
    return [problem.removeprefix(f"{directory}/") for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_authors_are_told(tmp_path: Path, path: Path) -> None:
    """Each problem of a file is told, in the order of the file, in the words that stand beside it."""
    shutil.copy(path, tmp_path)
    assert path.with_suffix(".txt").read_text().splitlines() == problems_of(tmp_path)


def test_every_golden_file_has_messages() -> None:
    """No expected text stands without its document, nor a document without its text."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in GOLDEN.glob("*.yaml")}


@pytest.mark.parametrize("kind", sorted(PLANNED_KINDS))
def test_planned_kind(tmp_path: Path, kind: str) -> None:
    """A kind of a later release is refused as such, so that nobody believes that it counts."""
    write(tmp_path, {"a.yaml": f"{MATRIX}---\nkind: {kind}\n"})
    assert [f"a.yaml:4:7: kind `{kind}` is not supported by this release"] == problems_of(tmp_path)


@pytest.mark.parametrize("key", sorted(PLANNED_KEYS))
def test_planned_key(tmp_path: Path, key: str) -> None:
    """A key of a later release is refused as such, wherever it stands."""
    cell = f"matrix:\n  planner-agent:\n    audit-agent:\n      actions: [search]\n      {key}: x\n"
    write(tmp_path, {"a.yaml": f"{MATRIX}{cell}", "b.yaml": f"{REGISTRY}{key}: x\n"})
    assert [
        f"a.yaml:7:7: key `{key}` is not supported by this release",
        f"b.yaml:4:1: key `{key}` is not supported by this release",
    ] == problems_of(tmp_path)


def test_nothing_is_both_known_and_planned() -> None:
    """What this release reads is not on the list of what a later one will read."""
    models = [model.model_json_schema() for model in POLICY_KINDS.values()]
    known = {
        key for schema in models for part in (schema, *schema.get("$defs", {}).values()) for key in part["properties"]
    }
    assert set() == known & PLANNED_KEYS
    assert set() == set(POLICY_KINDS) & PLANNED_KINDS


def test_reads_documents_in_the_order_of_names_and_lines(tmp_path: Path) -> None:
    """All YAML files are read by name, each document with its path; other files and hidden ones are left alone."""
    files = {
        "b.yml": REGISTRY,
        "a.yaml": f"{MATRIX}---\n{REGISTRY}",
        "C.YAML": MATRIX,
        "README.md": "kind: [",
        "notes.yaml.bak": "kind: [",
        ".hidden.yaml": "kind: [",
        "yaml": "kind: [",
    }
    documents = load_policy(write(tmp_path, files))
    expected: list[tuple[str, type[PolicyModel]]] = [
        ("C.YAML", PermissionMatrix),
        ("a.yaml", PermissionMatrix),
        ("a.yaml", ActionRegistry),
        ("b.yml", ActionRegistry),
    ]
    assert [(str(tmp_path / name), model) for name, model in expected] == [
        (source.path, type(source.model)) for source in documents.sources
    ]
    assert [4, 1] == [source.places.place.line for source in documents.of(ActionRegistry)]
    assert len(documents.of(PermissionMatrix)) == 2


def test_all_problems_of_all_files_in_one_run(tmp_path: Path) -> None:
    """No problem hides another: files that cannot be read, or are no YAML, do not stop the others."""
    files: dict[str, str | bytes] = {
        "a.yaml": "kind: PermissionMatrix\nmatrx: {}\n---\nkind: InjectionGuard\n",
        "b.yaml": "kind: [",
        "c.yaml": b"kind: \xff",
        "d.yaml": b"# \xc3\xbc\r\n\xc3\xbc: \xc3(",
        "e.yaml": "text",
        "f.yaml": REGISTRY,
    }
    directory = write(tmp_path / "policy", files)
    (directory / "folder").mkdir()
    (directory / "gone.yaml").symlink_to("nowhere")
    assert [
        "a.yaml:2:1: unknown key `matrx`: did you mean `matrix`?",
        "a.yaml:4:7: kind `InjectionGuard` is not supported by this release",
        "b.yaml:2:1: not YAML: did not find expected node content",
        "c.yaml:1:7: not UTF-8",
        "d.yaml:2:4: not UTF-8",
        "e.yaml:1:1: a document is a mapping with a `kind`",
        "folder:1:1: sub-directories are not read: move the files up",
        "gone.yaml:1:1: no such file",
    ] == problems_of(directory)


def test_problems_come_in_the_order_of_places(tmp_path: Path) -> None:
    """Line 10 comes behind line 9, whatever the model finds first."""
    lines = "".join(f"  agent-{number}: [search]\n" for number in range(12))
    write(tmp_path, {"a.yaml": f"kind: PermissionMatrix\nmatrix:\n{lines}colour: red\ndeny: [{{}}]\n"})
    places = [tuple(map(int, problem.split(":")[1:3])) for problem in problems_of(tmp_path)]
    assert sorted(places) == places
    assert list(range(3, 15)) == [line for line, _ in places[:12]]
    assert [(15, 1), (16, 8), (16, 8), (16, 8)] == places[12:]


EMPTY = "no policy here: expected files ending in .yaml or .yml"


def test_directory_without_policy(tmp_path: Path) -> None:
    """An empty directory is a problem, not a policy that denies everything by surprise."""
    assert [f"{tmp_path}:1:1: {EMPTY}"] == problems_of(tmp_path)
    write(tmp_path, {".hidden.yaml": MATRIX, "matrix.json": "{}"})
    assert [f"{tmp_path}:1:1: {EMPTY}"] == problems_of(tmp_path)


def test_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory that is missing, or is a file, is named with the cause."""
    missing, file = tmp_path / "missing", tmp_path / "file.yaml"
    file.write_text(MATRIX)
    assert [f"{missing}:1:1: cannot read the policy directory: No such file or directory"] == problems_of(missing)
    assert [f"{file}:1:1: cannot read the policy directory: Not a directory"] == problems_of(file)


def test_directory_of_empty_documents(tmp_path: Path) -> None:
    """Files that hold nothing are read and hold nothing."""
    documents = load_policy(write(tmp_path, {"a.yaml": "", "b.yaml": "# later\n---\n"}))
    assert () == documents.sources


def test_config_map(tmp_path: Path) -> None:
    """The files of a mounted ConfigMap are links through `..data`; the directories behind them are hidden."""
    version = tmp_path / "..2026_11_22_00_00_00.123"
    write(version, {"matrix.yaml": MATRIX, "actions.yaml": REGISTRY})
    (tmp_path / "..data").symlink_to(version.name)
    for name in ("matrix.yaml", "actions.yaml"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    plain = load_policy(write(tmp_path / ".plain", {"matrix.yaml": MATRIX, "actions.yaml": REGISTRY}))
    mounted = load_policy(tmp_path)
    assert plain.digest == mounted.digest
    assert [str(tmp_path / "actions.yaml"), str(tmp_path / "matrix.yaml")] == [
        source.path for source in mounted.sources
    ]


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_does_not_hang(tmp_path: Path) -> None:
    """Pipes, devices and links to them are refused without opening them; a link to a directory is a sub-directory."""
    policy = tmp_path / "policy"
    write(policy, {"a.yaml": MATRIX})
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(policy / "b.yaml")
    (policy / "c.yaml").symlink_to(tmp_path / "pipe")
    (policy / "d.yaml").symlink_to("/dev/zero")
    (policy / "e.yaml").symlink_to(tmp_path)
    (policy / "f.yaml").symlink_to("f.yaml")
    assert [
        "b.yaml:1:1: not a regular file",
        "c.yaml:1:1: not a regular file",
        "d.yaml:1:1: not a regular file",
        "e.yaml:1:1: sub-directories are not read: move the files up",
        "f.yaml:1:1: no such file",
    ] == problems_of(policy)


def test_size_of_a_file(tmp_path: Path) -> None:
    """A file of the largest size is read, one byte more is not; how large it is does not matter."""
    (write(tmp_path, {"a.yaml": MATRIX}) / "b.yaml").write_bytes(b"#" * MAX_FILE_BYTES)
    assert len(load_policy(tmp_path).sources) == 1
    with (tmp_path / "b.yaml").open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)
    with (tmp_path / "c.yaml").open("wb") as sparse:
        sparse.truncate(1 << 40)
    too_large = f"larger than {MAX_FILE_BYTES} bytes"
    assert [f"b.yaml:1:1: {too_large}", f"c.yaml:1:1: {too_large}"] == problems_of(tmp_path)


def test_number_of_files(tmp_path: Path) -> None:
    """As many files as the limit says are read, one more is not."""
    write(tmp_path, {f"{number:03}.yaml": "" for number in range(MAX_FILES)})
    assert () == load_policy(tmp_path).sources
    write(tmp_path, {"more.yaml": ""})
    assert [f"{tmp_path}:1:1: {MAX_FILES + 1} files, at most {MAX_FILES} are read"] == problems_of(tmp_path)


DIGESTS: dict[str, Mapping[str, str]] = {
    "one": {"a.yaml": MATRIX},
    "with a comment": {"a.yaml": f"# comment\n{MATRIX}"},
    "with a space": {"a.yaml": f"{MATRIX} "},
    "under another name": {"b.yaml": MATRIX},
    "and an empty file": {"a.yaml": MATRIX, "b.yaml": ""},
    "twice": {"a.yaml": MATRIX, "b.yaml": MATRIX},
    "with another behind it": {"a.yaml": f"{MATRIX}---\n{REGISTRY}"},
    "with another beside it": {"a.yaml": MATRIX, "b.yaml": REGISTRY},
    "exchanged": {"a.yaml": REGISTRY, "b.yaml": MATRIX},
}


def test_digest_tells_policies_apart(tmp_path: Path) -> None:
    """Every change of a name or of a content changes the digest; where the directory lies and what is not read do not."""
    digests = {
        case: load_policy(write(tmp_path / f"case-{number}", files)).digest
        for number, (case, files) in enumerate(DIGESTS.items())
    }
    assert len(DIGESTS) == len(set(digests.values()))
    again = write(tmp_path / "again", {**DIGESTS["one"], "README.md": "text", ".hidden.yaml": "text"})
    assert digests["one"] == load_policy(again).digest
    assert all(len(digest) == 64 for digest in digests.values())


def test_source_knows_its_places(tmp_path: Path) -> None:
    """A rule is named by file and line of its key, an error by the column too."""
    matrix = "matrix:\n  planner-agent:\n    audit-agent:\n      actions: [search]\n"
    (source,) = load_policy(write(tmp_path, {"a.yaml": f"{MATRIX}{matrix}"})).of(PermissionMatrix)
    steps = ("matrix", "planner-agent", "audit-agent")
    path = tmp_path / "a.yaml"
    assert [f"{path}:6:7", f"{path}:5:5", f"{path}:5"] == [
        source.locate(*steps),
        source.locate_key(*steps),
        source.line(*steps),
    ]


def test_file_with_one_document(tmp_path: Path) -> None:
    """A file of one kind holds exactly one document of it."""
    write(
        tmp_path,
        {"one.yaml": REGISTRY, "two.yaml": f"{REGISTRY}---\n{REGISTRY}", "none.yaml": "", "other.yaml": MATRIX},
    )
    assert list(load_file(tmp_path / "one.yaml", ActionRegistry).actions) == ["search"]
    messages = {}
    for name in ("two", "none", "other", "missing"):
        path = tmp_path / f"{name}.yaml"
        with pytest.raises(PolicyError) as caught:
            load_file(path, ActionRegistry)
        (problem,) = caught.value.problems
        messages[name] = problem.removeprefix(f"{path}:")
    assert {
        "two": "1:1: holds 2 documents, not one of kind ActionRegistry",
        "none": "1:1: holds 0 documents, not one of kind ActionRegistry",
        "other": "1:7: unknown kind `PermissionMatrix`",
        "missing": "1:1: no such file",
    } == messages


MAPPINGS = {
    "list": ("- a", "1:1: expected one mapping"),
    "two": ("a: 1\n---\nb: 2", "1:1: expected one mapping"),
    "nothing": ("# later", "1:1: expected one mapping"),
    "no YAML": ("a: 1\nb: *c", "2:4: aliases are not read: write the value out, or name a group"),
    "guess": (
        "insecure: yes",
        "1:11: `yes` reads differently from reader to reader: write true or false, or put it in quotes",
    ),
}


@pytest.mark.parametrize(("text", "message"), MAPPINGS.values(), ids=MAPPINGS)
def test_file_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    """A settings file that is not one mapping is refused with its place."""
    path = write(tmp_path, {"settings.yaml": text}) / "settings.yaml"
    with pytest.raises(PolicyError) as caught:
        read_mapping(path)
    assert (f"{path}:{message}",) == caught.value.problems


def test_mapping_of_a_file(tmp_path: Path) -> None:
    """A settings file is read as strictly as a policy; a missing one is named."""
    path = write(tmp_path, {"settings.yaml": "listen: 127.0.0.1:9001\nwatch: false\n"}) / "settings.yaml"
    assert {"listen": "127.0.0.1:9001", "watch": False} == read_mapping(path)
    with pytest.raises(PolicyError) as caught:
        read_mapping(tmp_path / "missing.yaml")
    assert (f"{tmp_path / 'missing.yaml'}:1:1: no such file",) == caught.value.problems


def test_name_too_long_for_the_system(tmp_path: Path) -> None:
    """What the system says of a file that cannot be read is passed on."""
    path = tmp_path / f"{'a' * 300}.yaml"
    with pytest.raises(PolicyError) as caught:
        read_mapping(path)
    assert (f"{path}:1:1: cannot read: File name too long",) == caught.value.problems


def refuse_odd(number: int) -> int:
    """Refuse odd numbers, as the validator of a model does."""
    if number % 2:
        raise ValueError("An odd number")
    return number


class Sample(Model):
    """A kind with shapes that no policy document of this release has."""

    kind: Literal["Sample"]
    number: int = 0
    even: Annotated[int, AfterValidator(refuse_odd)] = 0
    words: list[str] = Field(default_factory=list)
    code: Annotated[str, StringConstraints(pattern="^[A-Z]$")] = "A"
    short: Annotated[str, StringConstraints(max_length=3)] = ""


SAMPLES = {
    "number: x": "1:9: expected a whole number, got `x`",
    "even: 3": "1:7: an odd number, got `3`",
    "words: x": "1:8: expected a list, got `x`",
    "code: AB": "1:7: `AB` does not have the form that is expected here",
    "short: four": "1:8: longer than 3 characters",
}


@pytest.mark.parametrize(("line", "message"), SAMPLES.items(), ids=SAMPLES)
def test_words_for_what_has_none(tmp_path: Path, line: str, message: str) -> None:
    """A shape without words of its own is still told with its place and what stands there."""
    path = write(tmp_path, {"a.yaml": f"{line}\nkind: Sample\n"}) / "a.yaml"
    with pytest.raises(PolicyError) as caught:
        load_file(path, Sample)
    assert (f"{path}:{message}",) == caught.value.problems
