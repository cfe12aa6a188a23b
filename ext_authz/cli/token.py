"""`ext-authz token`: delegation chains by hand, to try them, to look at them, to find out why one is refused.

1. A private key is written to a file of mode 0600 and never printed.
2. What is not verified says so before anything else.
"""

import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.chains import (
    authority_of,
    decoded,
    print_json,
    print_rows,
    problem_of,
    read_certificate,
    read_chain,
    read_flag,
    read_signer,
    read_workloads,
    rows_of_link,
    write_new,
)
from ext_authz.cli.exits import NO, exit_on_configuration_error
from ext_authz.cli.trust import TrustFlags, read_revocations, read_trust
from ext_authz.client.minting import Narrowing, Root, attenuate, mint_root
from ext_authz.client.signing import MintingError, certificate_sha256, generate_private_key, private_key_pem, public_jwk
from ext_authz.errors import NotAllowed
from ext_authz.times import parse_moment, parse_span
from ext_authz.tokens.chain import Presentation, verify_chain
from ext_authz.tokens.claims import MAX_DEPTH

app = typer.Typer(help="Make, narrow, look at and verify delegation chains.", no_args_is_help=True)

UNVERIFIED = "NOT VERIFIED: ANYBODY CAN HAVE WRITTEN THIS; `ext-authz token verify` says what holds"


class Algorithm(StrEnum):
    """What keys are made for."""

    ED25519 = "Ed25519"
    ES256 = "ES256"


_Chain = Annotated[
    str, typer.Argument(metavar="CHAIN", help="A chain, a file that holds one, or - for standard input.")
]
_Audience = Annotated[str, typer.Option(metavar="ID", help="SPIFFE ID of the next workload.")]
_Actor = Annotated[
    str | None, typer.Option(metavar="ID", help="SPIFFE ID of the agent that acts, where a minter signs for it.")
]
_Once = Annotated[bool, typer.Option("--once", help="For one call only.")]
_Bind = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate that the presenter must show, PEM.")]
_Key = Annotated[Path | None, typer.Option(metavar="FILE", help="Private key, PEM; with --kid and --issuer.")]
_KeyId = Annotated[str | None, typer.Option("--kid", metavar="NAME", help="Name under which the key is registered.")]
_Issuer = Annotated[str | None, typer.Option(metavar="ID", help="SPIFFE ID of the key's owner.")]
_Svid = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Directory of svid.pem and svid_key.pem, instead of a registered key."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def keygen(
    private: Annotated[Path, typer.Option(metavar="FILE", help="Where the private key goes: PEM, mode 0600.")],
    public: Annotated[Path, typer.Option(metavar="FILE", help="Where the JWK set with its public half goes.")],
    algorithm: Annotated[
        Algorithm, typer.Option(help="What the key signs with.", case_sensitive=False)
    ] = Algorithm.ED25519,
    key_id: Annotated[
        str | None, typer.Option("--kid", metavar="NAME", help="Name of the key.", show_default="its thumbprint")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="ID", help="SPIFFE ID of the key's owner, for a file of a key directory.")
    ] = None,
) -> None:
    """Make a key that signs links, and the JWK set that verifiers need.

    Example: ext-authz token keygen --kid sts-1 --private sts.pem --public sts.jwks.json

    No file is overwritten.
    """
    with exit_on_configuration_error():
        owner = {"issuer": read_workloads("--issuer", [issuer])[0].uri} if issuer else {}
        key = generate_private_key(algorithm)
        jwk = public_jwk(key, key_id)
        key_set = json.dumps({**owner, "keys": [jwk]}, indent=2) + "\n"
        write_new({private: (0o600, private_key_pem(key)), public: (0o644, key_set.encode("ascii"))})
    typer.echo(f"{algorithm} key `{jwk['kid']}`: {private} signs, {public} verifies")


@app.command()
def mint(
    *,
    on_behalf_of: Annotated[str, typer.Option(metavar="USER", help="The user for whom it is done.")],
    audience: _Audience,
    scope: Annotated[list[str], typer.Option(metavar="SCOPE", help="What may be done. Repeatable.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="SPIFFE ID of a workload that may be called. Repeatable.", show_default="--audience"
        ),
    ] = None,
    actor: _Actor = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Session: 16 to 64 letters, digits, - or _.")
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="SPAN", help="How long it lives, at most 1h.")] = "15m",
    depth: Annotated[int, typer.Option(help="Hops that may follow.", min=0, max=MAX_DEPTH)] = MAX_DEPTH,
    once: _Once = False,
    bind: _Bind = None,
    key: _Key = None,
    kid: _KeyId = None,
    issuer: _Issuer = None,
    svid: _Svid = None,
) -> None:
    """Sign the first link of a chain and print it.

    Example: ext-authz token mint --key sts.pem --kid sts-1 --issuer spiffe://agents.example.com/delegation-sts
    --on-behalf-of user:alice --scope search --audience spiffe://agents.example.com/retrieval-agent
    --actor spiffe://agents.example.com/planner-agent

    Exits with 1 when the chain cannot be made as asked.
    """
    with exit_on_configuration_error():
        root = Root(
            on_behalf_of=on_behalf_of,
            audience=read_workloads("--audience", [audience])[0],
            scopes=scope,
            allowed_targets=read_workloads("--target", target or [audience]),
            session_id=session,
            actor=read_workloads("--actor", [actor])[0] if actor else None,
            depth=depth,
            lifetime_seconds=read_flag("--ttl", parse_span, ttl),
            certificate_sha256=_sha256(bind),
            once=once,
        )
        signer = read_signer(key, kid, issuer, svid)
    _print_made(lambda: mint_root(signer, root, time.time()))


