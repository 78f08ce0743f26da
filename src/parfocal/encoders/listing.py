"""Describe the encoders of the catalog: a table of all, or what one needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from parfocal.encoders.card import INSTALL, PACKAGES, EncoderCard
from parfocal.encoders.catalog import CARDS, TEST_CARDS
from parfocal.encoders.hub import cached_files, how_to_get
from parfocal.encoders.transformers_networks import REMOTE_CODE_OPTION
from parfocal.slide.resolution import magnification_of

COLUMNS = ("name", "features", "patch", "µm/px", "GMAC", "license", "gated", "installed")
BUILT_IN = "efficientnet-lite0"  # whose weights are installed with parfocal


@dataclass(frozen=True)
class Listing:
    """An encoder, and what is missing on this machine to use it.

    Args:
        card: the encoder.
        missing_packages: packages that are not installed.
        has_weights: whether the weights are installed or in the cache of the Hub.
    """

    card: EncoderCard
    missing_packages: tuple[str, ...]
    has_weights: bool

    @property
    def installed(self) -> str:
        """What is missing, in a few words; "yes" if nothing is."""
        if self.missing_packages:
            return f"needs {self.missing_packages[0]}"
        if self.is_for_tests:
            return "yes, for tests"
        return "yes" if self.has_weights else "no weights"

    @property
    def is_for_tests(self) -> bool:
        """Whether its weights are random."""
        return self.card.id in TEST_CARDS

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        card = self.card
        return {
            "name": card.id,
            "features": dict(card.dims),
            "output": card.default_output,
            "patch_px": card.patch_px or None,
            "mpps": list(card.mpps),
            "mpp_range": list(card.mpp_range),
            "resize_px": card.resize_px or card.input_size,
            "input_size": card.input_size,
            "interpolation": card.interpolation,
            "mean": list(card.mean),
            "std": list(card.std),
            "precision": card.precision,
            "macs_per_patch": card.macs,
            "license": card.license,
            "gated": card.gated,
            "remote_code": card.remote_code,
            "page": card.page or None,
            "aliases": list(card.aliases),
            "source": card.source,
            "missing_packages": list(self.missing_packages),
            "has_weights": self.has_weights,
        }


def list_encoder(card: EncoderCard) -> Listing:
    """Find what is missing to use an encoder, without importing or downloading anything."""
    missing = tuple(name for name in PACKAGES[card.loader] if find_spec(name) is None)
    weights = card.id in (BUILT_IN, *TEST_CARDS) or bool(
        cached_files(card.hub, dataset=card.dataset, name=card.weights_file)
    )
    return Listing(card, missing, weights)


def table_rows(cards: Iterable[EncoderCard] = CARDS.values()) -> list[tuple[str, ...]]:
    """Return the rows of the table of encoders, without the column about this machine."""
    return [
        (
            card.id,
            " or ".join(str(dim) for dim in card.dims.values()),
            f"{card.patch_px} px" if card.patch_px else "any",
            _mpps_text(card),
            macs_text(card.macs),
            card.license,
            "yes" if card.gated else "no",
        )
        for card in cards
    ]


def format_table(listings: Sequence[Listing]) -> str:
    """Return the table of encoders, with aligned columns."""
    rows = table_rows(each.card for each in listings)
    lines = [COLUMNS, *((*row, each.installed) for row, each in zip(rows, listings, strict=True))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def format_listing(listing: Listing) -> str:
    """Return the facts about one encoder, and the steps to use it."""
    card = listing.card
    facts = {
        "features": ", ".join(f"{dim} ({output})" for output, dim in card.dims.items()),
        "patches": f"{f'{card.patch_px} px' if card.patch_px else 'any size'} at "
        f"{_mpps_text(card)} µm/px; {card.spec().preparation}",
        "on a GPU": card.precision,
        "cost": f"{macs_text(card.macs)} billion multiply-accumulates (GMAC) per patch",
        "license": card.license,
        "weights": "random" if listing.is_for_tests else card.page or "installed with parfocal",
        "also called": ", ".join(card.aliases) or "-",
        "facts from": card.source,
        "installed": listing.installed,
    }
    lines = [card.id, *(f"  {name:12} {value}" for name, value in facts.items())]
    return "\n".join([*lines, "", *_steps(listing)])


def _steps(listing: Listing) -> list[str]:
    """Return the steps to use an encoder, one line each."""
    card, steps = listing.card, []
    if INSTALL[card.loader]:
        done = "" if listing.missing_packages else "  (done)"
        steps.append(f"Install: {INSTALL[card.loader]}{done}")
    if card.page:
        cached = card.loader == "titan"
        done = "  (done: they are in the Hub's cache)" if listing.has_weights else ""
        steps.append(f"Weights: {how_to_get(card.page, gated=card.gated, cached=cached)}{done}")
    if card.remote_code:
        steps.append(f"Loading it runs code from its repository. Allow this: {REMOTE_CODE_OPTION}.")
    size = f" --patch-size {card.patch_px}" if card.patch_px not in (0, 256) else ""
    magnification = f"{magnification_of(card.mpps[-1] if len(card.mpps) == 1 else 0.5):g}"
    steps.append(
        f"Use: parfocal extract cohort.csv --out features --magnifications {magnification}{size} "
        f"--encoder {card.id}"
    )
    return steps


def macs_text(macs: int | None) -> str:
    """Return multiply-accumulates in billions."""
    return "unknown" if macs is None else f"{macs / 1e9:.3g}"


def _mpps_text(card: EncoderCard) -> str:
    return ", ".join(f"{mpp:g}" for mpp in card.mpps) or "any"
