"""The encoders that are known by name."""

from dataclasses import replace
from difflib import get_close_matches

from parfocal.encoders.card import EncoderCard
from parfocal.encoders.entries import ENTRIES, HALF
from parfocal.encoders.macs import MACS

CARDS: dict[str, EncoderCard] = {card.id: replace(card, macs=MACS.get(card.id)) for card in ENTRIES}
# Their random weights are drawn from a fixed seed. They are no suggestions for other names.
TEST_CARDS: dict[str, EncoderCard] = {
    "tiny": EncoderCard(
        "tiny",
        "parfocal",
        {"pooled": 32},
        patch_px=0,
        mpps=(),
        license="Apache-2.0",
        source="colors and 13 random filters, for tests",
        input_size=64,
        mean=HALF,
        std=HALF,
        macs=MACS["tiny"],
    ),
    "resnet50-layer3-random": replace(
        CARDS["resnet50-layer3"],
        id="resnet50-layer3-random",
        license="none, drawn from a seed",
        source="resnet50-layer3 with random weights, for measuring speed",
        hub="",
        aliases=(),
    ),
}
_NAMES = {
    name.lower(): card
    for card in CARDS.values()
    for name in (card.id, card.hub, *card.aliases)
    if name
}


def find_card(name: str) -> EncoderCard | None:
    """Return the card of an encoder, or None.

    Args:
        name: id of the encoder, its repository on the Hub, or the name that another tool uses for
            it, with or without the prefix "features_" of TRIDENT's folders; case does not matter.
    """
    return _NAMES.get(name.lower().removeprefix("features_"))


def known_macs(name: str) -> int | None:
    """Return the multiply-accumulates of one patch of an encoder with its published weights.

    None for a name that is not in the catalog, such as that of a service.
    """
    card = find_card(name) or TEST_CARDS.get(name)
    return None if card is None else card.macs


def canonical_name(name: str) -> str:
    """Return the id of an encoder that is named by an alias; any other name unchanged."""
    card = find_card(name)
    return name if card is None else card.id


def nearest_names(name: str, *, count: int = 3) -> list[str]:
    """Return the ids of the encoders whose names are most like a misspelled one."""
    known = get_close_matches(name.lower(), _NAMES, n=2 * count, cutoff=0.65)
    return list(dict.fromkeys(_NAMES[each].id for each in known))[:count]


def known_card(name: str) -> EncoderCard:
    """Return the card of an encoder, also of one for tests.

    Raises:
        ValueError: the name is unknown.
    """
    card = find_card(name) or TEST_CARDS.get(name)
    if card is None:
        raise unknown_encoder(name)
    return card


def unknown_encoder(name: str) -> ValueError:
    """Return an error that says which names are like an unknown one."""
    near = nearest_names(name)
    similar = f"; similar names: {', '.join(near)}" if near else ""
    return ValueError(
        f"encoder {name!r} is not known{similar}. `parfocal encoders` lists the names; timm:NAME "
        "takes any network of timm."
    )
