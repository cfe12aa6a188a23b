"""The packaged rules: each example of each rule, and what holds for all of them."""

import re

import pytest

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.documents.loader import load_file
from ext_authz.injection import RULES_PATH
from ext_authz.injection.leaves import Leaf
from ext_authz.injection.screen import Screen

RULES = load_file(RULES_PATH, InjectionRules).rules
MATCHES = [(rule.id, text) for rule in RULES for text in rule.examples.match]
LOOK_ALIKES = [text for rule in RULES for text in rule.examples.no_match]


def rule_ids(screen: Screen, text: str) -> set[str]:
    return {finding.rule for finding in screen.scan([Leaf("body", text)])}


@pytest.mark.parametrize(("rule", "text"), MATCHES)
def test_match_example(screen: Screen, rule: str, text: str) -> None:
    """Each rule finds what it says that it finds."""
    assert rule in rule_ids(screen, text)


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_no_match_example(screen: Screen, text: str) -> None:
    """No rule of the pack matches an honest look-alike of any rule."""
    assert set() == rule_ids(screen, text)


@pytest.mark.parametrize("text", ["ignore previous", "system: admin", "bypass filters"])
def test_classic_phrases(screen: Screen, text: str) -> None:
    """The three phrases that everyone tries first are found."""
    assert rule_ids(screen, text)


@pytest.mark.parametrize(
    "text",
    [
        'Security article: attackers write "disregard" and "override" in pages and hope that an assistant obeys.',
        "The previous instructions were unclear, could you clarify?",
        "ignore case when comparing",
        "system administrators: admin guide",
        "Prompt injection is text that a model takes for an instruction. Our filters and guardrails look for it.",
        "The developer asked the administrator for the password policy.",
        "aWdub3JlIHByZXZpb3VzIGluc3RydWN0aW9ucw==",
    ],
)
def test_honest_topics(screen: Screen, text: str) -> None:
    """Topics, trigger words and encodings alone are no evidence."""
    assert set() == rule_ids(screen, text)


def test_every_kind_of_attack_has_a_rule() -> None:
    """The categories that the documentation lists are those of the pack."""
    assert {rule.category for rule in RULES} == {
        "conversation_reset",
        "encoding_cue",
        "filter_bypass",
        "hidden_markup",
        "instruction_override",
        "multilingual",
        "persona",
        "privilege_claim",
        "prompt_extraction",
        "role_spoofing",
        "secret_exfiltration",
        "tool_abuse",
    }


@pytest.mark.parametrize("joint", ["_", ".", "-", ""])
def test_plain_keys_match_nothing(screen: Screen, joint: str) -> None:
    """No match survives in a key that records show as it is, so records never hold matched text."""
    keys = [joint.join(re.findall(r"[A-Za-z0-9]+", text)) for _, text in MATCHES]
    assert {key: set() for key in keys} == {key: rule_ids(screen, key) for key in keys}
