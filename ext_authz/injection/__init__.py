"""Screening for prompt injection: texts of a request against a pack of rules."""

from pathlib import Path

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.documents.loader import load_file
from ext_authz.injection.rules import compile_rules
from ext_authz.injection.screen import Screen

RULES_PATH = Path(__file__).with_name("rules.yaml")


def load_default_screen() -> Screen:
    """Return a screen with the rules of this package, compiled."""
    return Screen(compile_rules(load_file(RULES_PATH, InjectionRules)))
