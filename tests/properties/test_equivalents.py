"""What is fast equals what is simple: the memory and its function, the route tree and a list of routes."""

import itertools
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from properties.strategies import EXAMPLES
from support.check_requests import agent

from ext_authz.action.routes import RouteTable
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.memo import Memo


def _compute(text: str) -> tuple[str, int]:
    if text.startswith("!"):
        raise ValueError(text)
    return text.upper(), len(text)


@EXAMPLES
@given(st.lists(st.text("ab!", max_size=4), max_size=60), st.integers(1, 4), st.integers(0, 4))
def test_memo_equals_its_function(texts: list[str], max_entries: int, max_characters: int) -> None:
    """Whatever was asked before, a memo returns what its function returns, and remembers no more than it may."""
    memo = Memo(_compute, max_entries=max_entries, max_characters=max_characters)
    for text in texts:
        try:
            expected: object = _compute(text)
        except ValueError as error:
            expected = str(error)
        try:
            value: object = memo(text)
        except ValueError as error:
            value = str(error)
        assert expected == value
        assert len(memo._young) <= max_entries
        assert len(memo._old) <= max_entries


METHODS = ["GET", "POST"]
RESOURCES = [SpiffeId.parse_workload(agent(name)) for name in ("a", "b")]
# Paths over two words, with and without a slash at the end: few enough to ask for all of them.
PATHS = [
    "/",
    *(
        "/" + "/".join(words) + end
        for n in (1, 2, 3)
        for words in itertools.product("xy", repeat=n)
        for end in ("", "/")
    ),
]


class Route(NamedTuple):
    """A route as a list of segments."""

    method: str
    segments: tuple[str, ...]
    resources: frozenset[SpiffeId] | None

    def fits(self, method: str, path: str, resource: SpiffeId) -> bool:
        """Say whether this is the route of a request, segment by segment."""
        given = path.split("/")[1:]
        return (
            self.method == method
            and (self.resources is None or resource in self.resources)
            and len(given) == len(self.segments)
            and all(mine == its or (mine == "{id}" and its) for mine, its in zip(self.segments, given, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.method} /{'/'.join(self.segments)}"


segments = st.lists(st.sampled_from(["x", "y", "{id}"]), max_size=3)
routes = st.builds(
    lambda method, words, slash, resources: Route(
        method, (*words, "") if slash or not words else tuple(words), resources
    ),
    st.sampled_from(METHODS),
    segments,
    st.booleans(),
    st.none() | st.frozensets(st.sampled_from(RESOURCES), min_size=1),
)
REQUESTS = list(itertools.product(METHODS, PATHS, RESOURCES))


@EXAMPLES
@given(st.lists(routes, max_size=6))
def test_route_table_equals_a_list_of_routes(given_routes: list[Route]) -> None:
    """A table finds a route exactly where one of its routes fits, and names the rivals of each new route."""
    table: RouteTable[int] = RouteTable()
    fitting = [{request for request in REQUESTS if route.fits(*request)} for route in given_routes]
    for number, route in enumerate(given_routes):
        rivals = {other for other in range(number) if fitting[other] & fitting[number]}
        assert rivals == set(table.add(str(route), route.resources, number))
    for request in REQUESTS:
        found = table.find(*request)
        candidates = {number for number, requests in enumerate(fitting) if request in requests}
        assert found in candidates if candidates else found is None


@EXAMPLES
@given(st.text("/xy{}a", max_size=8))
def test_paths_outside_of_the_table(path: str) -> None:
    """A path that no route has, braces and empty segments included, finds nothing and raises nothing."""
    table: RouteTable[str] = RouteTable()
    for text in ("GET /x/{id}", "GET /y", "GET /x/y/"):
        table.add(text, None, text)
    found = table.find("GET", path, RESOURCES[0])
    words = path.split("/")
    expected = {
        "GET /x/{id}": words[:2] == ["", "x"] and len(words) == 3 and words[2] != "",
        "GET /y": path == "/y",
        "GET /x/y/": path == "/x/y/",
    }
    if path.startswith("/"):
        assert [text for text, fits in expected.items() if fits] == ([found] if found else [])
