"""A policy whose cells and deny rules depend on more than who asks whom, and the questions that find that out."""

from ext_authz.decision.decide import Snapshot
from support.check_requests import QUESTION, agent
from support.written_policies import ACTIONS, HEAD, written_snapshot

# `support.authorizers.NOW` is a Saturday, 22:10:09 in UTC.
WINDOWS = """---
kind: TimeWindows
windows:
  morning: {from: "06:00", to: "12:00"}
  this-minute: {from: "22:10", to: "22:11"}
"""
# True for everybody but the planner, where nobody can say.
BREAKS = 'subject.path == "/planner-agent" ? 1 / 0 == 1 : true'
POLICY = f"""{HEAD}matrix:
  planner-agent:
    retrieval-agent: [search]
    summarizer-agent: {{actions: [search], during: [morning]}}
    audit-agent: {{actions: [search], not_during: [this-minute]}}
    database-agent: {{actions: [search], during: [this-minute], not_during: [morning]}}
    sandbox-agent: {{actions: [search], when: subject.path == "/somebody-else"}}
    code-executor-agent: {{actions: [search], when: '{BREAKS}'}}
    mail-agent: [search]
    print-agent: [search]
deny:
  - {{subject: planner-agent, resource: mail-agent, action: search, when: '"x-ai-prompt" in asserted.headers'}}
  - {{subject: planner-agent, resource: print-agent, action: "*", when: '{BREAKS}', because: paper}}
{ACTIONS}{WINDOWS}"""


def conditional_snapshot(more: str = "") -> Snapshot:
    """Return a snapshot of that policy and more documents."""
    return written_snapshot(f"{POLICY}{more}")


CONDITION_FALSE = QUESTION.but(target=agent("sandbox-agent"))
CONDITION_ERROR = QUESTION.but(target=agent("code-executor-agent"))
OUTSIDE = QUESTION.but(target=agent("summarizer-agent"))
