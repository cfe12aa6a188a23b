"""Write the examples in this folder anew: `make envoy`.

They are two of the demo's agents, with a SPIRE agent on the usual socket: retrieval-agent calls database-agent.
"""

from collections.abc import Mapping
from pathlib import Path

from ext_authz.render.document import render
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Sidecar

FOLDER = Path(__file__).parent

SPIRE_AGENT = "unix:/run/spire/agent/agent.sock"

EXAMPLES: Mapping[str, Sidecar] = {
    "inbound.yaml": InboundSidecar.parse(
        spiffe_id="spiffe://agents.example.com/database-agent",
        listen="0.0.0.0:8443",
        app="127.0.0.1:8080",
        authz="unix:/run/ext-authz/check.sock",
        admin="unix:/run/envoy/inbound-admin.sock",
        certificates=SPIRE_AGENT,
        hosts=["database-agent"],
    ),
    "outbound.yaml": OutboundSidecar.parse(
        spiffe_id="spiffe://agents.example.com/retrieval-agent",
        listen="127.0.0.1:15001",
        admin="unix:/run/envoy/outbound-admin.sock",
        certificates=SPIRE_AGENT,
        upstreams=["database-agent=database-agent.agents.svc:8443,spiffe://agents.example.com/database-agent"],
    ),
}


def main() -> None:
    """Render every example into its file."""
    for name, sidecar in EXAMPLES.items():
        (FOLDER / name).write_text(render(sidecar), encoding="utf-8")


if __name__ == "__main__":
    main()
