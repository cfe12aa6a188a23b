"""`ext-authz policy schema`: JSON Schemas of policy documents, for editors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.exits import exit_on_configuration_error
from ext_authz.documents.problems import suggestion
from ext_authz.documents.schema import ANY_KIND, file_name, packaged_schemas
from ext_authz.errors import ConfigurationError


def schema(
    kind: Annotated[str, typer.Argument(help="A kind of document.", show_default="any kind")] = ANY_KIND,
    all_: Annotated[
        Path | None, typer.Option("--all", metavar="DIR", help="Write the schemas of all kinds into this directory.")
    ] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a policy document.

    Example: ext-authz policy schema > policies/policy.schema.json

    Example: ext-authz policy schema PermissionMatrix

    Example: ext-authz policy schema --all schemas

    Editors with the YAML language server read it where a document's first line is
    `# yaml-language-server: $schema=policy.schema.json`.
    """
    found = packaged_schemas()
    with exit_on_configuration_error():
        if kind not in found:
            raise ConfigurationError([f"unknown kind `{kind}`{suggestion(kind, found)}"])
        if all_ is not None and kind != ANY_KIND:
            raise ConfigurationError(["--all writes every kind: name none"])
        if all_ is not None:
            _write(all_, found)
            return
    typer.echo(found[kind], nl=False)


def _write(directory: Path, schemas: Mapping[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in schemas.items():
            (directory / file_name(name)).write_text(text, "utf-8")
            typer.echo(directory / file_name(name))
    except OSError as error:
        raise ConfigurationError([f"{directory}: cannot write: {error.strerror}"]) from None
