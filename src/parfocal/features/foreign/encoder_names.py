"""Describe the encoder of features by another tool, which stores no more than its name."""

from parfocal.encoders.card import EncoderCard
from parfocal.encoders.catalog import find_card
from parfocal.encoders.loading import is_known_encoder
from parfocal.encoders.spec import ANY_MPP, UNKNOWN_LICENSE, UNKNOWN_WEIGHTS, EncoderSpec
from parfocal.features.folder import FolderFacts

UNNAMED = "unnamed"  # encoder of features whose tool does not store one
MAKER = "mahmood-"  # that STAMP writes before a name


def card_of(name: str) -> EncoderCard | None:
    """Return what is known of an encoder by any tool's name for it; None if it is unknown.

    >>> card_of("uni_v2").id, card_of("mahmood-conch1_5").id
    ('uni2-h', 'conch-v1.5')
    """
    return find_card(name) or find_card(name.removeprefix(MAKER))


def encoder_name(name: str) -> str:
    """Return the name of an encoder in `parfocal encoders`, or else the one that the tool uses."""
    card = card_of(name)
    return (name or UNNAMED) if card is None else card.id


def encoder_problem(encoder: EncoderSpec) -> str | None:
    """Return why slide files cannot be encoded as these features were; None if they may be.

    Args:
        encoder: description of the encoder of the features.
    """
    if encoder.weights_hash != UNKNOWN_WEIGHTS:
        return None
    if encoder.name == UNNAMED:
        return "their encoder is not named; train with --encoder NAME to name it"
    if not is_known_encoder(encoder.name):
        return f"parfocal does not have their encoder, {encoder.name}"
    card = find_card(encoder.name)
    if card is not None and card.output_of(encoder.dim) is None:
        widths = " or ".join(f"{dim:,}" for dim in sorted(set(card.dims.values())))
        made = f"encoder {encoder.name} gives {widths} features per patch"
        return f"{made}, and these have {encoder.dim}"
    return None


def encoder_problems(facts: FolderFacts) -> list[str]:
    """Return why slide files cannot be encoded as the features of a folder were, each once.

    Args:
        facts: the folder.
    """
    found: dict[str, list[str]] = {}
    for magnification, encoder in zip(facts.magnifications, facts.encoders, strict=True):
        problem = encoder_problem(encoder)
        if problem is not None:
            found.setdefault(problem, []).append(f"{magnification:g}x")
    all_alike = len(found) == 1 and len(*found.values()) == len(facts.magnifications)
    return [
        problem if all_alike else f"at {', '.join(names)}, {problem}"
        for problem, names in found.items()
    ]


def describe_encoder(name: str, dim: int, *, patch_size: int) -> EncoderSpec:
    """Return the description of an encoder as far as it is known.

    Args:
        name: name that the tool gives it; empty if it does not store one.
        dim: features per patch.
        patch_size: side of the patches, in pixels.
    """
    card = card_of(name)
    output = None if card is None else card.output_of(dim)
    if card is not None and output is not None:
        return card.spec(output, weights_hash=UNKNOWN_WEIGHTS)
    return EncoderSpec(
        name=encoder_name(name),
        dim=dim,
        input_size=patch_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        mpp_range=ANY_MPP,
        license=UNKNOWN_LICENSE,
        weights_hash=UNKNOWN_WEIGHTS,
    )
