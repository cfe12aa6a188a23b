"""From policy documents to a matrix: names, groups, the rules behind verdicts, and every problem with its place."""

from pathlib import Path

import pytest

from ext_authz.errors import PolicyError, Reason
from ext_authz.identity.names import Names
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.engine import Matrix
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Grant, Rule, Verdict

HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
ACTIONS = (
    "kind: ActionRegistry\nactions:\n  read: {asserted: true}\n  write: {asserted: true}\n  search: {asserted: true}\n"
)
NO_SPIFFE_ID = "not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"


def policy_of(directory: Path, *matrices: str, actions: str = ACTIONS) -> Policy:
    """Compile matrices, each a file, with the actions of this test."""
    for number, matrix in enumerate(matrices):
        (directory / f"{number}.yaml").write_text(matrix)
    (directory / "actions.yaml").write_text(actions)
    return load(directory)


def problems_of(directory: Path, *matrices: str, actions: str = ACTIONS) -> list[str]:
    """Return what is wrong with matrices, paths shortened."""
    with pytest.raises(PolicyError) as caught:
        policy_of(directory, *matrices, actions=actions)
    return [problem.replace(f"{directory}/", "").replace(str(directory), ".") for problem in caught.value.problems]


def verdict_on(policy: Policy, subject: str, resource: str, action: str) -> Verdict:
    """Return the verdict on a call between two workloads, named as paths."""
    caller, target = (SpiffeId.parse_workload(f"spiffe://agents.example.com/{path}") for path in (subject, resource))
    return policy.matrix.evaluate(AuthorizationRequest(caller, action, target, Context(0)))


def reason_of(policy: Policy, subject: str, resource: str, action: str) -> Reason:
    """Return the reason of that verdict."""
    return verdict_on(policy, subject, resource, action).reason


ALLOWED, NOT_IN_MATRIX, DENIED = Reason.ALLOWED, Reason.NOT_IN_MATRIX, Reason.DENIED_BY_RULE


def test_grant_allows_exactly_what_it_says(tmp_path: Path) -> None:
    """A cell is about one subject, one resource and its actions, in this direction."""
    policy = policy_of(tmp_path, f"{HEAD}matrix: {{a: {{b: [read, write]}}}}\n")
    verdicts = {
        ("a", "b", "read"): ALLOWED,
        ("a", "b", "write"): ALLOWED,
        ("a", "b", "search"): NOT_IN_MATRIX,
        ("a", "b", "*"): NOT_IN_MATRIX,
        ("a", "b", ""): NOT_IN_MATRIX,
        ("b", "a", "read"): NOT_IN_MATRIX,
        ("a", "a", "read"): NOT_IN_MATRIX,
        ("a", "b/c", "read"): NOT_IN_MATRIX,
        ("A", "b", "read"): NOT_IN_MATRIX,
    }
    assert verdicts == {call: reason_of(policy, *call) for call in verdicts}
    assert policy.grant_count == 2


def test_another_trust_domain_is_another_workload(tmp_path: Path) -> None:
    """The same path elsewhere is granted nothing."""
    policy = policy_of(tmp_path, f"{HEAD}matrix: {{a: {{b: [read]}}}}\n")
    stranger = SpiffeId.parse_workload("spiffe://other.example.com/a")
    target = SpiffeId.parse_workload("spiffe://agents.example.com/b")
    assert NOT_IN_MATRIX is policy.matrix.evaluate(AuthorizationRequest(stranger, "read", target, Context(0))).reason


@pytest.mark.parametrize(
    "matrix",
    [
        "matrix: {a: {b: [read]}}",
        "matrix: {a: {b: {actions: [read]}}}",
        "matrix: {/a: {b: [read]}}",
        "matrix: {spiffe://agents.example.com/a: {/b: [read]}}",
        "groups: {g: [a]}\nmatrix: {'@g': {spiffe://agents.example.com/b: [read]}}",
        "groups: {g: [x, /a, a]}\nmatrix: {'@g': {b: [read, read]}}",
    ],
)
def test_spellings_of_one_grant(tmp_path: Path, matrix: str) -> None:
    """Short and long cells, names, paths, SPIFFE IDs and groups say the same."""
    policy = policy_of(tmp_path, f"{HEAD}{matrix}\n")
    assert ALLOWED is reason_of(policy, "a", "b", "read")


