"""Who is calling and what is reached: every source that is present must say the same."""

import pytest
from support.authorizers import NOW
from support.check_requests import CERTIFICATE_SHA256, QUESTION, Question, agent
from unit.identity.certificates import NOT_AFTER, NOT_BEFORE, certificate, digest, encoded

from ext_authz.attributes.request import parse_attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.identify import Identifier, Identity
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.identity.xfcc import XfccMode

PLANNER, RETRIEVER, OTHER = (
    SpiffeId.parse_workload(agent(name)) for name in ("planner-agent", "retrieval-agent", "database-agent")
)
CERTIFICATE = certificate()
MISSING, INVALID, MISMATCH = Reason.IDENTITY_MISSING, Reason.IDENTITY_INVALID, Reason.IDENTITY_MISMATCH
PLAIN = Identifier()
OPTIONAL = Identifier(require_xfcc=False)


def _xfcc(uri: object = PLANNER, by: object = RETRIEVER, sha256: str = CERTIFICATE_SHA256) -> str:
    return f"By={by};Hash={sha256};URI={uri}"


def _identify(question: Question, identifier: Identifier = PLAIN, now: float = NOW) -> Identity:
    return identifier.identify(parse_attributes(question.serialized()), now)


def _reason(question: Question, identifier: Identifier = PLAIN, now: float = NOW) -> Reason:
    with pytest.raises(Refusal) as refusal:
        _identify(question, identifier, now)
    return refusal.value.reason


WITH_CERTIFICATE = QUESTION.but(certificate=encoded(CERTIFICATE), xfcc=_xfcc(sha256=digest(CERTIFICATE)))


@pytest.mark.parametrize(
    ("sha256", "identifier", "question"),
    [
        (CERTIFICATE_SHA256, PLAIN, QUESTION),
        (CERTIFICATE_SHA256, PLAIN, QUESTION.but(xfcc=f"Hash={CERTIFICATE_SHA256};URI={PLANNER}")),
        (CERTIFICATE_SHA256, PLAIN, QUESTION.but(target="", xfcc=_xfcc(), extensions={"workload": str(RETRIEVER)})),
        (CERTIFICATE_SHA256, PLAIN, QUESTION.but(extensions={})),
        (CERTIFICATE_SHA256, OPTIONAL, QUESTION),
        (CERTIFICATE_SHA256, Identifier(workloads=frozenset({RETRIEVER, OTHER})), QUESTION),
        (
            CERTIFICATE_SHA256,
            Identifier(XfccMode.APPEND_FORWARD),
            QUESTION.but(xfcc=f"Hash={'0' * 64};URI={OTHER},{_xfcc()}"),
        ),
        (digest(CERTIFICATE), PLAIN, WITH_CERTIFICATE),
        (digest(CERTIFICATE), OPTIONAL, WITH_CERTIFICATE.but(xfcc=None)),
        ("", OPTIONAL, QUESTION.but(xfcc=None)),
        ("", Identifier(XfccMode.SANITIZE, require_xfcc=False), QUESTION.but(xfcc=None)),
    ],
    ids=range(11),  # a certificate is another one in each run
)
def test_sources_that_agree(sha256: str, identifier: Identifier, question: Question) -> None:
    """Caller and workload are known when all sources that are present agree."""
    assert Identity(PLANNER, RETRIEVER, sha256) == _identify(question, identifier)


