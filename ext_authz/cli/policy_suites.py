"""`ext-authz policy test`: the tests that stand beside a policy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ext_authz.cli.chains import print_json
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.cli.lines import echo_line
from ext_authz.documents.loader import load_policy
from ext_authz.errors import ConfigurationError
from ext_authz.injection import load_default_screen
from ext_authz.injection.screen import Screen
from ext_authz.policy.compile import compile_policy
from ext_authz.review.coverage import Coverage, coverage_of
from ext_authz.review.junit import to_junit
from ext_authz.review.suites import Trial, compile_suites, run


def run_tests(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories of policy documents.")],
    *,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say which cells and deny rules no test exercises.")
    ] = False,
    fail_under: Annotated[
        float | None, typer.Option(metavar="PERCENT", min=0, max=100, help="Fail below this coverage.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML here.")] = None,
    only: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Run the tests whose names hold this text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the TestSuite documents of policy directories.

    Example: ext-authz policy test policies/default --coverage --fail-under 100

    Exits with 0 when every test passes, with 1 when one does not or the coverage is too low, with 2 when a directory
    cannot be read or holds no test.
    """
    with exit_on_configuration_error():
        screen = load_default_screen()
        found = [_run(directory, only or "", screen) for directory in directories]
        if junit is not None:
            _write(junit, to_junit({str(each.directory): each.trials for each in found}))
    wants_coverage = coverage or fail_under is not None
    if as_json:
        print_json({"directories": [each.as_json(with_coverage=wants_coverage) for each in found]})
    else:
        for each in found:
            each.print(with_coverage=wants_coverage)
    low = fail_under is not None and any(each.coverage.percent < fail_under for each in found)
    if low or any(each.failed for each in found):
        raise typer.Exit(NO)


class _Found:
    """What came of the tests of one directory."""

    def __init__(self, directory: Path, trials: Iterable[Trial], coverage: Coverage) -> None:
        self.directory = directory
        self.trials = tuple(trials)
        self.coverage = coverage
        self.failed = tuple(trial for trial in self.trials if trial.differences)

    def print(self, *, with_coverage: bool) -> None:
        for trial in self.failed:
            echo_line(f"{trial.case.where}: {trial.case.name}: {'; '.join(trial.differences)}")
            echo_line(f"    {decided_by(trial)}")
        echo_line(f"{self.directory}: {_counted(len(self.trials), 'test')}, {len(self.failed)} failed")
        if with_coverage:
            self._print_coverage()

    def _print_coverage(self) -> None:
        for part in self.coverage.missing:
            echo_line(f"    not exercised: {part.where} {part.text}")
        covered = len(self.coverage.parts) - len(self.coverage.missing)
        echo_line(
            f"{self.directory}: coverage {_percent(self.coverage.percent)} ({covered} of {len(self.coverage.parts)}: "
            f"{_counted(len(self.coverage.cells), 'cell')}, {_counted(len(self.coverage.denials), 'deny rule')})"
        )

    def as_json(self, *, with_coverage: bool) -> dict[str, Any]:
        tests = [
            {
                "name": trial.case.name,
                "where": trial.case.where,
                "passed": not trial.differences,
                "expected": trial.case.expected.model_dump(exclude_none=True),
                "outcome": trial.decision.meaning.outcome,
                "reason": trial.decision.reason,
                "rule": trial.decision.rule._asdict() if trial.decision.rule else None,
                "differences": list(trial.differences),
                "decided_by": decided_by(trial) if trial.differences else None,
            }
            for trial in self.trials
        ]
        parts = [part._asdict() for part in self.coverage.parts]
        coverage = {"coverage": {"percent": round(self.coverage.percent, 2), "parts": parts}} if with_coverage else {}
        return {"directory": str(self.directory), "failed": len(self.failed), "tests": tests, **coverage}


def decided_by(trial: Trial) -> str:
    """Return the stage and the rule that decided a trial, for people."""
    decision = trial.decision
    step = trial.explanation.decided_by if trial.explanation else None
    rule = f": {decision.rule.where} {decision.rule.text}" if decision.rule else ""
    if step is None:
        return f"allowed{rule}"
    return f"stage {step.stage} ({step.reason}): {decision.detail}{rule}"


def _run(directory: Path, only: str, screen: Screen) -> _Found:
    documents = load_policy(directory)
    policy = compile_policy(documents)
    cases = [case for case in compile_suites(documents, policy) if only.casefold() in case.name.casefold()]
    if not cases:
        missing = f"no test has a name with `{only}`" if only else "no tests here: expected a TestSuite document"
        raise ConfigurationError([f"{directory}:1:1: {missing}"])
    trials = tuple(run(cases, policy, screen))
    return _Found(directory, trials, coverage_of(policy, trials))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(value: float) -> str:
    """Write a percentage that says 100 only when nothing is missing."""
    return f"{int(value * 10) / 10:g} %"
