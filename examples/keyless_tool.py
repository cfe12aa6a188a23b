"""A tool of an agent that has no key: only its sidecar holds the SVID, and the exchange signs for it.

The chain came with the request that started the run, in its x-delegation-token header. The client's base URL is the agent's own
outbound sidecar, which routes by the `host` header, to the exchange as well as to other agents.
"""

import httpx

from ext_authz.client import DelegationAuth, Exchange, Narrowing
from ext_authz.identity.spiffe_id import SpiffeId

SUMMARIZER = SpiffeId.parse_workload("spiffe://agents.example.com/summarizer-agent")
DATABASE = SpiffeId.parse_workload("spiffe://agents.example.com/database-agent")
EXCHANGE = Exchange("http://127.0.0.1:15001", host="token-exchange")
READ_ONLY = Narrowing(scopes=["read"], lifetime_seconds=60)


async def read_record(number: int, chain: str, sidecar: httpx.AsyncClient) -> object:
    """Read a record of the database."""
    auth = DelegationAuth(chain, SUMMARIZER, audience=DATABASE, narrowing=READ_ONLY, exchange=EXCHANGE)
    answer = await sidecar.get(f"/records/{number}", headers={"host": "database-agent"}, auth=auth)
    return answer.raise_for_status().json()