@pytest.mark.parametrize(
    ("reason", "identifier", "question"),
    [
        # source.principal
        (MISSING, PLAIN, QUESTION.but(caller="", xfcc=_xfcc())),
        (MISSING, OPTIONAL, QUESTION.but(caller="", xfcc=None)),
        (MISSING, OPTIONAL, WITH_CERTIFICATE.but(caller="", xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(caller="O=SPIRE,C=US", xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(caller="planner.example.com", xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(caller="spiffe://agents.example.com", xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(caller=f"{PLANNER}\n", xfcc=None)),
        # source.principal and XFCC
        (MISSING, PLAIN, QUESTION.but(xfcc=None)),
        (MISSING, PLAIN, WITH_CERTIFICATE.but(xfcc=None)),
        (INVALID, PLAIN, QUESTION.but(xfcc="")),
        (INVALID, OPTIONAL, QUESTION.but(xfcc="")),
        (MISMATCH, PLAIN, QUESTION.but(xfcc=_xfcc(uri=OTHER))),
        (MISMATCH, OPTIONAL, QUESTION.but(xfcc=_xfcc(uri=OTHER))),
        (MISMATCH, PLAIN, QUESTION.but(caller=str(OTHER), xfcc=_xfcc())),
        (
            MISMATCH,
            Identifier(XfccMode.APPEND_FORWARD),
            QUESTION.but(xfcc=f"{_xfcc()},Hash={CERTIFICATE_SHA256};URI={OTHER}"),
        ),
        # XFCC and destination.principal
        (MISMATCH, PLAIN, QUESTION.but(xfcc=_xfcc(by=OTHER))),
        (MISMATCH, OPTIONAL, QUESTION.but(xfcc=_xfcc(by=PLANNER))),
        # certificate
        (MISMATCH, PLAIN, QUESTION.but(certificate=encoded(CERTIFICATE))),
        (
            MISMATCH,
            OPTIONAL,
            QUESTION.but(certificate=encoded(certificate(str(OTHER))), xfcc=None),
        ),
        (MISMATCH, OPTIONAL, WITH_CERTIFICATE.but(caller=str(OTHER), xfcc=None)),
        (MISMATCH, PLAIN, WITH_CERTIFICATE.but(caller=str(OTHER), xfcc=_xfcc(OTHER, sha256=digest(CERTIFICATE)))),
        (INVALID, OPTIONAL, QUESTION.but(certificate="MIIB", xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(certificate=encoded(certificate(str(PLANNER), str(OTHER))), xfcc=None)),
        (INVALID, OPTIONAL, QUESTION.but(certificate=encoded(certificate(ca=True)), xfcc=None)),
        # the workload that is reached
        (Reason.REQUEST_MALFORMED, PLAIN, QUESTION.but(target="", xfcc=_xfcc(), extensions={})),
        (MISMATCH, PLAIN, QUESTION.but(extensions={"workload": str(OTHER)})),
        (
            MISMATCH,
            PLAIN,
            QUESTION.but(target=str(OTHER), xfcc=_xfcc(by=OTHER), extensions={"workload": str(RETRIEVER)}),
        ),
        (INVALID, PLAIN, QUESTION.but(target="O=SPIRE", xfcc=f"Hash={CERTIFICATE_SHA256};URI={PLANNER}")),
        (INVALID, PLAIN, QUESTION.but(target="", xfcc=_xfcc(), extensions={"workload": "retrieval-agent"})),
        (Reason.RESOURCE_MISMATCH, Identifier(workloads=frozenset({OTHER})), QUESTION),
        # modes in which the header is the client's own
        *(
            (MISSING, Identifier(mode, require_xfcc=required), QUESTION.but(xfcc=xfcc))
            for mode in (XfccMode.FORWARD_ONLY, XfccMode.ALWAYS_FORWARD_ONLY)
            for required in (True, False)
            for xfcc in ("default", None)
        ),
        (MISSING, Identifier(XfccMode.SANITIZE), QUESTION.but(xfcc=None)),
        (INVALID, Identifier(XfccMode.SANITIZE), QUESTION),
        (INVALID, Identifier(XfccMode.SANITIZE, require_xfcc=False), QUESTION),
        (INVALID, PLAIN, QUESTION.but(xfcc=f"{_xfcc()},{_xfcc()}")),
    ],
)
def test_sources_that_do_not(reason: Reason, identifier: Identifier, question: Question) -> None:
    """A source that is missing, invalid or says something else refuses the request."""
    assert reason is _reason(question, identifier)


def test_validity_is_checked_every_time() -> None:
    """A certificate that is remembered expires all the same."""
    identifier = Identifier()
    for now in (NOT_AFTER - 1, NOT_AFTER, NOT_AFTER - 1, NOT_BEFORE - 31, NOT_BEFORE):
        if NOT_BEFORE - 30 <= now < NOT_AFTER:
            assert digest(CERTIFICATE) == _identify(WITH_CERTIFICATE, identifier, now).certificate_sha256
        else:
            assert INVALID is _reason(WITH_CERTIFICATE, identifier, now)


def test_agreement_is_checked_every_time() -> None:
    """A header that is remembered for one caller is not believed for another."""
    identifier = Identifier()
    _identify(QUESTION, identifier)
    assert MISMATCH is _reason(QUESTION.but(caller=str(OTHER), xfcc=_xfcc()), identifier)
    assert MISMATCH is _reason(QUESTION.but(target=str(OTHER), xfcc=_xfcc()), identifier)


def test_identity_headers_of_the_caller_are_no_source() -> None:
    """What a caller calls itself in a header of its own changes nothing."""
    forged = [
        ("x-authz-subject", str(OTHER)),
        ("x-agent-id", str(OTHER)),
        ("x-envoy-downstream-service-cluster", "other"),
    ]
    assert _identify(QUESTION) == _identify(QUESTION.but(headers=forged))