def test_names_go_through_id_path(tmp_path: Path) -> None:
    """A plain name is put into `id_path`; a path and a SPIFFE ID are taken whole. One document sets it for all."""
    policy = policy_of(
        tmp_path,
        "kind: PermissionMatrix\nmatrix: {a: {ns/other/sa/b: [read]}, spiffe://agents.example.com/c: {a: [read]}}\n",
        f"{HEAD}id_path: ns/agents/sa/{{name}}\n",
    )
    assert Names("agents.example.com", "ns/agents/sa/{name}") == policy.names
    assert ALLOWED is reason_of(policy, "ns/agents/sa/a", "ns/other/sa/b", "read")
    assert ALLOWED is reason_of(policy, "c", "ns/agents/sa/a", "read")
    assert NOT_IN_MATRIX is reason_of(policy, "a", "ns/other/sa/b", "read")


def test_group_grants_to_each_member(tmp_path: Path) -> None:
    """A group stands for its members, in the document that defines it."""
    first = f"{HEAD}groups: {{g: [a, b]}}\nmatrix: {{'@g': {{x: [read]}}}}\n"
    second = "kind: PermissionMatrix\ngroups: {g: [c]}\ndeny: [{subject: '@g', resource: x, action: read}]\n"
    policy = policy_of(tmp_path, first, second)
    assert [ALLOWED, ALLOWED, DENIED, NOT_IN_MATRIX] == [
        reason_of(policy, subject, "x", "read") for subject in ("a", "b", "c", "g")
    ]


def test_denial_beats_every_grant(tmp_path: Path) -> None:
    """What a denial names is denied wherever and however often it is granted; `*` denies every action, of any name."""
    grants = f"{HEAD}matrix: {{a: {{b: [read, write], c: [read]}}}}\n"
    denials = "kind: PermissionMatrix\ndeny:\n- {subject: a, resource: b, action: read}\n- {subject: a, resource: c, action: '*'}\n"
    policy = policy_of(tmp_path, grants, denials, grants)
    verdicts = {
        ("a", "b", "read"): DENIED,
        ("a", "b", "write"): ALLOWED,
        ("a", "c", "read"): DENIED,
        ("a", "c", "search"): DENIED,
        ("a", "c", "not-registered"): DENIED,
        ("b", "c", "read"): NOT_IN_MATRIX,
    }
    assert verdicts == {call: reason_of(policy, *call) for call in verdicts}


def test_verdict_names_its_rule(tmp_path: Path) -> None:
    """The rule of a verdict has the line of its cell or denial, and says what its author wrote."""
    matrix = (
        f"{HEAD}groups:\n  g: [a]\nmatrix:\n  '@g':\n    b: [read]\n    c:\n      actions:\n      - write\n"
        "deny:\n- {subject: '@g', resource: d, action: '*', because: blast radius}\n"
        "- subject: a\n  resource: c\n  action: read\n"
    )
    policy = policy_of(tmp_path, matrix)

    def allowed(where: str, text: str) -> Verdict:
        rule = Rule(where, text)
        return Verdict(ALLOWED, rule, (Grant(rule, "optional", frozenset(), None),))

    verdicts = {
        ("a", "b", "read"): allowed("0.yaml:7", "@g -> b: read"),
        ("a", "c", "write"): allowed("0.yaml:8", "@g -> c: write"),
        ("a", "d", "search"): Verdict(DENIED, Rule("0.yaml:12", "deny @g -> d: * because blast radius", denies=True)),
        ("a", "c", "read"): Verdict(DENIED, Rule("0.yaml:13", "deny a -> c: read", denies=True)),
        ("a", "b", "write"): Verdict(NOT_IN_MATRIX, None),
    }
    assert verdicts == {call: verdict_on(policy, *call) for call in verdicts}


