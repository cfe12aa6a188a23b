"""What lint finds, and what it leaves alone."""

from pathlib import Path

import pytest

from ext_authz.analysis.lint import RULES, lint
from ext_authz.analysis.survey import survey

ACTIONS = """kind: ActionRegistry
actions:
  read: {http: ["GET /records/{id}"]}
  write: {http: ["PUT /records/{id}"]}
"""
HEAD = "kind: PermissionMatrix\ntrust_domain: agents.example.com\n"
USES_ALL = "matrix: {a: {b: [read, write]}}\n"
DELEGATION = """kind: Delegation
root_issuers: [{id: sts, subjects: "user:*", scopes: [read]}]
keys: {sts: "https://sts.example.com/jwks"}
"""


def found(directory: Path, matrix: str, *, actions: str = ACTIONS, delegation: str = "") -> list[str]:
    """Return the findings about a policy, as lines without the directory."""
    (directory / "matrix.yaml").write_text(HEAD + matrix)
    (directory / "actions.yaml").write_text(actions)
    if delegation:
        (directory / "delegation.yaml").write_text(delegation)
    return [str(finding).removeprefix(f"{directory}/") for finding in lint(survey(directory))]


def test_nothing_to_find(tmp_path: Path) -> None:
    """A policy that says what it means, and no more, has no findings."""
    assert [] == found(tmp_path, USES_ALL)


DENY_ALL = "deny: [{subject: a, resource: b, action: '*'}]\n"
DENY_ONE = "deny: [{subject: a, resource: b, action: read}]\n"


def test_cell_denied(tmp_path: Path) -> None:
    """A cell of which nothing is ever allowed is an error."""
    assert [
        (
            "matrix.yaml:3:14: error: nothing of this cell is ever allowed, matrix.yaml:4 denies it: remove the cell or the "
            "denial [cell-denied]"
        )
    ] == found(tmp_path, USES_ALL + DENY_ALL)


def test_grant_denied(tmp_path: Path) -> None:
    """An action of a cell that is never allowed is named."""
    assert [
        (
            "matrix.yaml:3:14: warning: `read` is granted here and never allowed, matrix.yaml:4 denies it: remove the action "
            "or the denial [grant-denied]"
        )
    ] == found(tmp_path, USES_ALL + DENY_ONE)


def test_denial_of_one_member_leaves_the_others(tmp_path: Path) -> None:
    """A group's cell that is denied to one of its members still grants to the others."""
    assert [] == found(tmp_path, f"groups: {{g: [a, c]}}\nmatrix: {{'@g': {{b: [read, write]}}}}\n{DENY_ALL}")


def test_grant_elsewhere(tmp_path: Path) -> None:
    """An action that is registered for other resources only can never be what is asked of this one."""
    actions = f"{ACTIONS}  list: {{http: [GET /], resources: [c, d]}}\n"
    assert [
        (
            "actions.yaml:5:40: warning: nobody may use `list` at `d`: grant it, or remove the workload from `resources` "
            "[action-unused-here]"
        ),
        (
            "matrix.yaml:5:6: error: no request to `b` can be `list`, which counts at `c`, `d` only: remove it, or add the "
            "workload to the action's `resources` [grant-elsewhere]"
        ),
    ] == found(tmp_path, "matrix:\n a: {b: [read, write], c: [list]}\n x: {b: [list]}\n", actions=actions)


def test_grant_twice(tmp_path: Path) -> None:
    """What is granted a second time, asking the same, is pointed out; part of it, or asking more, is not."""
    assert [
        "matrix.yaml:5:7: warning: all of this cell is granted by matrix.yaml:4 too: remove one of the two [grant-twice]",
        "matrix.yaml:6:6: warning: `read` stands twice in this cell: write it once [grant-twice]",
    ] == found(tmp_path, "matrix:\n a: {b: [read, write]}\n /a: {b: [read]}\n c: {b: [read, write, read]}\n")
    assert [] == found(tmp_path, "matrix:\n a: {b: [write]}\n /a: {b: [read, write]}\n")
    assert [] == found(tmp_path, "groups: {g: [a, x]}\nmatrix:\n a: {b: [read, write]}\n '@g': {b: [read, write]}\n")


