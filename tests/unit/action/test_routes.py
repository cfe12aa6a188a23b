"""Which route a request fits, and which routes could fit the same request."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.check_requests import agent

from ext_authz.action.routes import Resources, RouteError, RouteTable
from ext_authz.identity.spiffe_id import SpiffeId

DATABASE, SEARCH = (SpiffeId.parse_workload(agent(name)) for name in ("database-agent", "retrieval-agent"))


def table_of(*routes: str, resources: Resources = None) -> RouteTable[str]:
    """Return a table in which each route is its own target."""
    table: RouteTable[str] = RouteTable()
    for route in routes:
        table.add(route, resources, route)
    return table


ROUTES = (
    "POST /v1/search",
    "GET /records/{id}",
    "GET /records/{id}/history",
    "GET /records",
    "GET /slash/",
    "GET /",
    "PUT /{one}/{two}/{three}",
    "PUT /a/b",
    "DELETE /caf%C3%A9",
    "OPTIONS /x/{id_2}",
)
FOUND = {
    ("POST", "/v1/search"): "POST /v1/search",
    ("GET", "/records/7"): "GET /records/{id}",
    ("GET", "/records/a-b._~!$&'()*+,=:@"): "GET /records/{id}",
    ("GET", "/records/%C3%A9"): "GET /records/{id}",
    ("GET", "/records/7/history"): "GET /records/{id}/history",
    ("GET", "/records"): "GET /records",
    ("GET", "/slash/"): "GET /slash/",
    ("GET", "/"): "GET /",
    ("PUT", "/a/b/c"): "PUT /{one}/{two}/{three}",
    ("PUT", "/a/b"): "PUT /a/b",
    ("DELETE", "/caf%C3%A9"): "DELETE /caf%C3%A9",
    ("OPTIONS", "/x/y"): "OPTIONS /x/{id_2}",
    # Nothing fits: another method, case, slash, number of segments or encoding.
    ("GET", "/v1/search"): None,
    ("post", "/v1/search"): None,
    ("POST", "/v1/Search"): None,
    ("POST", "/v1/search/"): None,
    ("POST", "/v1"): None,
    ("POST", "/v1/search/more"): None,
    ("HEAD", "/records"): None,
    ("GET", "/records/"): None,
    ("GET", "/records/7/"): None,
    ("GET", "/records/7/8"): None,
    ("GET", "/records//history"): None,
    ("GET", "/slash"): None,
    ("GET", ""): None,
    ("PUT", "/a"): None,
    ("PUT", "/a//c"): None,
    ("PUT", "/a/b/c/d"): None,
    ("DELETE", "/caf%c3%a9"): None,
    ("DELETE", "/café"): None,
    ("{}", "/"): None,
    ("", "/"): None,
}


@pytest.mark.parametrize(("request_line", "route"), FOUND.items(), ids=str)
def test_route_of_a_request(request_line: tuple[str, str], route: str | None) -> None:
    """Segments compare byte for byte, a parameter is one segment that is not empty, and a slash at the end counts."""
    table = table_of(*ROUTES)
    assert route == table.find(*request_line, DATABASE)


AMBIGUOUS = "no request can have this path: the path can be read in more than one way; send it normalised"
PARAMETER = "a parameter is one whole segment, a name in lower case: {id}"
WILDCARD = "`*` is no wildcard: write {name}, which stands for one segment"
NO_ROUTES = {
    "GET /files/a{b}c": PARAMETER,
    "GET /{ID}": PARAMETER,
    "GET /{}": PARAMETER,
    "GET /{9a}": PARAMETER,
    "GET /{id": PARAMETER,
    "GET /id}": PARAMETER,
    "GET /files/*": WILDCARD,
    "GET /**/a": WILDCARD,
    "GET /a//b": AMBIGUOUS,
    "GET /a/../b": AMBIGUOUS,
    "GET /.": AMBIGUOUS,
    "GET /a;b": AMBIGUOUS,
    "GET /a%2Fb": AMBIGUOUS,
    "GET /a%2fb": AMBIGUOUS,
    "GET /%41": AMBIGUOUS,
    "GET /a\\b": AMBIGUOUS,
    "GET /a#b": AMBIGUOUS,
    "GET /café": AMBIGUOUS,
    "GET /a?b=c": "a route has no query",
    "GET /a?": "a route has no query",
    "GET /{id}?": "a route has no query",
    "GET records": "no request can have this path: the path does not begin with a slash",
    f"GET /{'a' * 8192}": "no request can have this path: the path has more than 8192 bytes",
}


@pytest.mark.parametrize(("route", "message"), NO_ROUTES.items(), ids=lambda value: str(value)[:40])
def test_route_that_no_request_can_have(route: str, message: str) -> None:
    """A route that the request contract refuses would never fit anything; it is an error, not a dead letter."""
    with pytest.raises(RouteError) as caught:
        table_of(route)
    assert message == str(caught.value)


OVERLAPS = {
    "same": ("GET /a", "GET /a", True),
    "other method": ("GET /a", "PUT /a", False),
    "other path": ("GET /a", "GET /b", False),
    "parameter and literal": ("GET /{x}", "GET /a", True),
    "literal and parameter": ("GET /a", "GET /{x}", True),
    "parameters of other names": ("GET /{x}", "GET /{y}", True),
    "crossing": ("GET /{x}/b", "GET /a/{y}", True),
    "crossing elsewhere": ("GET /{x}/b/c", "GET /a/{y}/d", False),
    "parameter and root": ("GET /{x}", "GET /", False),
    "parameter and slash at the end": ("GET /a/{x}", "GET /a/", False),
    "slash at the end": ("GET /a", "GET /a/", False),
    "slash behind a parameter": ("GET /{x}/", "GET /a/", True),
    "other length": ("GET /{x}", "GET /a/b", False),
    "method is no segment": ("GET /a", "GET /GET", False),
}


@pytest.mark.parametrize(("one", "other", "overlap"), OVERLAPS.values(), ids=OVERLAPS)
def test_routes_that_fit_the_same_request(one: str, other: str, overlap: bool) -> None:  # noqa: FBT001
    """Two routes overlap when some request fits both; which one came first does not matter."""
    for first, second in ((one, other), (other, one)):
        table: RouteTable[str] = RouteTable()
        assert [] == table.add(first, None, "first")
        assert (["first"] if overlap else []) == table.add(second, None, "second")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (None, None, True),
        (None, {DATABASE}, True),
        ({DATABASE}, {DATABASE, SEARCH}, True),
        ({DATABASE}, {SEARCH}, False),
        (set(), None, False),
    ],
)
def test_routes_on_different_resources(one: set[SpiffeId] | None, other: set[SpiffeId] | None, overlap: bool) -> None:  # noqa: FBT001
    """The same route may mean another action on another resource."""
    first, second = (None if names is None else frozenset(names) for names in (one, other))
    table: RouteTable[str] = RouteTable()
    table.add("GET /a", first, "first")
    if one == set():
        assert [] == table.add("GET /a", frozenset({DATABASE}), "second")
    else:
        assert (["first"] if overlap else []) == table.add("GET /a", second, "second")


def test_route_counts_on_its_resources_only() -> None:
    """A route that is narrowed to resources is unknown on every other one."""
    table: RouteTable[str] = RouteTable()
    table.add("GET /a", frozenset({DATABASE}), "database")
    table.add("GET /a", frozenset({SEARCH}), "search")
    table.add("GET /{x}/b", frozenset({DATABASE}), "parameter")
    other = SpiffeId.parse_workload(agent("audit-agent"))
    assert ["database", "search", None] == [table.find("GET", "/a", each) for each in (DATABASE, SEARCH, other)]
    assert ["parameter", None] == [table.find("GET", "/a/b", each) for each in (DATABASE, SEARCH)]


def test_literal_on_one_resource_does_not_hide_a_parameter_on_another() -> None:
    """Where the literal route does not count, the one with a parameter still fits."""
    table: RouteTable[str] = RouteTable()
    table.add("GET /a", frozenset({DATABASE}), "literal")
    table.add("GET /{x}", frozenset({SEARCH}), "parameter")
    assert ["literal", "parameter"] == [table.find("GET", "/a", each) for each in (DATABASE, SEARCH)]


SEGMENTS = st.sampled_from(["a", "b", "{x}", "{y}"])
ROUTE = st.builds(
    lambda method, segments, slash: f"{method} /{'/'.join(segments)}{'/' if slash and segments else ''}",
    st.sampled_from(["GET", "PUT"]),
    st.lists(SEGMENTS, max_size=3),
    st.booleans(),
)
PATH = st.builds(
    lambda segments, slash: f"/{'/'.join(segments)}{'/' if slash and segments else ''}",
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
    st.booleans(),
)


def fits(route: str, method: str, path: str) -> bool:
    """Whether a request fits a route, found the slow and obvious way."""
    wanted_method, _, pattern = route.partition(" ")
    wanted, given_segments = pattern.split("/"), path.split("/")
    return (
        wanted_method == method
        and len(wanted) == len(given_segments)
        and all(
            segment == other or (segment.startswith("{") and other)
            for segment, other in zip(wanted, given_segments, strict=True)
        )
    )


@settings(max_examples=300, deadline=None)
@given(routes=st.lists(ROUTE, max_size=6), method=st.sampled_from(["GET", "PUT"]), path=PATH)
def test_table_agrees_with_the_obvious_search(routes: list[str], method: str, path: str) -> None:
    """The table finds a route exactly when some route fits; if two fit, adding the later one named the earlier."""
    table: RouteTable[int] = RouteTable()
    rivals = [set(table.add(route, None, number)) for number, route in enumerate(routes)]
    fitting = [number for number, route in enumerate(routes) if fits(route, method, path)]
    found = table.find(method, path, DATABASE)
    assert found in fitting if fitting else found is None
    assert all(set(fitting[:position]) <= rivals[number] for position, number in enumerate(fitting))
