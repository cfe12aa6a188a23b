"""Small files that ask for much: whatever 10 kB say, loading them stays within a second and 100 MB."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.server_process import server_environment

from ext_authz.errors import PolicyError
from ext_authz.policy.compile import MAX_GROUP_GRANTS, load

MAX_BYTES_OF_FILE = 10_000
MAX_MEMORY_BYTES = 100 * 1000 * 1000
HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
REGISTRY = "kind: ActionRegistry\nactions:\n"
ONE_ACTION = f"---\n{REGISTRY}  x: {{asserted: true}}\n"


def _each(text: str, number: int, between: str = "") -> str:
    """Return a text so many times, with another number in place of each `#`."""
    return between.join(text.replace("#", f"{n:x}") for n in range(number))


HOSTILE = {
    "unknown keys": HEAD + _each("k#: 1\n", 1200),
    "unknown keys of a cell": f"{HEAD}matrix: {{a: {{b: {{actions: [x], {_each('action#: 1', 690, ', ')}}}}}}}\n",
    "wrong cells": f"{HEAD}matrix: {{a: {{{_each('r#: {a: 1}', 700, ', ')}}}}}\n",
    "wrong types": f"{HEAD}matrix: {{a: {{{_each('r#: 1', 1100, ', ')}}}}}\n",
    "unknown actions": f"{HEAD}matrix: {{a: {{b: [{_each('action-#', 500, ', ')}]}}}}\n---\n"
    + REGISTRY
    + _each("  actiom-#: {asserted: true}\n", 120),
    "unknown groups": HEAD
    + "groups: {"
    + _each("grp#: [a]", 300, ", ")
    + "}\nmatrix: {"
    + _each("'@gpr#': {b: [x]}", 280, ", ")
    + "}\n",
    "unknown windows": f"{HEAD}matrix: {{a: {{{_each('r#: {actions: [x], during: [w#]}', 260, ', ')}}}}}\n",
    "unknown kinds": _each("kind: PermissionMatri#\n---\n", 350),
    "names that mean nothing": f"{HEAD}matrix: {{{_each('a b#: {c d: [x]}', 460, ', ')}}}\n{ONE_ACTION}",
    "many documents": "kind: PermissionMatrix\n---\n" * 370,
    "rival routes": REGISTRY + _each("  a#: {http: ['GET /{a}/{b}']}\n", 280),
    "routes that share their beginning": REGISTRY
    + _each("  a#: {http: ['GET /{a}/{b}/{c}/{d}/{e}/#', 'GET /{a}/b/{c}/d/{e}/{f}']}\n", 130),
    "a cycle and its invariants": f"{HEAD}matrix: {{{_each('a#: {a#1: [x], a: [x]}', 130, ', ')}}}\n"
    f"invariants: [{_each('{from: a#, must_not_reach: a}', 130, ', ')}]\n{ONE_ACTION}",
    "denials of a group": f"{HEAD}groups: {{g: [{_each('a#', 1000, ',')}]}}\n"
    "deny: [" + _each("{subject: '@g', resource: b#, action: x}", 100, ",") + f"]\n{ONE_ACTION}",
    "members times resources": f"{HEAD}groups: {{g: [{_each('a#', 1000, ',')}]}}\n"
    f"matrix: {{'@g': {{{_each('b#: [x]', 460, ', ')}}}}}\n{ONE_ACTION}",
    "members times actions": f"{HEAD}groups: {{g: [{_each('a#', 1000, ',')}]}}\n"
    f"matrix: {{'@g': {{{_each('b#: [' + ','.join(['x'] * 50) + ']', 15, ', ')}}}}}\n{ONE_ACTION}",
    "one action again and again": f"{HEAD}groups: {{g: [{_each('a#', 1000, ',')}]}}\n"
    f"matrix: {{'@g': {{b: [{'x,' * 2300}]}}}}\n{ONE_ACTION}",
}  # fmt: skip

LOAD_WITHIN_LIMITS = f"""
import resource, sys, time
from pathlib import Path
from ext_authz.documents.schema import packaged_schemas  # as much as any command has loaded
from ext_authz.errors import PolicyError
from ext_authz.policy.compile import load
try:
    load(Path(sys.argv[1], "warm"))
except PolicyError:
    pass
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {MAX_MEMORY_BYTES},) * 2)
# The kernel counts whole seconds: with what was used so far, one to two are left.
resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 2,) * 2)
try:
    print(load(Path(sys.argv[1], "hostile")).grant_count)
except PolicyError as error:
    print(len(error.problems))
"""


def _unmeasured() -> dict[str, str]:
    """Return an environment in which coverage does not measure, which takes several times as long."""
    return {name: value for name, value in server_environment().items() if not name.startswith("COV")}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited and measured as Linux does it")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_small_files_stay_within_limits(tmp_path: Path, text: str) -> None:
    """A process that may take 100 MB and hardly more than a second loads or refuses each of them."""
    assert len(text) <= MAX_BYTES_OF_FILE
    for name, content in (("warm", f"{HEAD}{ONE_ACTION}"), ("hostile", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(content)
    outcome = subprocess.run(
        [sys.executable, "-c", LOAD_WITHIN_LIMITS, str(tmp_path)],
        env=_unmeasured(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (outcome.returncode, outcome.stderr)
    assert outcome.stdout.strip().isdecimal()


def test_group_that_stands_for_too_much(tmp_path: Path) -> None:
    """What groups stand for is counted over all cells; the one that goes beyond the limit is named, and it alone."""
    members, cells = 1000, MAX_GROUP_GRANTS // 1000
    row = "".join(f"    b{number}: [x]\n" for number in range(cells))
    text = f"{HEAD}groups: {{g: [{_each('a#', members, ', ')}]}}\nmatrix:\n  '@g':\n{row}"
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{text}{ONE_ACTION}")
    assert MAX_GROUP_GRANTS == load(tmp_path).grant_count
    policy.write_text(f"{text}    c: [x]\n    d: [x]\n{ONE_ACTION}")
    with pytest.raises(PolicyError) as caught:
        load(tmp_path)
    line = len(text.splitlines()) + 1
    assert (
        f"{policy}:{line}:5: groups stand for more than {MAX_GROUP_GRANTS} grants: name fewer members or actions",
    ) == caught.value.problems
