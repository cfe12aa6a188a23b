"""A LangGraph tool: the graph's agent asks the retrieval agent, on behalf of the user of this run.

With langchain-core installed, decorate the function: `from langchain_core.tools import tool`, then `@tool` above it. The
chain came with the request that started the run: its x-delegation-token header, kept in the run's configuration.
"""

from collections.abc import Mapping
from typing import Any

import httpx

from ext_authz.client import DelegationAuth, SvidFiles
from ext_authz.identity.spiffe_id import SpiffeId

AGENTS = {"retrieval-agent": SpiffeId.parse_workload("spiffe://agents.example.com/retrieval-agent")}
SVID = SvidFiles("/run/spiffe/svid")


def search(query: str, config: Mapping[str, Any], client: httpx.Client, svid: SvidFiles = SVID) -> Any:
    """Search the company's documents."""
    auth = DelegationAuth(config["configurable"]["delegation"], svid, audiences=AGENTS)
    answer = client.post("http://retrieval-agent/v1/search", json={"query": query}, auth=auth)
    return answer.raise_for_status().json()
