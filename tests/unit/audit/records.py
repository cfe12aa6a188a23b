"""Audit records made by real decisions."""

from collections.abc import Sequence

from support.authorizers import new_authorizer
from support.check_requests import QUESTION, Question

from ext_authz.audit.record import AuditRecord


def record_of(question: Question = QUESTION) -> AuditRecord:
    """Return the record of one decision."""
    [record] = records_of([question])
    return record


def records_of(questions: Sequence[Question]) -> list[AuditRecord]:
    """Return the records of several decisions, in order."""
    authorizer, recorder = new_authorizer()
    for question in questions:
        authorizer.check(question.serialized())
    return recorder.records


def numbered(count: int) -> list[AuditRecord]:
    """Return records that differ in their decision id alone."""
    return [record_of()._replace(decision_id=f"{number:032d}") for number in range(count)]
