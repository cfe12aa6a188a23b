"""`ext-authz policy diff`: what a change allows and denies, before it is live."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ext_authz.cli.chains import print_json
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.cli.lines import as_code, echo_line
from ext_authz.documents.loader import load_policy
from ext_authz.errors import ConfigurationError
from ext_authz.injection import load_default_screen
from ext_authz.policy.compile import compile_policy
from ext_authz.review.differences import Differences, Edit, Side, TripleChange, compare
from ext_authz.review.records import Flaw, RecordFile
from ext_authz.review.replay import Replay, Replayed
from ext_authz.review.revisions import policy_directory, revision_directory

_NOT_RECORDED = "a record holds no header, query or body: decisions are made again without them"


def diff(
    policies: Annotated[
        list[str], typer.Argument(metavar="OLD NEW", help="Directories, or REVISION:PATH of a git repository.")
    ],
    *,
    git: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Compare the one directory named with itself in REVISION.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="RECORDS", help="Which decisions in audit JSON lines would change.")
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when something differs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a comment on a change.")] = False,
) -> None:
    """Compare two policies: who may newly ask whom for what, and who may no longer.

    Example: ext-authz policy diff HEAD~1:policies/default policies/default --exit-code

    Example: ext-authz policy diff --git main policies/default --replay audit.jsonl

    Exits with 0, with 1 when something differs and --exit-code is given, with 2 when something cannot be read.
    """
    with exit_on_configuration_error(), ExitStack() as stack:
        if as_json and as_markdown:
            raise ConfigurationError(["--json and --markdown are two forms of the same: choose one"])
        old, new = _sides(policies, git, stack)
        found = _Found(compare(old, new))
        if replay is not None:
            found = _replayed(found, old, new, replay)
    if as_json:
        print_json(_as_json(found))
    else:
        for line in _markdown(found) if as_markdown else _text(found):
            echo_line(line)
    if exit_code and (found.differences or (found.replayed and found.replayed.changed)):
        raise typer.Exit(NO)


class _Found(NamedTuple):
    """What is printed."""

    differences: Differences
    replayed: Replayed | None = None
    records: Path | None = None
    flaws: tuple[Flaw, ...] = ()


def _sides(policies: list[str], git: str | None, stack: ExitStack) -> tuple[Side, Side]:
    if git is not None:
        if len(policies) != 1:
            raise ConfigurationError(["with --git, one directory is named"])
        directory = Path(policies[0])
        if not directory.is_dir():
            raise ConfigurationError([f"{directory}:1:1: no such directory"])
        return _revision_side(f"{git}:./", directory, stack), _side(directory)
    if len(policies) != 2:
        raise ConfigurationError(["two policies are compared: OLD and NEW, or --git REVISION and one directory"])
    old, new = (stack.enter_context(policy_directory(spec)) for spec in policies)
    return _side(old), _side(new)


def _revision_side(spec: str, inside: Path, stack: ExitStack) -> Side:
    return _side(stack.enter_context(revision_directory(spec, inside)))


def _side(directory: Path) -> Side:
    documents = load_policy(directory)
    return Side(documents, compile_policy(documents))


def _replayed(found: _Found, old: Side, new: Side, path: Path) -> _Found:
    records = RecordFile(path)
    try:
        replayed = Replay(old.policy, new.policy, load_default_screen()).run(records)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    return found._replace(replayed=replayed, records=path, flaws=records.flaws)


def _text(found: _Found) -> Iterator[str]:
    for title, lines in _sections(found.differences):
        yield f"{title}:"
        yield from (f"  {line}" for line in lines)
    yield _summary(found.differences)
    if found.replayed is not None:
        yield ""
        yield from _replay_lines(found, found.replayed)


def _markdown(found: _Found) -> Iterator[str]:
    yield f"### Policy: {_summary(found.differences)}"
    sections = list(_sections(found.differences))
    if found.replayed is not None:
        sections.append(("recorded decisions", list(_replay_lines(found, found.replayed))))
    for title, lines in sections:
        yield from ("", f"**{title}**", "")
        yield from (f"- {as_code(line.strip())}" for line in lines)


def _sections(differences: Differences) -> Iterator[tuple[str, list[str]]]:
    """Yield the titles and lines of what differs."""
    sections: Mapping[str, Iterable[str]] = {
        "newly allowed": _triples("+", differences.allowed),
        "newly denied": _triples("-", differences.denied),
        "allowed, and asked for something else": (
            f"~ {_call(change.triple)}: {'; '.join(change.changes)}" for change in differences.asked
        ),
        "deny rules": map(_edit, differences.denials),
        "actions": map(_edit, differences.actions),
        "other documents": map(_edit, differences.settings),
    }
    for title, lines in sections.items():
        shown = list(lines)
        if shown:
            yield title, shown


def _triples(sign: str, changes: Iterable[TripleChange]) -> Iterator[str]:
    """Yield one line for each caller and target, by caller, with all actions that have the same rules behind them."""
    for (subject, resource, before, after), group in groupby(
        changes, lambda change: (*change.triple[:2], change.before, change.after)
    ):
        actions = ", ".join(change.triple.action for change in group)
        yield f"{sign} {subject} -> {resource}: {actions} ({before} -> {after})"


def _call(triple: tuple[str, str, str]) -> str:
    return f"{triple[0]} -> {triple[1]}: {triple[2]}"


def _edit(edit: Edit) -> str:
    if edit.before and edit.after:
        return f"~ {edit.what}: {edit.before} -> {edit.after}"
    return f"+ {edit.what}: {edit.after}" if edit.after else f"- {edit.what}: {edit.before}"


def _summary(differences: Differences) -> str:
    if not differences:
        return "no difference"
    others = len(differences.denials) + len(differences.actions) + len(differences.settings)
    return (
        f"{len(differences.allowed)} newly allowed, {len(differences.denied)} newly denied, "
        f"{len(differences.asked)} asked for something else, {others} other change{'' if others == 1 else 's'}"
    )


def _replay_lines(found: _Found, replayed: Replayed) -> Iterator[str]:
    total = sum(count.decisions for count in replayed.changed.values()) + replayed.left_out
    yield f"{found.records}: {replayed.read} decisions, {replayed.replayed} decided again, {total} would change"
    for kind, count in sorted(replayed.changed.items(), key=lambda item: (-item[1].decisions, item[0])):
        yield (
            f"  {count.decisions} x {_call(kind[:3])}: {kind.before} -> {kind.after} (such as decision {count.example})"
        )
    if replayed.left_out:
        yield f"  {replayed.left_out} x more kinds than are told apart"
    if replayed.unlike:
        yield f"  {replayed.unlike} are recorded otherwise than OLD decides them: another policy, or what is not recorded"
    for why, count_of in sorted(replayed.not_replayed.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count_of} not decided again: {why}"
    for flaw in found.flaws:
        yield f"  {found.records}:{flaw}"
    yield f"  {_NOT_RECORDED}"


def _as_json(found: _Found) -> dict[str, Any]:
    differences = found.differences
    shown: dict[str, Any] = {
        "newly_allowed": [_triple_json(change) for change in differences.allowed],
        "newly_denied": [_triple_json(change) for change in differences.denied],
        "asked": [{**change.triple._asdict(), "changes": list(change.changes)} for change in differences.asked],
        "denials": [edit._asdict() for edit in differences.denials],
        "actions": [edit._asdict() for edit in differences.actions],
        "settings": [edit._asdict() for edit in differences.settings],
    }
    if found.replayed is not None:
        shown["replay"] = {
            **found.replayed._asdict(),
            "changed": [{**kind._asdict(), **count._asdict()} for kind, count in found.replayed.changed.items()],
            "not_replayed": dict(found.replayed.not_replayed),
            "skipped_lines": [flaw._asdict() for flaw in found.flaws],
            "note": _NOT_RECORDED,
        }
    return shown


def _triple_json(change: TripleChange) -> dict[str, str]:
    return {**change.triple._asdict(), "before": change.before, "after": change.after}
