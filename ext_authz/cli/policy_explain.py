"""`ext-authz policy explain`: how one decision comes about, and what would have allowed it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ext_authz.attributes.compose import read_capture
from ext_authz.attributes.salvage import salvage_attributes
from ext_authz.cli.chains import print_json, read_file, read_flag
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.cli.lines import echo_line
from ext_authz.cli.times import format_moment, parse_moment
from ext_authz.decision.decide import Snapshot
from ext_authz.decision.explain import Explanation, Step
from ext_authz.documents.loader import load_policy
from ext_authz.documents.words import parse_request
from ext_authz.errors import ConfigurationError, Outcome, Reason
from ext_authz.identity.identify import Identifier
from ext_authz.identity.xfcc import XfccMode
from ext_authz.injection import load_default_screen
from ext_authz.policy.compile import Policy, compile_policy
from ext_authz.review.explaining import explain_bytes, explain_request
from ext_authz.review.records import RecordedDecision, RecordFile
from ext_authz.review.replay import CannotReplayError, to_request
from ext_authz.review.requests import PolicyRequest, RequestReader
from ext_authz.review.ways import ways_to_allow

_WORDS = "A request in words"
_CAPTURE = "A captured request"
_RECORD = "A recorded decision"


def explain(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of policy documents.")],
    *,
    caller: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Who calls.", rich_help_panel=_WORDS)
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="NAME", help="Who is called.", rich_help_panel=_WORDS)
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="A request of this action; or --method and --path.", rich_help_panel=_WORDS)
    ] = None,
    method: Annotated[str | None, typer.Option(help="HTTP method.", rich_help_panel=_WORDS)] = None,
    path: Annotated[str | None, typer.Option(help="Path, with its query.", rich_help_panel=_WORDS)] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="A header.", rich_help_panel=_WORDS)
    ] = None,
    body: Annotated[
        str | None, typer.Option(metavar="TEXT|@FILE", help="The body, as it is.", rich_help_panel=_WORDS)
    ] = None,
    on_behalf_of: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="A chain for this user holds.", rich_help_panel=_WORDS)
    ] = None,
    scope: Annotated[list[str] | None, typer.Option(help="A scope of that chain.", rich_help_panel=_WORDS)] = None,
    hops: Annotated[int, typer.Option(help="Hops of that chain.", rich_help_panel=_WORDS)] = 1,
    check_request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CheckRequest, binary or JSON.", rich_help_panel=_CAPTURE)
    ] = None,
    xfcc_mode: Annotated[
        XfccMode, typer.Option(help="As in the server's settings.", rich_help_panel=_CAPTURE)
    ] = XfccMode.SANITIZE_SET,
    require_xfcc: Annotated[bool, typer.Option(help="As in the server's settings.", rich_help_panel=_CAPTURE)] = True,
    decision: Annotated[
        str | None, typer.Option(metavar="ID", help="Decision id, from --records.", rich_help_panel=_RECORD)
    ] = None,
    records: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Audit records, as JSON lines.", rich_help_panel=_RECORD)
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When: RFC 3339, or Unix seconds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain how a request is decided: every stage, the rule that decides, and what would have allowed it.

    Example: ext-authz policy explain policies/default --from planner-agent --to database-agent --action read

    Example: ext-authz policy explain policies/default --decision 9322d6fa7ae360ba895a882edd9018bb --records audit.jsonl

    Exits with 0 when the request is allowed, with 1 when it is not, with 2 when something cannot be read.
    """
    words = {"from": caller, "to": target, "action": action, "method": method, "path": path}
    chain = {"on_behalf_of": on_behalf_of, "scopes": scope or [], "hops": hops} if on_behalf_of is not None else None
    with exit_on_configuration_error():
        _check_one_source(bool(header or body or chain or any(words.values())), check_request, decision, records)
        if (scope or hops != 1) and chain is None:
            raise ConfigurationError(["--scope and --hops are those of a chain: say for whom, with --on-behalf-of"])
        documents = load_policy(directory)
        policy = compile_policy(documents)
        moment = read_flag("--at", parse_moment, at) if at is not None else None
        record = None
        if check_request is not None:
            identifier = Identifier(xfcc_mode, require_xfcc)
            found: Explanation | str = _of_capture(check_request, policy, identifier, moment)
        elif decision is not None and records is not None:
            record = _find(decision, records)
            found = _of_record(record, policy)
        else:
            given = {key: value for key, value in words.items() if value is not None}
            parts = {"headers": _headers(header or ()), "delegation": chain}
            request = parse_request({**given, **parts}, _flag)
            problems: list[str] = []
            read = RequestReader(documents, policy, problems).read(request, _flag)
            if read is None:
                raise ConfigurationError(problems)
            found = explain_request(_with(read, body, moment), policy, load_default_screen())
    answer = _Answer(directory, policy, found, record)
    if as_json:
        print_json(answer.as_json())
    else:
        answer.print()
    if answer.outcome is not Outcome.ALLOW:
        raise typer.Exit(NO)


