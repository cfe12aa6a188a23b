"""An AutoGen tool: an asynchronous function that an assistant agent may call.

With autogen-core installed: `FunctionTool(partial(summarize, chain, client), name="summarize", description=...)`. The link
that is signed for a call lives a minute, gives one scope and cannot be passed on.
"""

import httpx

from ext_authz.client import DelegationAuth, Narrowing, SvidFiles
from ext_authz.identity.spiffe_id import SpiffeId

SUMMARIZER = SpiffeId.parse_workload("spiffe://agents.example.com/summarizer-agent")
SVID = SvidFiles("/run/spiffe/svid")
ONE_CALL = Narrowing(scopes=["summarize"], depth=0, lifetime_seconds=60)


async def summarize(chain: str, client: httpx.AsyncClient, text: str, svid: SvidFiles = SVID) -> str:
    """Summarize a text."""
    auth = DelegationAuth(chain, svid, audience=SUMMARIZER, narrowing=ONE_CALL)
    answer = await client.post("http://summarizer-agent/v1/summarize", json={"text": text}, auth=auth)
    return str(answer.raise_for_status().json()["summary"])
