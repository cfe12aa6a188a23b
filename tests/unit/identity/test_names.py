"""The names of policy authors and the SPIFFE IDs that they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.identity.names import Names, check_names
from ext_authz.identity.spiffe_id import SpiffeIdError

PLAIN = Names("example.org")
KUBERNETES = Names("example.org", "ns/agents/sa/{name}")


@pytest.mark.parametrize(
    ("uri", "names", "name"),
    [
        ("spiffe://example.org/planner", PLAIN, "planner"),
        ("spiffe://example.org/ns/agents/sa/planner", KUBERNETES, "planner"),
        ("spiffe://example.org/ns/other/sa/planner", KUBERNETES, "ns/other/sa/planner"),
        ("spiffe://example.org/planner", KUBERNETES, "/planner"),
        ("spiffe://partner.test/x", KUBERNETES, "spiffe://partner.test/x"),
    ],
)
def test_names_and_what_they_mean(uri: str, names: Names, name: str) -> None:
    """An ID is taken whole, a path is one in the trust domain, and anything else goes through `id_path`."""
    assert uri == names.resolve(name).uri


@pytest.mark.parametrize(
    "name", ["", "a b", "a\n", "*", "/", "//a", "a/", "../a", "spiffe://example.org", "https://a/b", "{name}"]
)
def test_names_that_mean_nothing(name: str) -> None:
    """What would not become a workload's ID is an error, never another workload."""
    with pytest.raises(SpiffeIdError):
        PLAIN.resolve(name)


@pytest.mark.parametrize("names", [PLAIN, KUBERNETES])
def test_good_names(names: Names) -> None:
    """The default and the one of Kubernetes are valid."""
    check_names(names)


@pytest.mark.parametrize(
    "names",
    [
        Names(""),
        Names("Example.org"),
        Names("example.org/x"),
        Names("example.org:1"),
        Names("example.org", ""),
        Names("example.org", "agents"),
        Names("example.org", "{name}/{name}"),
        Names("example.org", "/{name}"),
        Names("example.org", "{name}/"),
        Names("example.org", "a b/{name}"),
        Names("a" * 256),
    ],
    ids=str,
)
def test_bad_names(names: Names) -> None:
    """A trust domain or `id_path` that would make no ID is found before any name is resolved."""
    with pytest.raises(SpiffeIdError):
        check_names(names)


@given(
    st.sampled_from([PLAIN, KUBERNETES, Names("example.org", "x-{name}-y")]),
    st.sampled_from(["example.org", "partner.test"]),
    st.lists(st.sampled_from(["ns", "agents", "sa", "planner", "x-planner-y", "x--y", "a.b"]), min_size=1, max_size=5),
)
def test_name_of_a_workload_means_it(names: Names, trust_domain: str, segments: list[str]) -> None:
    """What people are told is what they could have written: it means the same workload."""
    uri = f"spiffe://{trust_domain}/{'/'.join(segments)}"
    assert uri == names.resolve(names.name_of(uri)).uri


@pytest.mark.parametrize(
    ("uri", "names", "name"),
    [
        ("spiffe://example.org/planner", PLAIN, "planner"),
        ("spiffe://example.org/ns/x/sa/y", PLAIN, "ns/x/sa/y"),
        ("spiffe://example.org/ns/agents/sa/planner", KUBERNETES, "planner"),
        ("spiffe://example.org/ns/other/sa/planner", KUBERNETES, "ns/other/sa/planner"),
        ("spiffe://example.org/planner", KUBERNETES, "/planner"),
        ("spiffe://partner.test/planner", PLAIN, "spiffe://partner.test/planner"),
        ("spiffe://example.org.evil/planner", PLAIN, "spiffe://example.org.evil/planner"),
    ],
)
def test_shortest_name(uri: str, names: Names, name: str) -> None:
    """Names are as short as the policy lets authors write them."""
    assert name == names.name_of(uri)
