"""The file: a header that says what it is, and the configuration as YAML."""

from typing import Any, cast

import yaml
from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

from ext_authz.render.command import render_command
from ext_authz.render.explicit import say_defaults
from ext_authz.render.inbound import inbound_bootstrap
from ext_authz.render.outbound import outbound_bootstrap
from ext_authz.render.sidecar import InboundSidecar, Sidecar

# Field names as they are. The library's own snake case makes `consecutive_5_xx` of `consecutive_5xx`.
_AS_DECLARED = cast("Casing", str)


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, everything else in block style, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (the library's signature)
        return True


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    is_plain = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_plain)


_Dumper.add_representer(list, _represent_list)


def render(sidecar: Sidecar) -> str:
    """Return the whole text of a sidecar's configuration file; equal sidecars give equal bytes."""
    return _header(sidecar) + to_yaml(to_bootstrap(sidecar))


def to_bootstrap(sidecar: Sidecar) -> Bootstrap:
    """Build the configuration as Envoy's own message."""
    return inbound_bootstrap(sidecar) if isinstance(sidecar, InboundSidecar) else outbound_bootstrap(sidecar)


def to_mapping(bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the configuration in protobuf's JSON form, with the defaults that a reader must see."""
    mapping = bootstrap.to_dict(casing=_AS_DECLARED)
    say_defaults(mapping)
    return mapping


def to_yaml(bootstrap: Bootstrap) -> str:
    """Return the configuration as YAML."""
    return yaml.dump(to_mapping(bootstrap), Dumper=_Dumper, sort_keys=False, width=120)


def _header(sidecar: Sidecar) -> str:
    lines = [f"Envoy, {sidecar.role} sidecar of {sidecar.spiffe_id}. Render it anew instead of editing it:", ""]
    lines += [f"  {line}" for line in render_command(sidecar)]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"
