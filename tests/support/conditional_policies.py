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
POLICY = f"""{HEAD}matrix:
  planner-agent:
    retrieval-agent: [search]
    summarizer-agent: {{actions: [search], during: [morning]}}
    audit-agent: {{actions: [search], not_during: [this-minute]}}
    database-agent: {{actions: [search], during: [this-minute], not_during: [morning]}}
{ACTIONS}{WINDOWS}"""


def conditional_snapshot(more: str = "") -> Snapshot:
    """Return a snapshot of that policy and more documents."""
    return written_snapshot(f"{POLICY}{more}")


OUTSIDE = QUESTION.but(target=agent("summarizer-agent"))
