"""Subcommands that share models and encoders: push, serve-encoder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import ONE_ENCODER, Device, Host, Port, Run
from parfocal.cli.checks import wrong_usage
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.next_step import needs_table, predict_command, say_next
from parfocal.cli.parsing import check_one_encoder


def push(
    *,
    run: Run,
    target: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME|DIR",
            help="Repository on the Hub, as hf:OWNER/NAME, or a folder on this machine.",
        ),
    ],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Evaluation of the run, for the model card. Default: RUN/evaluation, if it "
            "exists.",
        ),
    ] = None,
    license_id: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="License of the model, such as apache-2.0. Default: that of an earlier push.",
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Make a new repository public. Default: private."),
    ] = False,
    fingerprints: Annotated[
        bool,
        typer.Option(
            "--fingerprints",
            help="Include hashes of the training slides' files, so that `evaluate` on other "
            "machines refuses these slides.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the model card and what would be written where."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Push without asking again.")] = False,
) -> None:
    """Share a trained model: weights, configuration and a model card.

    Ids of slides and patients, and all paths, are left out. Before uploading to the Hub, this
    command lists the files and asks for confirmation.

    Example: `parfocal push run published --evaluation evaluation`
    """
    from parfocal.hub.package import CARD_FILE, build_package
    from parfocal.hub.push import plan_push, pushed_license
    from parfocal.hub.repository import HubError, parse_target

    with wrong_usage(HubError):
        place = parse_target(target)
    if license_id is None and (license_id := pushed_license(place, offline=dry_run)):
        typer.echo(f"license: {license_id}, as on the card that is there now")
    package = build_package(
        run,
        name="FOLDER" if isinstance(place, Path) else place.text,
        evaluation=evaluation,
        license_id=license_id,
        fingerprints=fingerprints,
    )
    planned = plan_push(package, place, private=not public, offline=dry_run)
    for line in planned.lines:
        typer.echo(line)
    if dry_run:
        typer.echo(f"\n{package.files[CARD_FILE].decode()}\nnothing was written")
        return
    if planned.is_upload and not yes:
        _confirm(target)
    address = planned.run()
    done = "pushed" if planned.is_upload else "written; nothing was uploaded"
    typer.echo(f"{address}: {done}")
    table = {"--patients": "TABLE" if needs_table(run) else None}
    say_next(predict_command(Path(planned.name), table))


def _confirm(target: str) -> None:
    """Ask whether to upload; without a terminal, exit."""
    if not sys.stdin.isatty():
        typer.echo(
            f"parfocal: nothing was pushed to {target}: there is no terminal to confirm in; add "
            "--yes.",
            err=True,
        )
        raise typer.Exit(1)
    if not typer.confirm(f"Upload these files to {target}?"):
        typer.echo("nothing was pushed")
        raise typer.Exit(1)


def serve_encoder(
    *,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=f"Patch encoder: {ONE_ENCODER}"),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Encoder weights (.pth or .safetensors). Default: the published ones.",
        ),
    ] = None,
    device: Device = "auto",
    host: Host = "127.0.0.1",
    port: Port = 8643,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Encode patches for other processes and computers.

    They use it as `--encoder http://HOST:PORT/`. It has no access control: only this machine can
    reach it, unless you choose another --host.

    Example: `parfocal serve-encoder efficientnet-lite0`
    """
    from contextlib import suppress

    from parfocal.encoders.loading import load_encoder
    from parfocal.encoders.service.server import build_service
    from parfocal.explain import viewer
    from parfocal.explain.viewer.connections import run_server

    check_one_encoder(name, "NAME")
    encoder = load_encoder(
        name, device=device, weights=weights, trust_remote_code=trust_remote_code
    )
    with viewer.listen(host, port) as listening:
        is_local = viewer.is_loopback(host)
        if not is_local:
            typer.echo("parfocal: any computer that can reach this address can use it", err=True)
        typer.echo(f"{name} at {viewer.address_of(listening)} (press Ctrl-C to stop)")
        with suppress(KeyboardInterrupt):  # the usual way to stop the server
            run_server(build_service(encoder, any_host=not is_local), listening)