@app.command("attenuate")
def attenuate_(
    chain: _Chain,
    *,
    audience: _Audience,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="What is passed on. Repeatable.", show_default="all of it")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="SPIFFE ID that may still be called. Repeatable.", show_default="all of them"),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long it lives.", show_default="as long as the chain")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Hops that may follow.", min=0, max=MAX_DEPTH, show_default="one less")
    ] = None,
    actor: _Actor = None,
    once: _Once = False,
    bind: _Bind = None,
    key: _Key = None,
    kid: _KeyId = None,
    issuer: _Issuer = None,
    svid: _Svid = None,
) -> None:
    """Sign one more link, for the next workload and with no more than the chain gives, and print the chain.

    Example: ext-authz token attenuate chain.txt --svid /run/svid
    --audience spiffe://agents.example.com/summarizer-agent --scope search --ttl 60s

    Exits with 1 when the chain does not give what was asked for.
    """
    with exit_on_configuration_error():
        narrowing = Narrowing(
            scopes=scope or None,
            allowed_targets=read_workloads("--target", target) if target else None,
            depth=depth,
            lifetime_seconds=read_flag("--ttl", parse_span, ttl) if ttl else None,
            actor=read_workloads("--actor", [actor])[0] if actor else None,
            certificate_sha256=_sha256(bind),
            once=once,
        )
        given, (to,) = read_chain(chain), read_workloads("--audience", [audience])
        signer = read_signer(key, kid, issuer, svid)
    _print_made(lambda: attenuate(signer, given, to, narrowing, time.time()))


@app.command()
def inspect(chain: _Chain, *, as_json: _Json = False) -> None:
    """Show what a chain says, link by link, WITHOUT verifying any of it.

    Example: ext-authz token inspect chain.txt

    Exits with 2 when it cannot be decoded.
    """
    with exit_on_configuration_error():
        links = decoded(read_chain(chain))
    if as_json:
        listed = [{"header": link.header, "claims": link.claims, "problem": problem_of(link)} for link in links]
        print_json({"verified": False, "links": listed})
        return
    typer.echo(UNVERIFIED)
    for index, link in enumerate(links):
        typer.echo(f"\nlink {index}{': the root' if index == 0 else ''}")
        print_rows(rows_of_link(link))


@app.command()
def verify(
    chain: _Chain,
    *,
    presenter: Annotated[
        str, typer.Option(metavar="ID", help="SPIFFE ID of the caller; with --policies, also its name.")
    ],
    destination: Annotated[
        str,
        typer.Option(metavar="ID", help="SPIFFE ID of the workload that is called; with --policies, also its name."),
    ],
    policies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Policy that says whose chains count, instead of the next flags.")
    ] = None,
    root_issuer: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="SPIFFE ID that may start chains. Repeatable.")
    ] = None,
    minter: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="SPIFFE ID that may sign for others. Repeatable.")
    ] = None,
    keys: Annotated[list[str] | None, typer.Option(metavar="ID=FILE", help="JWK set of an issuer. Repeatable.")] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN=FILE", help="CA certificates of a trust domain, PEM. Repeatable."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Control store of the servers: what was revoked is refused.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate of the caller, PEM, where a link is bound to it.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it is shown.", show_default="now")] = None,
    as_json: _Json = False,
) -> None:
    """Verify a chain as the server does, and print what it gives or why it is refused.

    Example: ext-authz token verify chain.txt --policies policies/default --presenter planner-agent
    --destination retrieval-agent

    Example: ext-authz token verify chain.txt --presenter spiffe://agents.example.com/planner-agent
    --destination spiffe://agents.example.com/retrieval-agent
    --root-issuer spiffe://agents.example.com/delegation-sts --minter spiffe://agents.example.com/delegation-sts
    --keys spiffe://agents.example.com/delegation-sts=sts.jwks.json --bundle agents.example.com=bundle.pem

    The matrix and its cells are not asked. Keys at addresses are fetched once. Exits with 1 when the chain is refused.
    """
    with exit_on_configuration_error():
        trust = read_trust(policies, TrustFlags(root_issuer or (), minter or (), keys or (), bundle or ()))
        revocations = read_revocations(store)
        presentation = Presentation(
            presenter=trust.workload("--presenter", presenter),
            destination=trust.workload("--destination", destination),
            now=read_flag("--at", parse_moment, at) if at else time.time(),
            certificate_sha256=_sha256(certificate),
            certificate=read_certificate(certificate),
        )
        shown = read_chain(chain)
    try:
        authority = authority_of(verify_chain(shown, presentation, trust.delegation, revocations=revocations))
    except NotAllowed as refusal:
        if as_json:
            print_json({"valid": False, "reason": refusal.reason, "detail": refusal.detail})
        else:
            typer.echo(f"refused: {refusal.reason}: {refusal.detail}")
        raise typer.Exit(NO) from None
    if as_json:
        print_json({"valid": True, **authority})
    else:
        typer.echo("valid")
        print_rows((name.replace("_", " "), value) for name, value in authority.items())


def _sha256(path: Path | None) -> bytes | None:
    certificate = read_certificate(path)
    return certificate_sha256(certificate) if certificate else None


def _print_made(make: Callable[[], str]) -> None:
    try:
        typer.echo(make())
    except MintingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(NO) from None