class _Answer(NamedTuple):
    """What is printed. `found` is a text where a recorded decision cannot be made again."""

    directory: Path
    policy: Policy
    found: Explanation | str
    record: RecordedDecision | None

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.found, Explanation):
            return self.found.decision.meaning.outcome
        return self.record.reason.meaning.outcome if self.record else Outcome.ERROR

    def print(self) -> None:
        if self.record is not None:
            self._print_record(self.record)
        if isinstance(self.found, Explanation):
            self._print_explanation(self.found)
        else:
            echo_line(f"it cannot be decided again: {self.found}")

    def _print_record(self, record: RecordedDecision) -> None:
        of = "" if record.policy_digest == self.policy.digest else ", by another policy than this one"
        echo_line(f"recorded {format_moment(record.decided_at)}: {record.reason.meaning.outcome}: {record.reason}{of}")
        echo_line(f"    {record.detail}")
        if record.rule:
            echo_line(f"    {record.rule}")
        echo_line("the record holds no header, query or body: what follows is decided without them")

    def _print_explanation(self, found: Explanation) -> None:
        decision = found.decision
        echo_line(f"{decision.meaning.outcome}: {decision.reason}: {decision.detail}")
        if decision.rule is not None:
            echo_line(f"    {decision.rule.where} {decision.rule.text}")
        echo_line()
        decided_by = found.decided_by
        for step in found.steps:
            mark = "  <- decides" if step is decided_by else ""
            echo_line(f"  {step.stage:<14}{_verdict(step):<10}{_said(step)}{mark}".rstrip())
        ways = ways_to_allow(found, self.policy)
        if ways:
            echo_line()
            echo_line("what would have allowed it:")
        for way in ways:
            echo_line(f"  - {way.text}")
            for line in way.yaml.splitlines():
                echo_line(f"        {line}")

    def as_json(self) -> dict[str, Any]:
        recorded = None
        if self.record is not None:
            recorded = {
                "decision_id": self.record.decision_id,
                "time": format_moment(self.record.decided_at),
                "reason": self.record.reason,
                "rule": self.record.rule or None,
                "same_policy": self.record.policy_digest == self.policy.digest,
            }
        if not isinstance(self.found, Explanation):
            return {"recorded": recorded, "cannot_replay": self.found}
        decision = self.found.decision
        return {
            "recorded": recorded,
            "outcome": decision.meaning.outcome,
            "reason": decision.reason,
            "detail": decision.detail,
            "rule": decision.rule._asdict() if decision.rule else None,
            "stages": [
                {
                    "stage": step.stage,
                    "verdict": _verdict(step),
                    "reason": step.reason,
                    "detail": step.detail,
                    "rule": step.rule._asdict() if step.rule else None,
                    "decides": step is self.found.decided_by,
                }
                for step in self.found.steps
            ],
            "grants": [
                {"where": grant.rule.where, "text": grant.rule.text, "reason": reason}
                for grant, reason in self.found.grants
            ],
            "ways": [way._asdict() for way in ways_to_allow(self.found, self.policy)],
        }


def _verdict(step: Step) -> str:
    if step.reason is None:
        return "not run"
    return "passes" if step.reason is Reason.ALLOWED else "refuses"


def _said(step: Step) -> str:
    reason = f"{step.reason}: " if step.reason not in (None, Reason.ALLOWED) else ""
    rule = f"{step.rule.where} {step.rule.text}" if step.rule else ""
    return "; ".join(text for text in (f"{reason}{step.detail}", rule) if text)


def _check_one_source(words: bool, check_request: Path | None, decision: str | None, records: Path | None) -> None:
    if (decision is None) is not (records is None):
        raise ConfigurationError(["--decision and --records belong together"])
    if sum((words, check_request is not None, decision is not None)) != 1:
        raise ConfigurationError(
            ["one request is explained: give --from, --to and what is asked, or --check-request, or --decision"]
        )


def _flag(*steps: object) -> str:
    """Name the flag that a key of a request comes from."""
    key, *inside = map(str, steps or ("from, --to, --action",))
    key = (inside or ["on_behalf_of"])[0] if key == "delegation" else key
    names = {"headers": "header", "scopes": "scope"}
    return f"--{names.get(key, key).replace('_', '-')}"


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ConfigurationError(["--header: expected `name: value`"])
        headers[name.strip()] = value.strip()
    return headers


def _with(request: PolicyRequest, body: str | None, moment: float | None) -> PolicyRequest:
    """Return a request with the body and the moment that flags give; JSON says that it is JSON."""
    if moment is not None:
        request = request._replace(at=moment)
    if body is None:
        return request
    text = read_flag("--body", _text, body)
    implied = {"content-type": "application/json"} if _is_json(text) else {}
    return request._replace(body=text, headers={**implied, **request.headers})


def _text(argument: str) -> str:
    return read_file(Path(argument[1:])).decode("utf-8") if argument.startswith("@") else argument


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _of_capture(path: Path, policy: Policy, identifier: Identifier, moment: float | None) -> Explanation:
    try:
        data = read_capture(read_file(path))
    except ValueError as error:
        raise ConfigurationError([f"{path}: {error}"]) from None
    received_ns = salvage_attributes(data).received_ns
    captured = received_ns / 1e9 if received_ns else time.time()
    snapshot = Snapshot(policy, identifier, load_default_screen())
    return explain_bytes(data, snapshot, captured if moment is None else moment)


def _of_record(record: RecordedDecision, policy: Policy) -> Explanation | str:
    try:
        request = to_request(record)
    except CannotReplayError as error:
        return str(error)
    return explain_request(request, policy, load_default_screen())


def _find(decision_id: str, path: Path) -> RecordedDecision:
    file = RecordFile(path)
    try:
        found = next((record for record in file if record.decision_id == decision_id), None)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    for flaw in file.flaws:
        typer.echo(f"{path}:{flaw}", err=True)
    if found is None:
        raise ConfigurationError([f"{path}: no record of this decision"])
    return found
