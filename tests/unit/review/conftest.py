"""The commands of these tests share one compiled screen: compiling it takes longer than everything else that they do."""

import pytest
from support.authorizers import default_screen

from ext_authz.cli import policy_suites


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_suites, "load_default_screen", default_screen)
