"""A CrewAI tool: an agent without a signing key, whose token service made a chain in act form for this very call.

With crewai installed, decorate the function: `from crewai.tools import tool`, then `@tool("Read a record")` above it.
"""

from typing import Any

import httpx

from ext_authz.client import DelegationAuth
from ext_authz.identity.spiffe_id import SpiffeId

PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")
DATABASE = SpiffeId.parse_workload("spiffe://agents.example.com/database-agent")


def read_record(number: int, chain: str, client: httpx.Client) -> Any:
    """Read a record of the database."""
    auth = DelegationAuth(chain, PLANNER, audience=DATABASE)
    answer = client.get(f"http://database-agent/records/{number}", auth=auth)
    return answer.raise_for_status().json()
