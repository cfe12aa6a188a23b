"""The import graph is the architecture: who may import whom, and which package may be used where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "ext_authz"

# In the order of the data flow. A module imports from its own layer and from lines above its own; layers that stand on
# one line may not see each other.
LINE = (
    {"__init__"},
    {"errors", "memo", "faults", "bounded_lines", "garbage"},
    {"settings", "pb", "sockets", "times", "tally"},
    {"documents", "web"},
    {"attributes"},
    {"identity"},
    {"action"},
    {"tokens"},
    {"policy"},
    {"injection"},
    {"limits"},
    {"decision"},
    {"response", "audit"},
    {"authorizer"},
    {"stores"},
    {"server", "admin", "review"},  # `review` runs a policy for its authors
    {"analysis"},  # of policies, for their authors: nothing that decides may see it
    {"cli"},
    {"__main__"},
)
# Beside the line: what each may import of it. Nothing in the line imports these but the command line.
BESIDE = {
    "client": {"errors", "identity", "tokens"},
    # A process of its own: it verifies and grants as decisions do, mints as agents do, and follows the control store as the
    # server does.
    "exchange": {
        *("errors", "faults", "settings", "sockets", "times", "web", "attributes", "identity", "tokens", "policy"),
        *("decision", "audit", "stores", "server", "client"),
    },
    # The demo renders the sidecars that it starts, lets its agents delegate, and revokes what it delegated.
    "local": {"errors", "settings", "pb", "identity", "tokens", "stores", "client", "exchange", "render"},
    "render": {"errors", "settings", "pb", "identity"},
    "learning": {"errors", "bounded_lines", "documents", "attributes", "identity", "action", "policy"},
}

# Where a package that is not of the standard library may be imported: a layer, or one module of it.
THIRD_PARTY = {
    "betterproto2": {"render"},
    "cel": {"policy.conditions"},
    "cryptography": {"identity", "tokens", "client", "local"},
    "envoy": {"local"},
    "envoy_data_plane": {"render"},
    "google.protobuf": {"attributes", "response", "local", "pb"},
    "google.rpc": {"response", "local", "pb"},
    "grpc": {"server", "local"},
    "grpc_health": {"server", "local"},
    "grpc_reflection": {"server"},
    "httpx": {"client", "local", "server"},
    "hyperscan": {"injection"},
    "jose": {"tokens", "client", "local"},
    "opentelemetry": {"audit"},
    "prometheus_client": {"server"},
    "pydantic": {"documents", "settings"},
    "re2": {"injection"},
    "rich": {"cli"},
    "starlette": {"web", "admin", "exchange", "local.demo"},
    "typer": {"cli"},
    "uvicorn": {"web", "local.demo"},
    "uvloop": {"cli"},
    "watchfiles": {"server"},
    "yaml": {"documents", "render", "policy.export"},
}


class Import(NamedTuple):
    """One import statement: `ext_authz/<module>.py:<line>` imports `target`."""

    module: str  # dotted, without the package's name
    line: int
    target: str  # dotted, as written

    def __str__(self) -> str:
        return f"{PACKAGE}/{self.module.replace('.', '/')}.py:{self.line} imports {self.target}"


def _modules() -> Iterator[tuple[str, ast.Module]]:
    directory = ROOT / PACKAGE
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory).with_suffix("").parts
        yield ".".join(parts), ast.parse(path.read_text("utf-8"))


@cache
def _trees() -> Mapping[str, ast.Module]:
    return dict(_modules())


@cache
def _imports() -> tuple[Import, ...]:
    return tuple(found for module, tree in _trees().items() for found in _imports_of(module, tree))


def _imports_of(module: str, tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{PACKAGE}/{module}: relative import in line {node.lineno}"
            yield from (Import(module, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _layer(module: str) -> str:
    return module.partition(".")[0]


def _rank(layer: str) -> int:
    return next(rank for rank, layers in enumerate(LINE) if layer in layers)


def _own_target(found: Import) -> str | None:
    """Return the module of this package that is imported, None for any other."""
    package, _, rest = found.target.partition(".")
    if package != PACKAGE:
        return None
    is_module = rest in _trees() or f"{rest}.__init__" in _trees()
    return (rest if is_module else rest.rpartition(".")[0]) or "__init__"


def _may_import(layer: str, target: str) -> bool:
    if layer == target:
        return True
    if layer in BESIDE:
        return target in BESIDE[layer]
    if target in BESIDE:
        return layer == "cli"
    return _rank(target) < _rank(layer)


def test_every_module_has_a_layer() -> None:
    """A new file or folder of the package takes a place in the table."""
    layers = {_layer(module) for module in _trees()}
    assert set().union(*LINE) | set(BESIDE) >= layers


def test_imports_go_one_way() -> None:
    """A module imports from layers before its own only; only the command line imports what stands beside the line."""
    offenders = [
        str(found)
        for found in _imports()
        if (target := _own_target(found)) is not None and not _may_import(_layer(found.module), _layer(target))
    ]
    assert [] == offenders, "\n".join(offenders)


def test_no_module_imports_itself_through_others() -> None:
    """There are no cycles, not even inside of a layer."""
    graph: dict[str, set[str]] = {}
    for found in _imports():
        target = _own_target(found)
        if target is not None:
            target = target if target in _trees() else f"{target}.__init__"
            graph.setdefault(found.module, set()).add(target)
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in finished:
            for target in sorted(graph.get(module, ())):
                visit(target, (*path, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_import_is_for_types_only() -> None:
    """Needing TYPE_CHECKING means that a type lives in the wrong file."""
    offenders = [
        f"{module}:{node.lineno}"
        for module, tree in _trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
        or (isinstance(node, ast.alias) and node.name == "TYPE_CHECKING")
    ]
    assert [] == offenders, "\n".join(offenders)


def test_third_party_packages_stay_in_their_place() -> None:
    """Each package is used where the table says and nowhere else; one that is not in the table is used nowhere."""
    offenders = [str(found) for found in _imports() if not _third_party_in_place(found)]
    assert [] == offenders, "\n".join(offenders)


def _third_party_in_place(found: Import) -> bool:
    top = found.target.partition(".")[0]
    if top == PACKAGE or top in sys.stdlib_module_names:
        return True
    places = [where for name, where in THIRD_PARTY.items() if f"{found.target}.".startswith(f"{name}.")]
    return any(f"{found.module}.".startswith(f"{place}.") for where in places for place in where)


# Texts that somebody else wrote, or might write: they may say anything.
QUOTED_TEXTS = ("ext_authz/injection/rules.yaml", "tests/vectors/data/")
# Each word in two parts, so that this file does not hold it.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|NotImplemented" r"Error)\b")
REGISTRIES = re.compile(r"(?:pypi|pythonhosted|npmjs|rubygems)\." r"(?:org|com)|crates\." r"io|proxy\.golang\." r"org")
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(?:ro" r"ot|wo" r"rk|home/[a-z]+)/")


@cache
def _texts() -> Mapping[str, str]:
    listing = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [
        name
        for name in listing.stdout.decode().split("\0")
        if (ROOT / name).is_file() and not name.startswith(QUOTED_TEXTS)
    ]
    return {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in names}


@pytest.mark.parametrize("pattern", [UNFINISHED, REGISTRIES, MACHINE_PATHS], ids=["unfinished", "registries", "paths"])
def test_nothing_of_the_workbench_is_left(pattern: re.Pattern[str]) -> None:
    """No file says that it is unfinished, names a registry of packages, or holds a path of the machine it was made on."""
    offenders = [
        f"{name}:{number}: {found[0]}"
        for name, text in _texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        for found in [pattern.search(line)]
        if found
    ]
    assert [] == offenders, "\n".join(offenders)
