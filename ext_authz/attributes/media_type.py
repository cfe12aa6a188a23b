"""What a request says that its body is: read once, in one way.

The type is the caller's word. Where an application would decode a body in another way than we do, it is refused.
"""

import re
from collections.abc import Iterable, Mapping

from ext_authz.attributes.request import CONTENT_ENCODING, CONTENT_TYPE
from ext_authz.errors import Reason, Refusal

JSON = "application/json"
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, section "Requests":
#   Content-Type = "application/grpc" [ ( "+proto" / "+json" / "+" custom ) ]     ; parameters as everywhere (RFC 9110 section 8.3.1)
# What goes on with a dash (grpc-web) is another protocol.
_GRPC = re.compile(r"application/grpc(?:\+[a-z0-9.-]+)?[ \t]*(?:;.*)?")


def readable_media_type(headers: Mapping[str, str]) -> str:
    """Return the media type of a body, in lower case, without parameters; empty if the request names none.

    Raises Refusal for a body that is compressed, or of another charset than UTF-8.
    """
    if headers.get(CONTENT_ENCODING, "identity") != "identity":
        raise Refusal(Reason.BODY_ENCODING, "the body is compressed")
    media_type, *parameters = headers.get(CONTENT_TYPE, "").lower().split(";")
    _check_charset(parameters)
    return media_type.strip()


def is_grpc(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it is a gRPC call."""
    return _GRPC.fullmatch(headers.get(CONTENT_TYPE, "").lower()) is not None


def _check_charset(parameters: Iterable[str]) -> None:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' \t"') not in _CHARSETS:
            raise Refusal(Reason.BODY_ENCODING, "the body has another charset than UTF-8")
