"""Which route a request fits, and which routes could fit the same request."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.check_requests import agent

from ext_authz.action.by_resource import Resources
from ext_authz.action.routes import RouteError, RouteTable
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
    "GET /files/**",
    "GET /tasks/{id}",
    "GET /tasks/{id}:subscribe",
    "POST /tasks/{id}:cancel",
    "POST /tasks/{id}/{part}:cancel",
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
    ("GET", "/files/a"): "GET /files/**",
    ("GET", "/files/a/b.txt"): "GET /files/**",
    ("GET", "/files/a/"): "GET /files/**",
    ("GET", "/files/**"): "GET /files/**",
    ("GET", "/tasks/7"): "GET /tasks/{id}",
    ("GET", "/tasks/7:subscribe"): "GET /tasks/{id}:subscribe",
    ("GET", "/tasks/7%3Asubscribe"): "GET /tasks/{id}:subscribe",
    ("GET", "/tasks/7%3asubscribe"): "GET /tasks/{id}:subscribe",
    ("GET", "/tasks/a:b:subscribe"): "GET /tasks/{id}:subscribe",
    ("GET", "/tasks/7:cancel"): "GET /tasks/{id}",
    ("GET", "/tasks/:subscribe"): "GET /tasks/{id}",
    ("GET", "/tasks/7:Subscribe"): "GET /tasks/{id}",
    ("POST", "/tasks/7:cancel"): "POST /tasks/{id}:cancel",
    ("POST", "/tasks/7/8:cancel"): "POST /tasks/{id}/{part}:cancel",
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
    ("GET", "/files"): None,
    ("GET", "/files/"): None,
    ("POST", "/files/a"): None,
    ("POST", "/tasks/7"): None,
    ("POST", "/tasks/:cancel"): None,
    ("POST", "/tasks/7:cancel/"): None,
    ("GET", "/tasks/7:subscribe/8"): None,
    ("{}", "/"): None,
    ("", "/"): None,
}


@pytest.mark.parametrize(("request_line", "route"), FOUND.items(), ids=str)
def test_route_of_a_request(request_line: tuple[str, str], route: str | None) -> None:
    """Segments compare byte for byte, a parameter is one segment that is not empty, and a slash at the end counts."""
    table = table_of(*ROUTES)
    assert route == table.find(*request_line, DATABASE)


AMBIGUOUS = "no request can have this path: the path can be read in more than one way; send it normalised"
PARAMETER = "a parameter is one whole segment, a name in lower case: {id}; the last may have a verb: {id}:cancel"
WILDCARD = "`*` is no wildcard: write {name} for one segment, or `**` as the last segment for all that follow"
NO_ROUTES = {
    "GET /files/a{b}c": PARAMETER,
    "GET /{ID}": PARAMETER,
    "GET /{}": PARAMETER,
    "GET /{9a}": PARAMETER,
    "GET /{id": PARAMETER,
    "GET /id}": PARAMETER,
    "GET /files/*": WILDCARD,
    "GET /**/a": WILDCARD,
    "GET /a/*/**": WILDCARD,
    "GET /{x}**": PARAMETER,
    "GET /{id}:": PARAMETER,
    "GET /{id}:{verb}": PARAMETER,
    "GET /{id}:a/b": PARAMETER,
    "GET /{id}:9": PARAMETER,
    "GET **": "no request can have this path: the path does not begin with a slash",
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
    "tail and literal": ("GET /a/**", "GET /a/b", True),
    "tail and what is deeper": ("GET /a/**", "GET /a/{x}/c", True),
    "tail and its own beginning": ("GET /a/**", "GET /a", False),
    "tail and a slash at the end": ("GET /a/**", "GET /a/", False),
    "tail and a slash further down": ("GET /a/**", "GET /a/b/", True),
    "tail and another beginning": ("GET /a/**", "GET /b/c", False),
    "tail and parameter": ("GET /a/**", "GET /{x}/b", True),
    "tail and a verb": ("GET /a/**", "GET /a/{x}:go", True),
    "tails, one in the other": ("GET /a/**", "GET /a/b/**", True),
    "tails apart": ("GET /a/**", "GET /b/**", False),
    "tail and other method": ("GET /**", "PUT /a", False),
    "tail and root": ("GET /**", "GET /", False),
    "parameter and the same with a verb": ("GET /{x}", "GET /{x}:go", False),
    "parameter with a verb further up": ("GET /a/{x}", "GET /{y}/{x}:go", False),
    "parameter in the middle": ("GET /{x}/b", "GET /{x}:go", False),
    "verb and literal with it": ("GET /{x}:go", "GET /a:go", True),
    "verb and literal with its colon encoded": ("GET /{x}:go", "GET /a%3Ago", True),
    "verb and literal without a name": ("GET /{x}:go", "GET /:go", False),
    "verb and another": ("GET /{x}:go", "GET /{x}:stop", False),
    "verbs alike": ("GET /{x}:go", "GET /{y}:go", True),
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


def test_verb_counts_before_a_parameter_where_both_are_known() -> None:
    """A route with a verb hides the one without only on its own resources."""
    table: RouteTable[str] = RouteTable()
    table.add("GET /{id}", None, "parameter")
    table.add("GET /{id}:go", frozenset({DATABASE}), "verb")
    assert ["verb", "parameter"] == [table.find("GET", "/a:go", each) for each in (DATABASE, SEARCH)]


SEGMENTS = st.sampled_from(["a", "b", "a:go", "{x}", "{y}"])
LAST = st.sampled_from([[], [""], ["**"], ["{x}:go"], ["{y}:stop"]])
ROUTE = st.builds(
    lambda method, segments, last: f"{method} /{'/'.join([*segments, *last])}",
    st.sampled_from(["GET", "PUT"]),
    st.lists(SEGMENTS, max_size=3),
    LAST,
)
# Every path of up to three segments over a few words, with and without a slash at the end.
PATHS = [
    "/",
    *(
        f"/{'/'.join(segments)}{end}"
        for count in (1, 2, 3)
        for segments in product(("a", "c", "a:go", "c%3Ago", ":go"), repeat=count)
        for end in ("", "/")
    ),
]


def fits(route: str, method: str, path: str) -> bool:
    """Whether a request fits a route, found the slow and obvious way."""
    wanted_method, _, pattern = route.partition(" ")
    wanted, given_segments = pattern.split("/")[1:], path.split("/")[1:]
    if wanted[-1] == "**":
        begins = len(given_segments) >= len(wanted) and given_segments[len(wanted) - 1] != ""
        wanted, given_segments = wanted[:-1], given_segments[: len(wanted) - 1]
        if not begins:
            return False
    return (
        wanted_method == method
        and len(wanted) == len(given_segments)
        and all(segment_fits(segment, given) for segment, given in zip(wanted, given_segments, strict=True))
    )


def segment_fits(wanted: str, given: str) -> bool:
    """Whether one segment of a request fits one of a route."""
    if not wanted.startswith("{"):
        return wanted == given
    verb = wanted.partition("}")[2]
    name = given.replace("%3A", ":").removesuffix(verb)
    return name != "" and given.replace("%3A", ":") == name + verb


def counting(routes: list[str], method: str, path: str) -> list[int]:
    """Return the routes that fit a request and count: one with a verb hides those that end in a parameter alone."""
    fitting = [number for number, route in enumerate(routes) if fits(route, method, path)]
    if any("}:" in routes[number] for number in fitting):
        fitting = [number for number in fitting if not routes[number].endswith("}")]
    return fitting


@settings(max_examples=150, deadline=None)
@given(routes=st.lists(ROUTE, max_size=6))
def test_table_agrees_with_the_obvious_search(routes: list[str]) -> None:
    """The table finds a route exactly when some route fits; if two could count, adding the later one named the earlier."""
    table: RouteTable[int] = RouteTable()
    rivals = [set(table.add(route, None, number)) for number, route in enumerate(routes)]
    for method, path in product(("GET", "PUT"), PATHS):
        candidates = counting(routes, method, path)
        found = table.find(method, path, DATABASE)
        assert found in candidates if candidates else found is None
        assert all(set(candidates[:position]) <= rivals[number] for position, number in enumerate(candidates))


@pytest.mark.parametrize("pattern", ["/{tenant}/{id}", "/{tenant}/**", "/files/{id}:read", "/files/name"])
def test_many_routes_are_found_where_they_stand(pattern: str) -> None:
    """Ten thousand routes beside one pattern change nothing about which is found."""
    table: RouteTable[str] = RouteTable()
    for number in range(10_000):
        table.add(f"POST /service-{number}/call", None, f"{number}")
    assert [] == table.add(f"GET {pattern}", None, "pattern")
    assert ["9999", "0", None] == [
        table.find("POST", f"/service-{number}/call", DATABASE) for number in (9_999, 0, 10_000)
    ]
    path = pattern.replace("{tenant}", "t").replace("{id}", "7").replace("**", "a/b/c")
    assert "pattern" == table.find("GET", path, DATABASE)
