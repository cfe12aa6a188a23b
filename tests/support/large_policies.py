"""Policies of any size, for what must not depend on it."""

from pathlib import Path

AGENTS = 1_000
SHORT_CELL = "[search, read]"
# So that no file is larger than what is read of one.
ROWS_OF_A_FILE = 500
HEAD = ("kind: PermissionMatrix", "trust_domain: agents.example.com", "matrix:")
LONG_CELL = '{actions: [search, read], delegation: required, scopes: ["kb:search"], max_hops: 3}'


def write_large(directory: Path, cells: int, *, agents: int = AGENTS, cell: str = SHORT_CELL, routes: int = 0) -> Path:
    """Write a policy with so many cells, dealt out to agents in turn, and so many routes beside its two."""
    each, rest = divmod(cells - 1, agents)
    rows = [["  planner-agent:", f"    retrieval-agent: {cell}"]]
    for number in range(agents if each else rest):
        steps = range(1, each + (number < rest) + 1)
        called = [f"    agent-{(number + step) % (agents + 1):04}: {cell}" for step in steps]
        rows.append([f"  agent-{number:04}:", *called])
    actions = ["kind: ActionRegistry", "actions:"]
    actions += ['  search: {http: ["POST /v1/search"]}', '  read: {http: ["GET /records/{id}"]}']
    actions += [f'  x{number}: {{http: ["GET /v1/x{number}/{{id}}/parts/{{part}}"]}}' for number in range(routes)]
    (directory / "actions.yaml").write_text("\n".join(actions) + "\n")
    for first in range(0, len(rows), ROWS_OF_A_FILE):
        lines = [line for row in rows[first : first + ROWS_OF_A_FILE] for line in row]
        (directory / f"matrix-{first}.yaml").write_text("\n".join([*HEAD, *lines]) + "\n")
    return directory
