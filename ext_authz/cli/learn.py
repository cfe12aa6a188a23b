"""`ext-authz learn`: from what was seen to a proposal of a policy."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.documents.loader import PolicyDocuments, load_policy
from ext_authz.documents.models import Delegation, IdentityProviders, TimeWindows, TrustDomains
from ext_authz.errors import ConfigurationError, PolicyError
from ext_authz.identity.names import DEFAULT_ID_PATH, Names, check_names
from ext_authz.identity.patterns import WILDCARD
from ext_authz.identity.spiffe_id import SpiffeIdError
from ext_authz.learning.observations import Observations
from ext_authz.learning.proposal import Active, Proposal, propose
from ext_authz.policy.compile import compile_policy


def learn(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Audit records or Envoy access logs, JSON lines.")
    ],
    *,
    policies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The active policy: its actions and conditions are kept.")
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Trust domain of names, without --policies.")
    ] = None,
    id_path: Annotated[str, typer.Option(metavar="PATH", help="Path of names, without --policies.")] = DEFAULT_ID_PATH,
    few: Annotated[int, typer.Option(help="Observations below which a grant is marked.", min=0)] = 10,
    denied: Annotated[
        bool, typer.Option("--denied", help="Propose calls too that no rule granted; look at each of them.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the difference as JSON instead of the proposal.")
    ] = False,
) -> None:
    """Propose the smallest policy that allows what was seen, and print how it differs from the active one.

    Example: ext-authz learn audit.jsonl --policies policies/default

    Example: ext-authz learn access.jsonl --trust-domain agents.example.com > proposal.yaml

    The proposal goes to standard output, what it rests on to standard error. Nothing is written to a policy. Only calls that
    succeeded between verified workloads count. Exits with 1 when there was nothing to learn from.
    """
    with exit_on_configuration_error():
        active = _active(policies)
        names = active.policy.names if active else _names(trust_domain, id_path)
        observations = Observations()
        for file in files:
            _read(file, observations, with_missing=denied)
    proposal = propose(observations, names, active)
    _check(proposal, few, active)
    if as_json:
        typer.echo(json.dumps(_difference(proposal), indent=2))
    elif observations.counts:
        typer.echo(proposal.to_yaml(few), nl=False)
    for line in (*_about(observations), *_changes(proposal)):
        typer.echo(line, err=True)
    if not observations.counts:
        raise typer.Exit(NO)


def _active(directory: Path | None) -> Active | None:
    if directory is None:
        return None
    documents = load_policy(directory)
    return Active(documents, compile_policy(documents))


def _names(trust_domain: str | None, id_path: str) -> Names:
    if trust_domain is None:
        raise ConfigurationError(["--trust-domain: give the trust domain, or the active policy with --policies"])
    names = Names(trust_domain, id_path)
    try:
        check_names(names)
    except SpiffeIdError as error:
        raise ConfigurationError([f"--trust-domain and --id-path: {error}"]) from None
    return names


def _read(path: Path, observations: Observations, *, with_missing: bool) -> None:
    try:
        with path.open("rb") as file:
            observations.add(file, with_missing=with_missing)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None


# What cells build on, and a proposal does not write anew.
_KEPT = (Delegation, IdentityProviders, TimeWindows, TrustDomains)


def _check(proposal: Proposal, few: int, active: Active | None) -> None:
    """Load the proposal before anybody reads it, beside what stays of the active policy. Exits with NO when it is no policy."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "proposal.yaml").write_text(proposal.to_yaml(few), encoding="utf-8")
        try:
            if proposal.cells:
                compile_policy(_beside(active, load_policy(Path(directory))))
        except PolicyError as error:
            for problem in error.problems:
                typer.echo(f"no policy allows all of it: {problem.rpartition('/')[2]}", err=True)
            raise typer.Exit(NO) from None


def _beside(active: Active | None, proposed: PolicyDocuments) -> PolicyDocuments:
    if active is None:
        return proposed
    kept = tuple(source for source in active.documents.sources if isinstance(source.model, _KEPT))
    return replace(proposed, directory=active.documents.directory, sources=proposed.sources + kept)


def _about(observations: Observations) -> Iterator[str]:
    yield f"{observations.counts.total()} of {observations.lines} lines are calls, {len(observations.counts)} different ones"
    for count, what in (
        (observations.unsuccessful, "did not succeed"),
        (observations.without_identity, "have no verified workload on both sides"),
        (
            observations.not_understood,
            "are neither records nor access log entries, or have a path that would be refused",
        ),
        (observations.beyond_bound, "are different requests beyond what is kept"),
    ):
        if count:
            yield f"{count} lines {what}"


def _changes(proposal: Proposal) -> Iterator[str]:
    if proposal.untold:
        yield f"{proposal.untold} calls went to endpoints, where the body says which action it is: only audit records tell"
    for call in proposal.new_calls:
        yield f"+ {_sentence(call)}"
    for call, where in proposal.denied_calls:
        yield f"! {_sentence(call)}: seen, and denied ({where}); not proposed"
    for call, where in proposal.sometimes_denied_calls:
        yield f"! {_sentence(call)}: seen, and denied on a condition ({where}): keep that rule"
    for call, where, callers in proposal.narrowed_calls:
        yield f"~ {_sentence(call)} ({where}): granted to all who fit, seen of {callers}; narrowed to them"
    for call, where in proposal.unseen_calls:
        of_whom = " of anyone who fits" if WILDCARD in call[0] else ""
        yield f"- {_sentence(call)} ({where}): granted, and never seen{of_whom}"


def _sentence(call: Sequence[str]) -> str:
    subject, resource, action = call
    return f"{subject} -> {resource}: {action}"


def _difference(proposal: Proposal) -> dict[str, object]:
    keys = ("subject", "resource", "action")
    return {
        "new": [dict(zip(keys, call, strict=True)) for call in proposal.new_calls],
        "denied": [{**dict(zip(keys, call, strict=True)), "rule": where} for call, where in proposal.denied_calls],
        "sometimes_denied": [
            {**dict(zip(keys, call, strict=True)), "rule": where} for call, where in proposal.sometimes_denied_calls
        ],
        "narrowed": [
            {**dict(zip(keys, call, strict=True)), "rule": where, "callers": callers}
            for call, where, callers in proposal.narrowed_calls
        ],
        "unseen": [{**dict(zip(keys, call, strict=True)), "rule": where} for call, where in proposal.unseen_calls],
    }