LOOSE = (
    "matrix.yaml:5:9: warning: `@g` gets `read` here and is asked less than in matrix.yaml:6: ask the same in both cells, "
    "or take one of them away [grant-looser]"
)


@pytest.mark.parametrize(
    ("group", "named", "findings"),
    [
        ("[read, write]", "{actions: [read], delegation: required}", [LOOSE]),
        ("{actions: [read], delegation: optional}", "{actions: [read], delegation: forbidden}", [LOOSE]),
        ("{actions: [read], max_hops: 3}", "{actions: [read], max_hops: 2}", [LOOSE]),
        ("{actions: [read]}", "{actions: [read], max_hops: 2}", [LOOSE]),
        ("{actions: [read], scopes: [x]}", "{actions: [read], scopes: [x, z]}", [LOOSE]),
        ("{actions: [read], scopes: [x]}", "{actions: [read], scopes: [z]}", []),
        ("{actions: [read], scopes: [x]}", "{actions: [read], scopes: [x]}", []),
        ("{actions: [read], delegation: required}", "{actions: [read], delegation: forbidden}", []),
        ("{actions: [read], scopes: [x], max_hops: 3}", "{actions: [read], scopes: [x, z], max_hops: 4}", []),
        ("{actions: [write]}", "{actions: [read], max_hops: 2}", []),
    ],
)  # fmt: skip
def test_grant_looser(tmp_path: Path, group: str, named: str, findings: list[str]) -> None:
    """Where two cells grant one thing, the one that asks less makes the other pointless; unlike asks do not compare."""
    matrix = f"groups: {{g: [a, x]}}\nmatrix:\n '@g': {{b: {group}}}\n a: {{b: {named}, c: [read, write]}}\n"
    lines = found(tmp_path, matrix, delegation=f"{DELEGATION}required: false\n")
    assert findings == [line for line in lines if "[grant-looser]" in line]


def test_deny_unmatched(tmp_path: Path) -> None:
    """A denial that no grant meets is worth a note: it may be a guard, or a slip."""
    note = (
        "note: no grant is denied by this rule today: keep it against later grants, or write an invariant, which covers "
        "other agents in between too [deny-unmatched]"
    )
    matrix = USES_ALL + "deny:\n- {subject: b, resource: a, action: '*'}\n- {subject: b, resource: a, action: read}\n"
    assert [
        f"matrix.yaml:5:3: {note}",
        "matrix.yaml:6:3: warning: matrix.yaml:5 denies all of this already: remove one of the two [deny-covered]",
        f"matrix.yaml:6:3: {note}",
    ] == found(tmp_path, matrix)


@pytest.mark.parametrize(
    ("denials", "lines"),
    [
        (["{subject: a, resource: b, action: read}", "{subject: /a, resource: b, action: read}"], [7]),
        (["{subject: a, resource: b, action: read}", "{subject: a, resource: b, action: '*'}"], [6]),
        (["{subject: '@g', resource: b, action: read}", "{subject: a, resource: b, action: read}"], [7]),
        (["{subject: a, resource: b, action: read}", "{subject: '@g', resource: b, action: read}"], [6]),
        (["{subject: a, resource: b, action: read}", "{subject: a, resource: b, action: write}"], []),
        (["{subject: a, resource: b, action: '*'}", "{subject: '@g', resource: b, action: read}"], []),
        (["{subject: a, resource: b, action: read}", "{subject: a, resource: c, action: read}"], []),
    ],
)  # fmt: skip
def test_deny_covered(tmp_path: Path, denials: list[str], lines: list[int]) -> None:
    """A denial counts as covered when another denies all that it does; of two alike, the second."""
    matrix = "groups: {g: [a, c]}\nmatrix: {a: {b: [read, write], c: [read]}}\ndeny:\n"
    findings = found(tmp_path, matrix + "".join(f"- {denial}\n" for denial in denials))
    assert lines == [int(line.split(":")[1]) for line in findings if "[deny-covered]" in line]