def test_grants_of_one_call_add_up(tmp_path: Path) -> None:
    """Each cell that grants a call is a grant of its own, in the order of the documents, with what its cell asks."""
    first = f"{HEAD}matrix:\n  a:\n    b: {{actions: [read], delegation: optional, scopes: [kb, hr], max_hops: 2}}\n"
    second = "kind: PermissionMatrix\nmatrix:\n  a:\n    b: {actions: [read], delegation: forbidden}\n"
    verdict = verdict_on(policy_of(tmp_path, first, second), "a", "b", "read")
    rules = [Rule(f"{file}.yaml:{line}", "a -> b: read") for file, line in ((0, 5), (1, 4))]
    expected = (
        Grant(rules[0], "optional", frozenset({"kb", "hr"}), 2),
        Grant(rules[1], "forbidden", frozenset(), None),
    )
    assert (rules[0], expected) == (verdict.rule, verdict.grants)


@pytest.mark.parametrize(
    "matrix", ["", "matrix: {}\n", "matrix: {a: {}}\n", "groups: {g: []}\nmatrix: {'@g': {b: [read]}}\n"]
)
def test_policy_without_grants_denies_everything(tmp_path: Path, matrix: str) -> None:
    """Nothing granted is nothing allowed."""
    policy = policy_of(tmp_path, f"{HEAD}{matrix}")
    assert policy.grant_count == 0
    assert NOT_IN_MATRIX is reason_of(policy, "a", "b", "read")


def test_empty_matrix_denies_everything() -> None:
    """The matrix of no documents at all allows nothing."""
    workload = SpiffeId.parse_workload("spiffe://agents.example.com/a")
    assert Verdict(NOT_IN_MATRIX, None) == Matrix().evaluate(
        AuthorizationRequest(workload, "read", workload, Context(0))
    )


