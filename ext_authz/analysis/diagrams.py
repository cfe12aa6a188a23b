"""A landscape in the languages of diagrams: Mermaid, which documents render, and Graphviz."""

from html import escape

from ext_authz.analysis.landscape import Landscape

# Actions written on an arrow; the rest is counted.
_SHOWN_ACTIONS = 4


def to_mermaid(landscape: Landscape, start: str | None) -> str:
    """Return a Mermaid flowchart; `start` is marked. Entities are written as Mermaid reads them: `#quot;`."""
    ids = {name: f"n{number}" for number, name in enumerate(landscape.agents)}
    lines = ["flowchart LR", *(f'  {ids[name]}["{_mermaid(name)}"]' for name in ids)]
    lines += [
        f'  {ids[call.subject]} -->|"{_mermaid(_label(call.actions, ", "))}"| {ids[call.resource]}'
        for call in landscape.calls
    ]
    if start is not None and start in ids:
        lines += ["  classDef start stroke-width:3px", f"  class {ids[start]} start"]
    return "\n".join(lines) + "\n"


def to_dot(landscape: Landscape, start: str | None) -> str:
    """Return a Graphviz digraph; `start` is marked."""
    lines = ["digraph reach {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += ['  edge [fontname="sans-serif", fontsize=10];']
    lines += [f"  {_dot(name)}{' [penwidth=3]' if name == start else ''};" for name in landscape.agents]
    lines += [
        f"  {_dot(call.subject)} -> {_dot(call.resource)} [label={_dot(_label(call.actions, chr(10)))}];"
        for call in landscape.calls
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _label(actions: tuple[str, ...], between: str) -> str:
    more = len(actions) - _SHOWN_ACTIONS
    return between.join((*actions[:_SHOWN_ACTIONS], *([f"and {more} more"] if more > 0 else [])))


def _mermaid(text: str) -> str:
    # https://mermaid.js.org/syntax/flowchart.html, entity codes: `&` is written as `#`.
    return escape(text.replace("#", "#35;")).replace("&", "#")


def _dot(text: str) -> str:
    # The Graphviz language, quoted strings: only the quote and the backslash mean something.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