def test_name_unknown(tmp_path: Path) -> None:
    """A slip in the name of a denial or invariant takes the guard away, and nobody would notice."""
    matrix = (
        "matrix: {planner-agent: {b: [read, write]}}\n"
        "deny: [{subject: planer-agent, resource: b, action: read}]\n"
        "invariants: [{from: b, must_not_reach: database}]\n"
    )
    fix = "correct the name: what guards a name that nobody has guards nothing [name-unknown]"
    assert [
        f"matrix.yaml:4:18: warning: no cell has anything to do with `planer-agent`: did you mean `planner-agent`: {fix}",
        f"matrix.yaml:5:40: warning: no cell has anything to do with `database`: {fix}",
    ] == [line for line in found(tmp_path, matrix) if "[name-unknown]" in line]


def test_action_unused(tmp_path: Path) -> None:
    """An action that nobody may use is a route that answers no to everyone."""
    assert ["actions.yaml:4:3: warning: nobody may use `write`: grant it, or remove it [action-unused]"] == found(
        tmp_path, "groups: {g: []}\nmatrix: {a: {b: [read]}, '@g': {b: [write]}}\n"
    )[:1]


def test_asserted_granted(tmp_path: Path) -> None:
    """An asserted action that is granted is noted once, with the workloads that have to look at it."""
    actions = f"{ACTIONS}  run: {{asserted: true}}\n  idle: {{http: [GET /]}}\n"
    matrix = "matrix: {a: {b: [read, write, run], c: [run], d: [run], e: [run], f: [idle]}}\n"
    assert [
        (
            "actions.yaml:5:3: note: `run` is the caller's word and granted at `b`, `c`, `d` and 1 more: give it routes, or "
            "make sure that the agent does only what `x-authz-action` says [asserted-granted]"
        )
    ] == found(tmp_path, matrix, actions=actions)


def test_groups(tmp_path: Path) -> None:
    """A group that stands nowhere is unused; one without members grants to nobody, wherever it stands."""
    matrix = f"groups: {{g: [a], h: [], i: [a]}}\n{USES_ALL}deny: [{{subject: '@i', resource: c, action: read}}]\n"
    assert [
        "matrix.yaml:3:10: warning: group `g` is used nowhere: remove it [group-unused]",
        "matrix.yaml:3:18: warning: group `h` has no members: what names it means nobody: add members, or remove it [group-empty]",
        "matrix.yaml:3:18: warning: group `h` is used nowhere: remove it [group-unused]",
    ] == [line for line in found(tmp_path, matrix) if "group-" in line]


def test_delegation(tmp_path: Path) -> None:
    """What a cell asks of delegation is compared with what the Delegation document makes possible and usual."""
    cells = "matrix:\n a: {b: [read, write]}\n c:\n  d: {actions: [read], delegation: optional}\n  e: {actions: [read], delegation: required}\n"
    optional = (
        "matrix.yaml:6:3: note: a caller that leaves its chain out is asked for no scopes: say `delegation: required` "
        "unless the agent itself may do this [delegation-optional]"
    )
    unsaid = (
        "matrix.yaml:4:6: warning: a caller that leaves its chain out acts on its own authority here: say `delegation: "
        "required`, or `optional` if that is meant [delegation-unsaid]"
    )
    assert [optional] == found(tmp_path, cells, delegation=DELEGATION)
    assert [unsaid, optional] == found(tmp_path, cells, delegation=f"{DELEGATION}required: false\n")


@pytest.mark.parametrize(
    ("issuer", "keys"),
    [
        ("sts", "`subjects` and `scopes`"),
        ("{id: sts, scopes: [read]}", "`subjects`"),
        ("{id: sts, subjects: 'user:*'}", "`scopes`"),
    ],
)
def test_issuer_unlimited(tmp_path: Path, issuer: str, keys: str) -> None:
    """An issuer without a limit can speak for everyone, or allow everything."""
    delegation = f"kind: Delegation\nroot_issuers: [{issuer}]\nkeys: {{sts: 'https://sts.example.com/jwks'}}\n"
    assert [
        f"delegation.yaml:2:16: warning: `sts` may start chains without a limit on {keys}: write its {keys} [issuer-unlimited]"
    ] == found(tmp_path, USES_ALL, delegation=delegation)


