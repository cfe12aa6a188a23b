"""`ext-authz policy init`: a policy to begin with, which explains itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.documents.loader import SUFFIXES
from ext_authz.documents.schema import ANY_KIND, file_name, packaged_schemas
from ext_authz.errors import ConfigurationError
from ext_authz.identity.names import Names, check_names
from ext_authz.identity.spiffe_id import SpiffeIdError

_STARTER = Path(__file__).parent / "starter"
_PLACEHOLDER = "TRUST_DOMAIN"


def init(
    directory: Annotated[Path, typer.Argument(help="Directory to make, or an empty one.")],
    trust_domain: Annotated[
        str, typer.Option(metavar="DOMAIN", help="The trust domain of your SPIFFE IDs.")
    ] = "agents.example.com",
) -> None:
    """Write a small policy with comments, its tests, and the schema that editors read.

    Example: ext-authz policy init policies/mine --trust-domain prod.example.com

    Nothing is overwritten: exits with 2 when the directory holds a policy already.
    """
    with exit_on_configuration_error():
        _check(directory, trust_domain)
        for name, text in _files(trust_domain).items():
            _write(directory / name, text)
    typer.echo(f"next: ext-authz policy validate {directory} && ext-authz policy test {directory}")


def _check(directory: Path, trust_domain: str) -> None:
    try:
        check_names(Names(trust_domain))
    except SpiffeIdError as error:
        raise ConfigurationError([f"--trust-domain: `{trust_domain}` is no trust domain: {error}"]) from None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = sorted(entry for entry in directory.iterdir() if entry.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ConfigurationError([f"{directory}: cannot be made: {error.strerror}"]) from None
    if present:
        raise ConfigurationError([f"{path}: is here already: name a new directory" for path in present])


def _files(trust_domain: str) -> Mapping[str, str]:
    files = {path.name: path.read_text("utf-8") for path in sorted(_STARTER.iterdir())}
    files = {name: text.replace(_PLACEHOLDER, trust_domain) for name, text in files.items()}
    return files | {file_name(ANY_KIND): packaged_schemas()[ANY_KIND]}


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot write: {error.strerror}"]) from None
    typer.echo(path)
