"""The claims of one link: every rule of the profile that looks at one link alone, and the last value that it allows."""

from collections.abc import Mapping
from typing import Any

import pytest
from support.delegations import BROKER, CRM, DROP, NOW, PLANNER, RETRIEVER, STS, TARGETS, claims_of, workload, world

from ext_authz.tokens.claims import MAX_DEPTH, MAX_SCOPES, MAX_TARGETS, MAX_TTL_SECONDS, ClaimError, Claims, Origin
from ext_authz.tokens.jws import encode_base64url

HASH = encode_base64url(bytes(32))
ORIGIN = {"h": HASH, "n": 1, "jti": ["a" * 16], "act": [PLANNER.uri]}


def parsed(**changes: Any) -> Claims:
    members: Mapping[str, Any] = claims_of(world().root()) | changes
    return Claims.parse({name: value for name, value in members.items() if value is not DROP})


def origin(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (ORIGIN | changes).items() if value is not DROP}


def test_typed() -> None:
    """Claims become SPIFFE IDs, sets and integers; the holder is the actor where there is one."""
    claims = parsed(nbf=NOW, cnf={"x5t#S256": HASH}, caveats={"once": True}, orig=origin(key=["sts-1"]))
    assert (STS, PLANNER, PLANNER, RETRIEVER) == (claims.issuer, claims.actor, claims.holder, claims.audience)
    assert frozenset(TARGETS) == claims.allowed_targets
    assert (NOW, bytes(32), True) == (claims.not_before, claims.certificate_hash, claims.once)
    assert Origin(1, ("a" * 16,), (PLANNER,), ("sts-1",)) == claims.origin
    assert STS == parsed(act=DROP).holder


def test_what_is_optional_may_be_absent() -> None:
    """Session, actor, not-before, parent, binding, caveats and checkpoint are absent when they are not said."""
    claims = parsed(sid=DROP, act=DROP)
    assert (None, None, None, None, None, False, None) == (
        *(claims.session_id, claims.actor, claims.not_before, claims.parent_hash),
        *(claims.certificate_hash, claims.once, claims.origin),
    )


LONG_ID = workload("x" * (2048 - len("spiffe://agents.example.com/")))


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "u"},
        {"sub": "u" * 255},
        {"sub": '!~"\\'},
        {"sid": "a" * 16},
        {"sid": "_-" * 32},
        {"sid": DROP},
        {"jti": "a" * 16},
        {"jti": "a" * 64},
        {"scope": ["a"]},
        {"scope": ["a" * 128]},
        {"scope": ["0._:/-"]},
        {"scope": [f"s{index}" for index in range(MAX_SCOPES)]},
        {"allowed_targets": [RETRIEVER.uri, *(workload(f"w{index}").uri for index in range(MAX_TARGETS - 1))]},
        {"allowed_targets": [RETRIEVER.uri, BROKER.uri, LONG_ID.uri]},
        {"allowed_targets": [RETRIEVER.uri, workload("spire").uri + "x/y"]},
        {"delegation_depth": 0},
        {"delegation_depth": 0, "max_delegation_depth": 0},
        {"delegation_depth": MAX_DEPTH, "max_delegation_depth": MAX_DEPTH},
        {"iat": 0, "exp": 1},
        {"iat": 0, "exp": MAX_TTL_SECONDS},
        {"nbf": 0},
        {"par_hash": HASH},
        {"caveats": {}},
        {"orig": origin(n=6, jti=[f"{index}" * 16 for index in range(6)], act=[PLANNER.uri] * 6)},
        {"orig": origin(key=["k"])},
        {"orig": origin(key=["k"], iss=[PLANNER.uri])},
        {"orig": origin(iss=[""])},
        {"nonce": {"what": ["ever"]}},
    ],
)
def test_allowed(changes: dict[str, Any]) -> None:
    """The last value on this side of every rule is read."""
    assert parsed(**changes)