def test_provider_unbound(tmp_path: Path) -> None:
    """An identity provider whose tokens everybody may show is named; one that says who may is not."""
    providers = "kind: IdentityProviders\nproviders:\n- {issuer: 'https://a.test', audience: x}\n"
    bound = "- {issuer: 'https://b.test', audience: x, clients: {c: a}, on_behalf_of: 'b:{sub}'}\n"
    assert [
        (
            "delegation.yaml:3:3: warning: whoever gets hold of an access token of `https://a.test` may show it: write its "
            "`clients` [provider-unbound]"
        )
    ] == found(tmp_path, USES_ALL, delegation=providers + bound)


def test_wide_rows_and_cells(tmp_path: Path) -> None:
    """Rows and cells that nobody keeps in mind are named, one entry fewer is not."""
    row = ", ".join(f"r{number}: [x0]" for number in range(26))
    cell = ", ".join(f"x{number}" for number in range(11))
    actions = "kind: ActionRegistry\nactions:\n" + "".join(f"  x{n}: {{http: [GET /{n}]}}\n" for n in range(11))
    fix = "narrow the {} to what the agent needs"
    assert [
        f"matrix.yaml:4:3: warning: `a` may call 26 workloads: {fix.format('row')} [row-wide]",
        f"matrix.yaml:5:7: warning: `b` may do 11 things at `c`: {fix.format('cell')} [cell-wide]",
    ] == found(tmp_path, f"matrix:\n  a: {{{row}}}\n  b: {{c: [{cell}]}}\n", actions=actions)
    fewer = (
        f"matrix:\n  a: {{{row.replace(', r25: [x0]', '')}}}\n  b: {{c: [{cell.removesuffix(', x10')}], d: [x10]}}\n"
    )
    assert [] == found(tmp_path, fewer, actions=actions)


WINDOWS = """---
kind: TimeWindows
windows:
  office: {days: [mon, tue], from: "08:00", to: "18:00", timezone: Europe/Berlin}
  morning: {from: "07:00", to: "12:00", timezone: Europe/Berlin}
  rest: {from: "12:00", to: "24:00", timezone: Europe/Berlin}
  night: {from: "22:00", to: "06:00", timezone: Europe/Berlin}
"""


@pytest.mark.parametrize(
    ("cell", "closed", "is_never_open"),
    [
        ("during: [office]", "", False),
        ("during: [office], not_during: [morning]", "", False),
        ("during: [office], not_during: [office]", "", True),
        ("during: [office], not_during: [morning, rest]", "", True),
        ("during: [office, night], not_during: [morning, rest]", "", False),
        ("during: [office], not_during: [morning]", "rest", True),
        ("during: [morning]", "morning", True),
        ("during: [morning]", "office", False),
        ("not_during: [office]", "", False),
        ("delegation: optional", "night", False),
    ],
)  # fmt: skip
def test_window_never_open(tmp_path: Path, cell: str, closed: str, is_never_open: bool) -> None:  # noqa: FBT001
    """A cell whose windows are open only while others forbid it is an error, whichever windows say so."""
    matrix = f"matrix: {{a: {{b: {{actions: [read, write], {cell}}}}}}}\n{WINDOWS}closed: [{closed}]\n"
    finding = (
        "matrix.yaml:3:14: error: this cell never counts: whenever its windows are open, others forbid it: remove the "
        "cell, or change `during`, `not_during` or `closed` [window-never-open]"
    )
    lines = found(tmp_path, matrix)
    assert [finding] * is_never_open == [line for line in lines if "[window-never-open]" in line]


def test_window_unused(tmp_path: Path) -> None:
    """A window that nothing names changes nothing."""
    matrix = f"matrix: {{a: {{b: {{actions: [read, write], during: [office], not_during: [night]}}}}}}\n{WINDOWS}closed: [rest]\n"
    assert ["matrix.yaml:8:3: warning: window `morning` is used nowhere: remove it [window-unused]"] == found(
        tmp_path, matrix
    )


