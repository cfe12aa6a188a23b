"""Files of audit records, as a server writes them."""

from collections.abc import Iterable
from pathlib import Path

from ext_authz.audit.jsonlines import JsonLinesSink
from ext_authz.decision.decide import Snapshot
from support.authorizers import new_authorizer
from support.check_requests import Question


def recorded(path: Path, questions: Iterable[Question], snapshot: Snapshot | None = None) -> list[str]:
    """Let an authorizer answer questions, append the records to a file, and return the decision ids."""
    authorizer, recorder = new_authorizer(snapshot)
    for question in questions:
        authorizer.check(question.serialized())
    sink = JsonLinesSink.to_file(path)
    sink.write(recorder.records)
    sink.close()
    return [record.decision_id for record in recorder.records]
