"""EgressAllowlist documents: what their entries let whom call, and what their authors are told."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.egress_policies import OTHER, PLANNER, POLICY
from support.written_policies import ACTIONS, HEAD, problems_with, written_policy

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.egress import MAX_EGRESS_LOOKUPS, Egress, OutboundCall, Outlet, OutletKey
from ext_authz.policy.verdict import Rule

CALLS: dict[tuple[str, int, str, str], bool] = {
    ("api.example.com", 443, "GET", "/v1/items"): True,
    ("api.example.com", 443, "POST", "/v1/items/7"): True,
    ("api.example.com", 443, "GET", "/v1"): False,
    ("api.example.com", 443, "GET", "/v1/"): False,
    ("api.example.com", 443, "GET", "/v2/items"): False,
    ("api.example.com", 443, "DELETE", "/v1/items"): False,
    ("api.example.com", 443, "get", "/v1/items"): False,
    ("api.example.com", 80, "GET", "/v1/items"): False,
    ("api.example.com", 8443, "GET", "/v1/items"): False,
    ("example.com", 443, "GET", "/v1/items"): False,
    ("x.api.example.com", 443, "GET", "/v1/items"): False,
    ("a.search.example.com", 443, "GET", "/v1/items"): True,
    ("a.b.search.example.com", 443, "GET", "/v1/items"): True,
    ("search.example.com", 443, "GET", "/v1/items"): False,
    ("evilsearch.example.com", 443, "GET", "/v1/items"): False,
    ("search.example.com.evil.test", 443, "GET", "/v1/items"): False,
    ("retrieval-agent", 8443, "POST", "/any"): True,
    ("retrieval-agent", 443, "POST", "/any"): False,
    ("192.0.2.7", 80, "GET", "/"): True,
    ("192.0.2.8", 80, "GET", "/"): False,
    ("[2001:db8::1]", 443, "GET", "/"): True,
    ("news.example.com", 443, "GET", "/"): False,
}


@pytest.mark.parametrize(("call", "allowed"), CALLS.items())
def test_call(call: tuple[str, int, str, str], allowed: bool) -> None:  # noqa: FBT001  (a column of the table)
    """Host, port, method and path must all be those of one entry."""
    host, port, method, path = call
    egress = written_policy(POLICY).egress
    assert allowed is (egress.find(OutboundCall(PLANNER, host, port), method, path) is not None)


def test_entries_are_of_their_subjects() -> None:
    """An entry of a group is for its members and nobody else; members count by their full IDs."""
    egress = written_policy(POLICY).egress
    callers = [OTHER, PLANNER, SpiffeId.parse_workload("spiffe://partner.test/audit-agent")]
    found = [egress.find(OutboundCall(each, "news.example.com", 443), "GET", "/") for each in callers]
    assert [True, False, False] == [outlet is not None for outlet in found]


def test_rule_names_the_entry() -> None:
    """The rule stands where the entry does, and says who may call which host."""
    outlet = written_policy(POLICY).egress.find(OutboundCall(PLANNER, "a.search.example.com", 443), "GET", "/v1/x")
    assert outlet is not None
    line = POLICY.splitlines().index('    - {hosts: [api.example.com, "*.search.example.com"], methods: [GET, POST], paths: ["/v1/**"]}')  # fmt: skip
    assert (f"policy.yaml:{line + 1}", "planner-agent -> *.search.example.com") == (
        outlet.rule.where.rpartition("/")[2],
        outlet.rule.text,
    )


@pytest.mark.parametrize("order", [("nothing", "headers"), ("headers", "nothing")])
def test_several_entries_screen(order: tuple[str, str]) -> None:
    """Whatever the order, a request that fits two entries is screened unless both say that it is not."""
    entries = "".join(f"    - {{hosts: [a.test], methods: [GET], screen: {screen}}}\n" for screen in order)
    egress = written_policy(f"{HEAD}{ACTIONS}---\nkind: EgressAllowlist\negress:\n  planner-agent:\n{entries}").egress
    outlet = egress.find(OutboundCall(PLANNER, "a.test", 443), "GET", "/")
    assert outlet is not None
    assert outlet.is_screened


def test_documents_add_up() -> None:
    """Entries of several documents count together."""
    more = "---\nkind: EgressAllowlist\negress: {planner-agent: [{hosts: [b.test], methods: [PUT]}]}\n"
    egress = written_policy(POLICY + more).egress
    assert egress.find(OutboundCall(PLANNER, "b.test", 443), "PUT", "/") is not None
    assert egress.find(OutboundCall(PLANNER, "api.example.com", 443), "GET", "/v1/x") is not None


def test_no_document_lets_nobody_out() -> None:
    """Without an EgressAllowlist there is nothing to find."""
    assert None is written_policy(HEAD + ACTIONS).egress.find(OutboundCall(PLANNER, "api.example.com", 443), "GET", "/")


PROBLEMS = {
    "hosts: [user@a.test]": "`user@a.test` is no host: ",
    "hosts: ['a.test:443']": "`a.test:443` is no host: ports stand in `ports`",
    "hosts: ['::1']": "`::1` is no host: ports stand in `ports`, an IPv6 address in brackets",
    "hosts: [https://a.test]": "`https://a.test` is no host: ",
    "hosts: ['*']": "`*` is no host: a wildcard stands alone before the first dot: *.example.com",
    "hosts: [a.*.test]": "`a.*.test` is no host: a wildcard stands alone before the first dot",
    "hosts: ['*a.test']": "`*a.test` is no host: a wildcard stands alone before the first dot",
    "hosts: ['*.*.test']": "`*.*.test` is no host: ",
    "hosts: ['*.com']": "`*.com` is no host: a wildcard below a single label is nearly everybody",
    "hosts: ['*.0.2.7']": "`*.0.2.7` is no host: ",
    "hosts: ['*.192.0.2.7']": "`*.192.0.2.7` is no host: nothing is below an address",
    "hosts: ['*.[::1]']": "`*.[::1]` is no host: nothing is below an address",
    "hosts: [127.1]": "expected text, got `127.1`: put it in quotes",
    "hosts: ['127.1']": "`127.1` is no host: a host that ends in a number is an IPv4 address",
    "hosts: [bücher.test]": "`bücher.test` is no host: ",
    "hosts: [a.test], paths: [v1]": "`v1` is not a path: ",
    "hosts: [a.test], paths: ['/v1/*']": "`/v1/*`: `*` is no wildcard",
    "hosts: [a.test], paths: ['/a/../b']": "`/a/../b`: no request can have this path",
    "hosts: [a.test], ports: [0]": "expected at least 1, got `0`",
    "hosts: [a.test], ports: ['443']": "expected a whole number, got `443`: leave out the quotes",
    "hosts: [a.test], port: [443]": "unknown key `port`: did you mean `ports`?",
    "hosts: [a.test], screen: body": "expected `headers` or `nothing`, got `body`",
    "hosts: []": "nothing stands here: write at least one entry",
}


@pytest.mark.parametrize(("entry", "problem"), PROBLEMS.items())
def test_problem(entry: str, problem: str) -> None:
    """What an author wrote wrong is told with its place and what was expected."""
    text = f"{HEAD}{ACTIONS}---\nkind: EgressAllowlist\negress:\n  planner-agent:\n    - {{{entry}, methods: [GET]}}\n"
    [found] = problems_with(text)
    line = len(text.splitlines())
    assert found.startswith(f"policy.yaml:{line}:"), found
    assert problem in found


def test_problems_of_names() -> None:
    """A group that is not there, and a name that is none, are told with what may have been meant."""
    document = "---\nkind: EgressAllowlist\ngroups: {readers: [a b]}\negress:\n"
    entries = '  "@reader": [{hosts: [a.test], methods: [GET]}]\n  "x y": [{hosts: [a.test], methods: [get]}]\n'
    text = HEAD + ACTIONS + document + entries.replace("get", "GET")
    start = len((HEAD + ACTIONS).splitlines())
    first, second, third = problems_with(text)
    assert first.startswith(f"policy.yaml:{start + 3}:20: `a b` names no workload: ")
    assert f"policy.yaml:{start + 5}:3: unknown group `reader`: did you mean `readers`?" == second
    assert third.startswith(f"policy.yaml:{start + 6}:3: `x y` names no workload: ")


def test_entries_that_explode() -> None:
    """A small file cannot stand for millions of look-ups."""
    groups = ", ".join(f"a{number}" for number in range(60))
    hosts = ", ".join(f"h{number}.test" for number in range(60))
    ports = ", ".join(str(number) for number in range(1, 61))
    document = f"---\nkind: EgressAllowlist\ngroups: {{all: [{groups}]}}\negress:\n"
    entry = f'  "@all": [{{hosts: [{hosts}], ports: [{ports}], methods: [GET]}}]\n'
    [problem] = problems_with(HEAD + ACTIONS + document + entry)
    assert f"more than {MAX_EGRESS_LOOKUPS} combinations" in problem


LABELS = st.sampled_from(["a", "b", "com"])
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
WRITTEN = HOSTS | st.lists(LABELS, min_size=2, max_size=3).map(lambda labels: "*." + ".".join(labels))
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([PLANNER, OTHER]),
        st.lists(WRITTEN, min_size=1, max_size=3),
        st.sampled_from([[443], [80, 443]]),
        st.sampled_from([["GET"], ["POST", "GET"]]),
        st.booleans(),
    ),
    max_size=4,
)


def _slow(
    entries: list[tuple[SpiffeId, list[str], list[int], list[str], bool]], call: OutboundCall, method: str
) -> object:
    """Say what `Egress.find` should find, by the letter of the documentation: None, or whether it screens."""
    fitting = [
        screens
        for subject, hosts, ports, methods, screens in entries
        if subject == call.subject and call.port in ports and method in methods
        if any(host == call.host or (host[0] == "*" and call.host.endswith(host[1:])) for host in hosts)
    ]
    return any(fitting) if fitting else None


@given(ENTRIES, st.sampled_from([PLANNER, OTHER]), HOSTS, st.sampled_from([80, 443]), st.sampled_from(["GET", "POST"]))
def test_lookup_agrees_with_a_slow_matcher(
    entries: list[tuple[SpiffeId, list[str], list[int], list[str], bool]],
    subject: SpiffeId,
    host: str,
    port: int,
    method: str,
) -> None:
    """The dictionary says what a walk over all entries says."""
    outlets: dict[OutletKey, tuple[Outlet, ...]] = {}
    for owner, hosts, ports, methods, screens in entries:
        for each in product(dict.fromkeys(hosts), ports, methods):
            key = OutletKey(owner.uri, *each)
            outlets[key] = (*outlets.get(key, ()), Outlet(Rule("x:1", "x"), None, screens))
    call = OutboundCall(subject, host, port)
    found = Egress(outlets).find(call, method, "/")
    assert _slow(entries, call, method) is (None if found is None else found.is_screened)