def test_ignored_rules(tmp_path: Path) -> None:
    """A rule that is ignored is not looked for; the others are."""
    found(tmp_path, USES_ALL + DENY_ALL)
    assert [] == lint(survey(tmp_path), ["cell-denied"])


def test_ids_of_rules() -> None:
    """Rules keep their ids: scripts ignore them by name."""
    assert [
        *("cell-denied", "grant-elsewhere", "window-never-open"),
        *("grant-denied", "grant-twice", "grant-looser", "deny-covered", "name-unknown", "action-unused"),
        *(
            "action-unused-here",
            "group-unused",
            "group-empty",
            "window-unused",
            "delegation-unsaid",
            "issuer-unlimited",
            "provider-unbound",
        ),
        *("subject-wildcard", "row-wide", "cell-wide", "deny-unmatched", "delegation-optional", "asserted-granted"),
    ] == list(RULES)


def test_rules_are_documented() -> None:
    """docs/policy-tools.md has every rule with its level, in the order of the code."""
    text = (Path(__file__).parents[3] / "docs" / "policy-tools.md").read_text("utf-8")
    section = text.partition("\n## policy lint\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    assert [(f"`{name}`", rule.level) for name, rule in RULES.items()] == [(a.strip(), b.strip()) for a, b in rows]


def test_subject_wildcard(tmp_path: Path) -> None:
    """Every subject that leaves a segment open is named, also in groups and deny rules."""
    matrix = (
        "groups: {g: [a, x/*]}\nmatrix:\n  '@g': {b: [read]}\n  x/*/y: {b: [write]}\n"
        "deny: [{subject: '*', resource: b, action: write}]\n"
    )
    fix = "name the workloads, or keep it where each of them is meant [subject-wildcard]"
    assert [
        f"matrix.yaml:{place}: warning: `{name}` stands for every workload that fits it, also for those to come: {fix}"
        for place, name in (("3:17", "x/*"), ("6:3", "x/*/y"), ("7:18", "*"))
    ] == [line for line in found(tmp_path, matrix) if "subject-wildcard" in line]


def test_wildcards_count_in_other_rules(tmp_path: Path) -> None:
    """What a wildcard grants or denies is looked at with the rules of those who fit it."""
    looser = "matrix:\n  x/a: {b: {actions: [read, write], max_hops: 1}}\n  x/*: {b: [read]}\n"
    assert any(
        "`x/*` gets `read` here and is asked less than in matrix.yaml:4" in line for line in found(tmp_path, looser)
    )
    denied = "matrix: {x/a: {b: [read, write]}}\ndeny: [{subject: x/*, resource: b, action: '*'}]\n"
    assert any(line.endswith("[cell-denied]") for line in found(tmp_path, denied))
    covered = f"{denied.replace('x/a:', '*/a:').replace('*/a', 'x/*')}- {{subject: x/a, resource: b, action: read}}\n"
    covered = covered.replace("deny: [{", "deny:\n- {").replace("}]\n", "}\n")
    assert any(line.endswith("[deny-covered]") for line in found(tmp_path, covered))


@pytest.mark.parametrize(
    ("subject", "rules"),
    [
        ("x/a", set()),
        ("'*/a'", set()),
        ("x/*", set()),
        ("y/a", {"deny-unmatched", "name-unknown"}),
        ("'*/*/a'", {"deny-unmatched", "name-unknown"}),
    ],
)
def test_guards_of_who_fits(tmp_path: Path, subject: str, rules: set[str]) -> None:
    """A denial guards something when a wildcard that is granted something has workloads in common with it."""
    matrix = f"matrix: {{x/*: {{b: [read, write]}}}}\ndeny: [{{subject: {subject}, resource: b, action: read}}]\n"
    assert rules == {line.rpartition("[")[2][:-1] for line in found(tmp_path, matrix)} & {
        "deny-unmatched",
        "name-unknown",
    }