PROBLEMS: dict[str, tuple[str, list[str]]] = {
    "unknown action": (
        f"{HEAD}matrix:\n  a:\n    b: [raed, write, delete]\n",
        ["0.yaml:5:9: unknown action `raed`: did you mean `read`?", "0.yaml:5:22: unknown action `delete`"],
    ),
    "unknown action in a long cell": (
        f"{HEAD}matrix:\n  a:\n    b:\n      actions:\n      - read\n      - wirte\n",
        ["0.yaml:8:9: unknown action `wirte`: did you mean `write`?"],
    ),
    "unknown action in a denial": (
        f"{HEAD}deny:\n- {{subject: a, resource: b, action: serch}}\n",
        ["0.yaml:4:37: unknown action `serch`: did you mean `search`?"],
    ),
    "unknown group": (
        f"{HEAD}groups: {{readers: [a]}}\nmatrix:\n  '@reader':\n    b: [read]\ndeny:\n- {{subject: '@x', resource: b, action: read}}\n",
        [
            "0.yaml:5:3: unknown group `reader`: did you mean `readers`?",
            "0.yaml:8:13: unknown group `x`",
        ],
    ),
    "group of another document": (
        f"{HEAD}groups: {{g: [a]}}\n---\nkind: PermissionMatrix\nmatrix: {{'@g': {{b: [read]}}}}\n",
        ["0.yaml:6:10: unknown group `g`"],
    ),
    "names of no workload": (
        f"{HEAD}groups: {{g: [a b]}}\nmatrix:\n  c d:\n    a: [read]\n  a:\n    e//f:\n      actions: [read]\n    '@g': [read]\n    '*': [read]\n",
        [
            f"0.yaml:3:14: `a b` names no workload: {NO_SPIFFE_ID}",
            f"0.yaml:5:3: `c d` names no workload: {NO_SPIFFE_ID}",
            f"0.yaml:8:5: `e//f` names no workload: {NO_SPIFFE_ID}",
            f"0.yaml:10:5: `@g` names no workload: {NO_SPIFFE_ID}",
            "0.yaml:11:5: `*` names no workload: `*` stands in subjects alone",
        ],
    ),
    "names of no workload in a denial": (
        f"{HEAD}deny:\n- subject: ../a\n  resource: spiffe://agents.example.com\n  action: read\n",
        [
            f"0.yaml:4:12: `../a` names no workload: {NO_SPIFFE_ID}",
            "0.yaml:5:13: `spiffe://agents.example.com` names no workload: a workload's SPIFFE ID has a path",
        ],
    ),
    "no trust domain": (
        "kind: PermissionMatrix\nmatrix: {a: {b: [read]}}\n",
        [".:1:1: no PermissionMatrix document names the `trust_domain`"],
    ),
    "two trust domains": (
        f"{HEAD}---\nkind: PermissionMatrix\ntrust_domain: other.example.com\nid_path: x/{{name}}\n---\n{HEAD}id_path: y/{{name}}\n",
        [
            "0.yaml:5:15: trust_domain differs from `agents.example.com` in 0.yaml:2",
            "0.yaml:10:10: id_path differs from `x/{name}` in 0.yaml:6",
        ],
    ),
    "no trust domain's name": (
        "kind: PermissionMatrix\ntrust_domain: Agents.Example.Com\n",
        [f"0.yaml:2:15: trust_domain `Agents.Example.Com`: {NO_SPIFFE_ID}"],
    ),
    "trust domain with a scheme": (
        "kind: PermissionMatrix\ntrust_domain: spiffe://agents.example.com\n",
        [f"0.yaml:2:15: trust_domain `spiffe://agents.example.com`: {NO_SPIFFE_ID}"],
    ),
    "trust domain with a path": (
        "kind: PermissionMatrix\ntrust_domain: agents.example.com/x\n",
        ["0.yaml:2:15: trust_domain `agents.example.com/x`: a trust domain has no path"],
    ),
    "id_path without a name": (
        f"{HEAD}id_path: ns/agents\n",
        ["0.yaml:3:10: id_path `ns/agents`: id_path holds {name} exactly once"],
    ),
    "id_path with two names": (
        f"{HEAD}id_path: '{{name}}/{{name}}'\n",
        ["0.yaml:3:10: id_path `{name}/{name}`: id_path holds {name} exactly once"],
    ),
    "id_path of no workload": (
        f"{HEAD}id_path: /ns/{{name}}\n",
        [f"0.yaml:3:10: id_path `/ns/{{name}}`: {NO_SPIFFE_ID}"],
    ),
}


@pytest.mark.parametrize(("matrix", "problems"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_of_a_matrix(tmp_path: Path, matrix: str, problems: list[str]) -> None:
    """Each problem names the place of the word that is wrong, and all come in one run."""
    assert problems == problems_of(tmp_path, matrix)


def test_problems_of_all_documents_in_one_run(tmp_path: Path) -> None:
    """Names, actions and matrices are checked together, and the problems come in the order of their places."""
    matrix = "kind: PermissionMatrix\nmatrix:\n  a: {b: [raed]}\n"
    actions = "kind: ActionRegistry\nactions:\n  read: {}\n"
    assert [
        ".:1:1: no PermissionMatrix document names the `trust_domain`",
        "0.yaml:3:11: unknown action `raed`: did you mean `read`?",
        "1.yaml:3:11: unknown action `raed`: did you mean `read`?",
        "actions.yaml:3:3: no request can be action `read`: add `http` routes or `asserted: true`",
    ] == problems_of(tmp_path, matrix, matrix, actions=actions)


def test_policy_without_a_registry(tmp_path: Path) -> None:
    """Without registered actions every grant names an unknown one."""
    assert ["0.yaml:3:18: unknown action `read`"] == problems_of(
        tmp_path, f"{HEAD}matrix: {{a: {{b: [read]}}}}\n", actions=""
    )


def test_digest_is_that_of_the_documents(tmp_path: Path) -> None:
    """What the documents say is what the records name."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    digests = [policy_of(tmp_path / name, matrix).digest for name, matrix in (("one", HEAD), ("two", f"{HEAD}# x\n"))]
    assert len(set(digests)) == 2
