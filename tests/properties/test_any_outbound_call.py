"""Whatever an outbound sidecar sends: an explicit answer, one record, and no allow that no entry gives."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from properties.strategies import HEADER_NAMES, header_values, texts
from support.authorizers import new_authorizer
from support.egress_policies import OTHER, PLANNER, egress_snapshot, outbound

from ext_authz.errors import Outcome, Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.pb.external_auth_pb2 import CheckResponse

AUTHORIZER, RECORDER = new_authorizer(egress_snapshot())

# What the entries of the policy let the planner call, as a reader of the document would say it.
GRANTED = [
    re.compile(r"(GET|POST) (api\.example\.com|[a-z0-9.-]+\.search\.example\.com) 443 /v1/.+"),
    re.compile(r"POST retrieval-agent 8443 /.*"),
    re.compile(r"GET (192\.0\.2\.7|\[2001:db8::1\]) (80|443) /.*"),
]

hosts = st.tuples(
    st.sampled_from(["", "", "", "x.", "user@", ".", "-", "*.", "API."]),
    st.sampled_from(
        [
            *("api.example.com", "a.search.example.com", "search.example.com", "evil.example.com", "retrieval-agent"),
            *("192.0.2.7", "[2001:db8::1]", "[2001:DB8::1]", "3221225991"),
        ]
    )
    | texts,
    st.sampled_from(["", "", "", ".", "..", "%2e", ".evil.test", "@evil.test"]),
    st.sampled_from(["", "", ":443", ":8443", ":80", ":0443", ":"]),
).map("".join)
given_extensions = st.fixed_dictionaries(
    {},
    optional={
        "workload": st.sampled_from([PLANNER.uri, PLANNER.uri, OTHER.uri, ""]),
        "port": st.sampled_from(["443", "8443", "0", "x", ""]),
        "direction": st.sampled_from(["egress", "egress", "inbound", "EGRESS"]),
    },
)


def _port(host: str, scheme: str, extensions: dict[str, str]) -> str:
    written = host.rpartition("]")[2].partition(":")[2]
    return extensions.get("port") or written or {"https": "443", "http": "80"}[scheme]


@given(
    host=hosts,
    request_line=st.tuples(
        st.sampled_from(["GET", "POST", "DELETE", "get"]),
        st.sampled_from(["/v1/items", "/v1/a/b", "/v1/items?q=a", "/v2/items", "/v1", "/", "/v1/../v2"]),
        st.sampled_from(["https", "https", "http", "", "ftp"]),
    ),
    headers=st.dictionaries(st.sampled_from(HEADER_NAMES), header_values | texts, max_size=2),
    extensions=given_extensions,
    peer=st.sampled_from([PLANNER, PLANNER, PLANNER, OTHER, None]),
)
@example("API.example.com.:443", ("GET", "/v1/items", "http"), {}, {}, PLANNER)
@example("[2001:DB8::1]", ("GET", "/", "https"), {}, {"port": "80"}, PLANNER)
def test_no_allow_without_an_entry(
    host: str,
    request_line: tuple[str, str, str],
    headers: dict[str, str],
    extensions: dict[str, str],
    peer: SpiffeId | None,
) -> None:
    """What is allowed is a call of the listener's workload that some entry lists; nothing fails inside."""
    RECORDER.records.clear()
    method, path, scheme = request_line
    question = outbound(host, path, method=method, scheme=scheme, headers=headers, extensions=extensions)
    response = CheckResponse.FromString(AUTHORIZER.check(question, peer=peer))
    [record] = RECORDER.records
    assert record.reason is not Reason.INTERNAL_ERROR, record.fault
    assert (record.reason.meaning.outcome is Outcome.ALLOW) is response.HasField("ok_response")
    if record.reason is Reason.ALLOWED:
        name = re.sub(r":[0-9]+$", "", host).lower().removesuffix(".")
        call = f"{method} {name} {_port(host, scheme, extensions)} {path}"
        assert any(entry.fullmatch(call) for entry in GRANTED), call
        assert (PLANNER, PLANNER.uri) == (peer, extensions.get("workload", PLANNER.uri))


def test_examples_are_allowed() -> None:
    """The property is not empty: both of its examples are allowed."""
    questions = [
        outbound("API.example.com.:443", scheme="http"),
        outbound("[2001:DB8::1]", "/", extensions={"port": "80"}),
    ]
    answers = [CheckResponse.FromString(AUTHORIZER.check(each, peer=PLANNER)) for each in questions]
    assert all(answer.HasField("ok_response") for answer in answers)
