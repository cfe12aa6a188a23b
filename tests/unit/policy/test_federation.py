"""Callers of other trust domains: refused unless listed, granted by the matrix alone, within what is listed."""

from support.authorizers import answer, new_authorizer, reason_of
from support.check_requests import QUESTION, agent
from support.written_policies import ACTIONS, HEAD, problems_with, written_snapshot

PARTNER = "spiffe://partner.test"
MATRIX = f"""{HEAD}groups: {{brokers: [broker, {PARTNER}/broker]}}
matrix:
  "@brokers": {{retrieval-agent: [search]}}
  {PARTNER}/ns/a/sa/reader: {{retrieval-agent: [search]}}
  {PARTNER}/ns/evil/sa/reader: {{retrieval-agent: [search]}}
deny:
  - {{subject: {PARTNER}/ns/evil/sa/reader, resource: retrieval-agent, action: "*"}}
{ACTIONS}"""
LISTED = "---\nkind: TrustDomains\ntrust_domains: {partner.test: {}}\n"


def reason(policy: str, caller: str, path: str = "/v1/search") -> str:
    """Return the reason for a call."""
    authorizer, _ = new_authorizer(written_snapshot(policy))
    return reason_of(answer(authorizer, QUESTION.but(caller=caller, path=path).serialized()))


CALLERS = {
    f"{PARTNER}/broker": "allowed",
    agent("broker"): "allowed",
    f"{PARTNER}/ns/a/sa/reader": "allowed",
    f"{PARTNER}/ns/evil/sa/reader": "denied_by_rule",
    agent("ns/a/sa/reader"): "not_in_matrix",
    f"{PARTNER}/retrieval-agent": "not_in_matrix",
    "spiffe://other.test/broker": "trust_domain",
    "spiffe://sub.partner.test/broker": "trust_domain",
    "spiffe://partner.tes/broker": "trust_domain",
}


def test_listed_callers_are_asked_about() -> None:
    """A listed trust domain is not trusted: its callers get what the matrix grants to their full IDs, and no more."""
    assert CALLERS == {caller: reason(MATRIX + LISTED, caller) for caller in CALLERS}


def test_unlisted_callers_are_refused_first() -> None:
    """Nothing else is asked about a caller of a trust domain that is not listed."""
    assert "trust_domain" == reason(MATRIX + LISTED, "spiffe://other.test/broker", "/unknown")
    assert "action_unregistered" == reason(MATRIX + LISTED, f"{PARTNER}/nobody", "/unknown")


def test_subjects_limit() -> None:
    """Callers that `subjects` leave out are refused as if their trust domain were not listed."""
    listed = "[broker, /ns/a/sa/reader, ns/evil/sa/reader]"
    policy = f"{MATRIX}---\nkind: TrustDomains\ntrust_domains: {{partner.test: {{subjects: {listed}}}}}\n"
    callers = {
        "broker": "allowed",
        "ns/a/sa/reader": "allowed",
        "ns/evil/sa/reader": "denied_by_rule",
        "ns/a/sa/writer": "trust_domain",
        "ns/b/sa/reader": "trust_domain",
        "brokers": "trust_domain",
        "broker/x": "trust_domain",
    }
    assert callers == {path: reason(policy, f"{PARTNER}/{path}") for path in callers}


def test_what_authors_are_told() -> None:
    """Grants that could never count, and lists that contradict themselves, are errors with places."""
    text = (
        f"{HEAD}matrix:\n  {PARTNER}/x: {{a: [search, write]}}\n  spiffe://other.test/x: {{a: [search]}}\n"
        f"  {PARTNER}/y: {{a: {{actions: [search]}}}}\n{ACTIONS}"
        "---\nkind: TrustDomains\ntrust_domains:\n"
        "  partner.test: {subjects: [x, ns/b/sa/z, spiffe://other.test/x, a b], actions: [search, wirte]}\n"
        "  agents.example.com: {}\n  Partner.Test: {}\n"
        "---\nkind: TrustDomains\ntrust_domains: {partner.test: {}}\n"
    )
    no_id = "not a SPIFFE ID: expected spiffe://trust-domain/path in canonical form"
    assert [
        f"policy.yaml:4:41: `{PARTNER}/x` cannot be granted this: the `actions` of `partner.test` leave out `write`",
        "policy.yaml:5:31: `spiffe://other.test/x` cannot be granted this: no TrustDomains document lists `other.test`",
        f"policy.yaml:6:43: `{PARTNER}/y` cannot be granted this: the `subjects` of `partner.test` leave out `/y`",
        "policy.yaml:15:43: `spiffe://other.test/x` belongs to another trust domain",
        f"policy.yaml:15:66: `a b` names no workload: {no_id}",
        "policy.yaml:15:90: unknown action `wirte`: did you mean `write`?",
        "policy.yaml:16:3: `agents.example.com` is the policy's own trust domain",
        f"policy.yaml:17:3: `Partner.Test` is no trust domain: {no_id}",
        "policy.yaml:20:17: `partner.test` stands twice, first in policy.yaml:15",
    ] == problems_with(text)
