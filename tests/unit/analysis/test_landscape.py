"""Who can get where, and what is drawn of it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.example_policies import write_example
from support.large_policies import write_large

from ext_authz.analysis.diagrams import to_dot, to_mermaid
from ext_authz.analysis.landscape import Call, Landscape, Way
from ext_authz.analysis.page import MAX_AGENTS, to_page
from ext_authz.analysis.survey import Survey, survey
from ext_authz.policy.verdict import Rule


@pytest.fixture
def example(tmp_path: Path) -> Survey:
    """Return the survey of the example policy."""
    return survey(write_example(tmp_path))


def test_radius(example: Survey) -> None:
    """An agent reaches whom it may call and whom these reach; each way is a shortest one with what its last step allows."""
    landscape = Landscape.of(example)
    planner, database = landscape.radius("planner-agent"), landscape.radius("database-agent")
    assert (
        Way(("planner-agent", "audit-agent"), ("read", "search")),
        Way(("planner-agent", "database-agent"), ("read",)),
        Way(("planner-agent", "retrieval-agent"), ("read", "search")),
    ) == planner.reaches
    assert () == planner.reached_by
    assert () == database.reaches
    assert (
        Way(("planner-agent", "database-agent"), ("read",)),
        Way(("retrieval-agent", "database-agent"), ("read",)),
    ) == database.reached_by


def test_way_through_others(tmp_path: Path) -> None:
    """Who is between stands in the path, in both directions."""
    (tmp_path / "a.yaml").write_text(
        "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
        "matrix: {a: {b: [read]}, b: {c: [read, write]}, c: {a: [read]}}\n"
        "---\nkind: ActionRegistry\nactions: {read: {asserted: true}, write: {asserted: true}}\n"
    )
    landscape = Landscape.of(survey(tmp_path))
    way = Way(("a", "b", "c"), ("read", "write"))
    assert way == landscape.radius("a").reaches[1]
    assert way == landscape.radius("c").reached_by[1]
    assert Way(("a", "b", "c", "a"), ("read",)) == landscape.radius("a").reaches[2]
    assert not way.is_direct


def test_denied_calls_are_none(example: Survey) -> None:
    """What a rule denies is no call, and its action does not count."""
    landscape = Landscape.of(example)
    assert landscape.call("retrieval-agent", "crm-agent") is None
    assert Call("planner-agent", "database-agent", ("read",), ("matrix.yaml:8",)) == landscape.call(
        "planner-agent", "database-agent"
    )
    assert "crm-agent" not in landscape.agents


def test_around_one_agent(example: Survey) -> None:
    """The surroundings of an agent hold what it reaches, and nothing that only others do."""
    around = Landscape.of(example).around("retrieval-agent")
    assert ["audit-agent", "database-agent", "retrieval-agent"] == around.agents
    assert ["retrieval-agent"] == around.subjects


EVIL = "<script>alert(1)</script>\"'&\\\n#"


def evil() -> Landscape:
    """Return a landscape whose names are as bad as no policy lets them be."""
    rule = Rule(EVIL, EVIL)
    return Landscape({(EVIL, "b"): Call(EVIL, "b", (EVIL,), (EVIL,))}, {EVIL: {"b": rule}})


def test_mermaid(example: Survey) -> None:
    """Each agent is a node, each call an arrow with its actions, and the start is marked."""
    text = to_mermaid(Landscape.of(example).around("retrieval-agent"), "retrieval-agent")
    assert (
        "flowchart LR\n"
        '  n0["audit-agent"]\n  n1["database-agent"]\n  n2["retrieval-agent"]\n'
        '  n2 -->|"read, search"| n0\n  n2 -->|"read"| n1\n'
        "  classDef start stroke-width:3px\n  class n2 start\n"
    ) == text


def test_dot(example: Survey) -> None:
    """The same for Graphviz."""
    lines = to_dot(Landscape.of(example).around("retrieval-agent"), "retrieval-agent").splitlines()
    assert '  "retrieval-agent" [penwidth=3];' in lines
    assert '  "retrieval-agent" -> "audit-agent" [label="read\\nsearch"];' in lines
    assert ("digraph reach {", "}") == (lines[0], lines[-1])


def test_names_cannot_leave_their_quotes() -> None:
    """A name that held quotes, markup or line breaks would still be one label."""
    mermaid, dot = to_mermaid(evil(), None), to_dot(evil(), None)
    assert '  n0["#lt;script#gt;alert(1)#lt;/script#gt;#quot;#' in mermaid
    assert "<" not in mermaid
    assert all(re.fullmatch(r'  "(?:[^"\\\n]|\\.)*"(?: -> .*)?(?: \[.*\])?;', line) for line in dot.splitlines()[4:-1])


class _Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_is_whole_and_alone(example: Survey) -> None:
    """Every tag is closed, every link leads to a section of the page, and nothing comes from elsewhere."""
    page = _Page(to_page(example, Landscape.of(example), None))
    assert [] == page.open
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links
    assert {f"#{name}" for name in ids} >= links
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert not any(
        name in {"src", "srcset", "action"} or name.startswith("on") for _, each in page.tags for name in each
    )
    assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"} in [
        attributes for tag, attributes in page.tags if tag == "meta"
    ]
    assert "url(" not in "".join(page.texts)
    assert "@import" not in "".join(page.texts)


def test_page_shows_the_matrix(example: Survey) -> None:
    """The heat map says how many actions a call has, and in words which and by which rule."""
    page = _Page(to_page(example, Landscape.of(example), None))
    cells = [attributes for tag, attributes in page.tags if tag == "td"]
    assert {
        "planner-agent may call retrieval-agent: read, search (matrix.yaml:6)",
        "planner-agent may call database-agent: read (matrix.yaml:8)",
        "planner-agent may call audit-agent: read, search (matrix.yaml:7, matrix.yaml:12)",
    } <= {cell.get("title") for cell in cells}
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert {"row", "col"} == set(scopes)


def test_page_of_one_agent_begins_with_it_open(example: Survey) -> None:
    """The agent that was asked about needs no click."""
    page = _Page(to_page(example, Landscape.of(example).around("retrieval-agent"), "retrieval-agent"))
    assert 1 == sum("open" in attributes for tag, attributes in page.tags if tag == "details")
    assert "Reach of retrieval-agent" in page.texts


def test_page_escapes_every_text(example: Survey) -> None:
    """A name that held markup would be shown, not followed."""
    text = to_page(example, evil(), EVIL)
    page = _Page(text)
    assert [] == page.open
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert any(EVIL in (attributes.get("title") or "") for _, attributes in page.tags)


def test_large_page_is_cut_and_says_so(tmp_path: Path) -> None:
    """Of many agents those that reach furthest are shown, and how many are left out."""
    found = survey(write_large(tmp_path, 400, agents=200))
    page = _Page(to_page(found, Landscape.of(found), None))
    assert MAX_AGENTS == sum(tag == "details" for tag, _ in page.tags)
    left_out = len(Landscape.of(found).agents) - MAX_AGENTS
    assert f"Shown are the agents that reach furthest; {left_out} more are left out." in page.texts
