"""Compile proto/ into ext_authz/pb/ below the folder named on the command line.

The files lie in proto/ext_authz/pb/, so that protoc's own import statements already name our package; the protobuf
package names inside them are Envoy's. googleapis-common-protos brings google/rpc/status.proto.
"""

import sys
from pathlib import Path

import google.rpc.status_pb2
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).parent
GOOGLE_ROOT = Path(google.rpc.status_pb2.__file__).parents[2]
WELL_KNOWN_ROOT = Path(protoc.__file__).parent / "_proto"


def compile_protos(target: Path) -> int:
    """Write *_pb2.py and *_pb2.pyi for every file; return protoc's exit code."""
    files = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.rglob("*.proto"))
    includes = [f"-I{root}" for root in (PROTO_ROOT, WELL_KNOWN_ROOT, GOOGLE_ROOT)]
    return int(protoc.main(["protoc", *includes, f"--python_out={target}", f"--pyi_out={target}", *files]))


if __name__ == "__main__":
    sys.exit(compile_protos(Path(sys.argv[1])))