BAD_STRINGS: list[Any] = [None, True, 1, [], {}, ["a"], ""]
BAD_INTEGERS: list[Any] = [None, True, False, "1", [1], {}, -1]
BAD_LISTS: list[Any] = [None, True, 1, "a", {}, {"a": 1}, [], [1], [None], ["a", 1], [["a"]]]
BAD_WORKLOADS = [
    *(
        "planner",
        "spiffe://",
        "spiffe://agents.example.com",
        "spiffe://agents.example.com/",
        "spiffe://Agents.example.com/a",
    ),
    *("SPIFFE://agents.example.com/a", "spiffe://agents.example.com/a/", "spiffe://agents.example.com//a"),
    *("spiffe://agents.example.com/a/../b", "spiffe://agents.example.com/.", "spiffe://agents.example.com/%61"),
    *("spiffe://agents.example.com/*", "spiffe://agents.example.com:443/a", "spiffe://u@agents.example.com/a"),
    *("spiffe://agents.example.com/a?b", "spiffe://agents.example.com/a#b", "https://agents.example.com/a"),
    *("spiffe://agents.example.com/\u0430", " spiffe://agents.example.com/a", "*", LONG_ID.uri + "x"),
    *("spiffe://agents.example.com/spire", "spiffe://agents.example.com/spire/server", "spiffe://a.b/spire/agent/x"),
]


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("iss", [*BAD_STRINGS, *BAD_WORKLOADS, DROP]),
        ("aud", [*BAD_STRINGS, *BAD_WORKLOADS, DROP, CRM.uri[:-1], PLANNER.uri]),
        ("sub", [*BAD_STRINGS, DROP, "u" * 256, "a b", "a\x7f", "\u00e9", "a\n", "a\r\nb"]),
        ("sid", [*BAD_STRINGS, "a" * 15, "a" * 65, "a" * 16 + ".", "a" * 16 + "\n"]),
        ("jti", [*BAD_STRINGS, DROP, "a" * 15, "a" * 65, "a" * 16 + "=", "a" * 16 + "\n"]),
        (
            "scope",
            [
                *BAD_LISTS,
                *(DROP, [""], ["a", "a"], ["*"], ["a*"], ["a b"], ["a,b"], [":a"], ["a" * 129], ["\u0430"], ["a\n"]),
                [f"s{index}" for index in range(MAX_SCOPES + 1)],
            ],
        ),
        (
            "allowed_targets",
            [
                *BAD_LISTS,
                *(DROP, [CRM.uri], [RETRIEVER.uri] * 2),
                [RETRIEVER.uri, *(workload(f"w{index}").uri for index in range(MAX_TARGETS))],
                *([RETRIEVER.uri, bad] for bad in BAD_WORKLOADS),
            ],
        ),
        (
            "act",
            [
                *BAD_STRINGS,
                {"sub": 1},
                {"sub": PLANNER.uri, "x": 1},
                {"sub": RETRIEVER.uri},
                *({"sub": bad} for bad in BAD_WORKLOADS),
            ],
        ),
        ("delegation_depth", [*BAD_INTEGERS, DROP, 4]),
        ("max_delegation_depth", [*BAD_INTEGERS, DROP, 2, MAX_DEPTH + 1]),
        ("iat", [*BAD_INTEGERS, DROP, NOW + 10_000, 0]),
        ("exp", [*BAD_INTEGERS, DROP, 0, NOW + 10_000]),
        ("nbf", BAD_INTEGERS),
        ("par_hash", [*BAD_STRINGS, HASH[:-1], f"{HASH}A", f"{HASH[:-1]}="]),
        (
            "cnf",
            [*BAD_STRINGS, {"jwk": {}}, {"x5t#S256": HASH, "jwk": {}}, {"x5t#S256": 1}, {"x5t#S256": f"{HASH[:-1]}B"}],
        ),
        (
            "caveats",
            [
                None,
                True,
                1,
                "once",
                [],
                ["once"],
                {"once": False},
                {"once": 1},
                {"once": "true"},
                {"once": None},
                {"req": {}},
            ],
        ),
        (
            "orig",
            [
                *BAD_STRINGS,
                *(origin(**{name: DROP}) for name in ORIGIN),
                *(origin(n=count) for count in [*BAD_INTEGERS, 0, 2]),
                *(origin(jti=ids) for ids in [*BAD_LISTS, ["a" * 15], ["a" * 16, "b" * 16]]),
                *(origin(act=actors) for actors in [*BAD_LISTS, ["planner"], [PLANNER.uri] * 2]),
                *(origin(key=keys) for keys in [None, "a", [1], ["a", "b"]]),
                *(origin(iss=each) for each in [None, "a", [1], ["planner"], [PLANNER.uri] * 2, [None]]),
                *(origin(h=value) for value in [None, 1, HASH[:-1]]),
                origin(x=1),
                origin(n=7, jti=[f"{index}" * 16 for index in range(7)], act=[PLANNER.uri] * 7),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(claim: str, values: list[Any]) -> None:
    """What the profile does not allow is refused; the refusal names the claim and never the value."""
    for value in values:
        with pytest.raises(ClaimError) as caught:
            parsed(**{claim: value})
        assert not (isinstance(value, str) and len(value) > 10 and value in str(caught.value)), value


def test_checkpoint_has_no_parent() -> None:
    """A root that replaces a chain does not continue one."""
    with pytest.raises(ClaimError, match="orig and par_hash exclude each other"):
        parsed(orig=origin(), par_hash=HASH)


def test_order_and_case_of_names() -> None:
    """A claim in another case is an unknown one, and does not stand in for the one that is missing."""
    with pytest.raises(ClaimError, match="iss is missing"):
        parsed(iss=DROP, ISS=STS.uri)
