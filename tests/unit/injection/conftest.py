import pytest

from ext_authz.documents.injection_rules import InjectionRules
from ext_authz.documents.loader import load_file
from ext_authz.injection import RULES_PATH, load_default_screen
from ext_authz.injection.screen import Screen


@pytest.fixture(scope="session")
def pack() -> InjectionRules:
    return load_file(RULES_PATH, InjectionRules)


@pytest.fixture(scope="session")
def screen() -> Screen:
    return load_default_screen()
