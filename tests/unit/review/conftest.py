"""The commands of these tests share one compiled screen: compiling it takes longer than everything else that they do."""

import pytest
from support.authorizers import default_screen

from ext_authz.cli import policy_diff, policy_explain, policy_suites


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (policy_diff, policy_explain, policy_suites):
        monkeypatch.setattr(command, "load_default_screen", default_screen)
