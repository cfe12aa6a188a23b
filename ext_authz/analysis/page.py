"""A landscape as one HTML page: the matrix as a heat map, and how far each agent reaches.

1. The page is one file without scripts and without anything from elsewhere; its own policy forbids both.
2. Every text is escaped where it is written, also names, which could hold nothing dangerous today.
3. Large policies are cut to the agents that reach furthest, and the page says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ext_authz.analysis.landscape import Landscape, Radius, Way
from ext_authz.analysis.survey import Survey
from ext_authz.identity.patterns import WILDCARD, covers

# Rows and columns of the heat map: what a browser shows at once, and a person takes in.
MAX_AGENTS = 100
_STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
_ARROW, _FAR, _DENIED = " \u2192 ", "\u2022", "\u00d7"
# Percent of the heat colour at one action and at the most that any call has.
_LEAST_SHARE, _MOST_SHARE, _DARK_SHARE = 25, 90, 60


class _View(NamedTuple):
    """What is drawn."""

    landscape: Landscape
    radii: Sequence[Radius]  # furthest first
    columns: Sequence[str]
    denied: frozenset[tuple[str, str]]
    ids: dict[str, str]  # of the sections: inside what a link to them opens


def to_page(survey: Survey, landscape: Landscape, start: str | None) -> str:
    """Return the page. `start`: the agent whose surroundings `landscape` is, None for all."""
    view = _view(survey, landscape)
    title = f"Reach of {start}" if start else "Who can reach whom"
    counted = {
        "agents": len(landscape.agents),
        "calls between them": len(landscape.calls),
        "furthest reach": max((len(radius.reaches) for radius in view.radii), default=0),
        "deny rules": len(survey.denials),
    }
    tiles = "".join(f"<li><b>{value}</b>{escape(label)}</li>" for label, value in counted.items())
    cut = len(landscape.agents) - len(view.columns)
    note = f"<p>Shown are the agents that reach furthest; {cut} more are left out.</p>" if cut > 0 else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<ul class="tiles">{tiles}</ul>
</header>
<main>
<h2 id="matrix">Matrix</h2>
<p>Who calls stands at the left, who is called at the top. Windows, conditions and delegation are left out: this is what could
come about.</p>
{note}{_heat_map(view)}
<h2 id="radius">Blast radius</h2>
<p>What whoever takes over an agent can make it do, itself or through others; furthest first.</p>
{"".join(_section(view, radius, is_open=radius.agent == start) for radius in view.radii)}
</main>
<footer>Policy <code>{escape(str(survey.documents.directory))}</code>, digest <code>{escape(survey.policy.digest)}</code></footer>
</body>
</html>
"""


def _view(survey: Survey, landscape: Landscape) -> _View:
    reached = {agent: len(landscape.reaches(agent)) for agent in landscape.agents}
    chosen = sorted(sorted(reached, key=lambda agent: (-reached[agent], agent))[:MAX_AGENTS])
    radii = sorted(map(landscape.radius, chosen), key=lambda radius: (-len(radius.reaches), radius.agent))
    denied = frozenset(_denied(survey, chosen))
    return _View(landscape, radii, chosen, denied, {agent: f"agent-{at}" for at, agent in enumerate(chosen)})


def _denied(survey: Survey, agents: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield who is denied something of whom, in names; of a pattern those of `agents` whom it covers."""
    name_of = survey.names.name_of
    for denial in survey.denials:
        for subject in denial.subjects:
            covered = [name_of(subject)]
            if WILDCARD in subject:
                covered = [agent for agent in agents if covers(subject, survey.resolve(agent))]
            yield from ((agent, name_of(denial.resource_id)) for agent in covered)


def _heat_map(view: _View) -> str:
    most = max((len(call.actions) for call in view.landscape.calls), default=1)
    heads = "".join(f'<th scope="col">{_link(view, agent)}</th>' for agent in view.columns)
    rows = "".join(
        f'<tr><th scope="row">{_link(view, radius.agent)}</th>{"".join(_cells(view, radius, most))}</tr>\n'
        for radius in sorted(view.radii)
        if radius.reaches
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-labelledby="matrix">
<table class="map"><thead><tr><th scope="col">calls \u2198</th>{heads}</tr></thead>
<tbody>
{rows}</tbody></table></div>
<ul class="legend"><li><i class="on">2</i>may call, with so many actions</li><li><i class="far">{_FAR}</i>reached through others</li>
<li><i class="no">{_DENIED}</i>denied by a rule</li><li><i class="far no">{_DENIED}</i>denied, and reached through others all the same</li>
<li><i>&nbsp;</i>out of reach</li></ul>
"""


def _cells(view: _View, radius: Radius, most: int) -> Iterator[str]:
    ways = {way.path[-1]: way for way in radius.reaches}
    for resource in view.columns:
        call, way = view.landscape.call(radius.agent, resource), ways.get(resource)
        if call is not None:
            count = len(call.actions)
            share = _LEAST_SHARE + (_MOST_SHARE - _LEAST_SHARE) * (count - 1) // max(most - 1, 1)
            kind = "on strong" if share > _DARK_SHARE else "on"
            text = f"{radius.agent} may call {resource}: {', '.join(call.actions)} ({', '.join(call.rules)})"
            yield f'<td class="{kind}" style="--share:{share}" title="{escape(text)}">{count}</td>'
        elif way is not None:
            is_denied = (radius.agent, resource) in view.denied
            kind, mark = ("far no", _DENIED) if is_denied else ("far", _FAR)
            text = f"{_ARROW.join(way.path)}: {', '.join(way.actions)}"
            yield f'<td class="{kind}" title="{escape(text)}">{mark}</td>'
        elif (radius.agent, resource) in view.denied:
            yield f'<td class="no" title="{escape(f"a rule denies {radius.agent} {resource}")}">{_DENIED}</td>'
        else:
            yield f"<td{' class=self' if radius.agent == resource else ''}></td>"


def _section(view: _View, radius: Radius, *, is_open: bool) -> str:
    total = max(len(view.landscape.agents), 1)
    direct = sum(way.is_direct for way in radius.reaches)
    bar = (
        f'<svg viewBox="0 0 {total} 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="{total}" height="1"/><rect class="through" width="{len(radius.reaches)}" height="1"/>'
        f'<rect class="direct" width="{direct}" height="1"/></svg>'
    )
    counts = f"{direct} directly, {len(radius.reaches)} in all"
    reaches = _ways(view, "Reaches", ((way.path[-1], way) for way in radius.reaches))
    reached_by = _ways(view, "Reached by", ((way.path[0], way) for way in radius.reached_by))
    return (
        f"<details{' open' if is_open else ''}><summary>"
        f'<span class="name">{escape(radius.agent)}</span>{bar}<span class="count">{counts}</span></summary>\n'
        f'<div class="radius" id="{view.ids[radius.agent]}">{reaches}{reached_by}</div></details>\n'
    )


def _ways(view: _View, caption: str, ways: Iterable[tuple[str, Way]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_link(view, agent)}</th><td>{escape(", ".join(way.actions))}</td>'
        f'<td class="path">{escape(_ARROW.join(way.path))}</td></tr>\n'
        for agent, way in ways
    )
    return f'<table class="ways"><caption>{caption}{"" if rows else " nobody"}</caption>\n{rows}</table>\n'


def _link(view: _View, agent: str) -> str:
    """Return a name that leads to its section, where it has one."""
    section = view.ids.get(agent)
    return f'<a href="#{section}">{escape(agent)}</a>' if section else f'<span class="name">{escape(agent)}</span>'
