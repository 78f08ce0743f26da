"""Subcommand about encoders, and their arguments in other subcommands."""

import json
from typing import Annotated

import typer

from parfocal.cli.checks import wrong_usage
from parfocal.cli.next_step import after_encoders, say_next

TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code from the repository of an encoder."),
]


def encoders(
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Encoder to describe. Default: list all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the patch encoders, or describe one: what it needs and how to get its weights.

    Example: `parfocal encoders uni2-h`
    """
    from parfocal.encoders.catalog import CARDS, TEST_CARDS, known_card
    from parfocal.encoders.listing import format_listing, format_table, list_encoder

    known = [*CARDS.values(), *TEST_CARDS.values()]
    with wrong_usage(ValueError):
        cards = known if name is None else [known_card(name)]
    listings = [list_encoder(card) for card in cards]
    if as_json:
        facts = [each.to_dict() for each in listings]
        typer.echo(json.dumps(facts if name is None else facts[0], indent=2))
    else:
        typer.echo(format_table(listings) if name is None else format_listing(listings[0]))
        say_next(after_encoders(name, any_mpp=not cards[0].mpps))
