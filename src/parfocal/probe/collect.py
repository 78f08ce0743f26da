"""The features of a cohort for a probe, kept so that each slide is encoded once per encoder."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from parfocal.dataset.cohort import CohortSlide
from parfocal.distribute.journal import Journal
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.probe.places import PatchSize, SlideFeatures, draw_places, encode_places
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.slide import Slide, open_slide

FEATURES_FOLDER = "features"


@dataclass(frozen=True)
class Draw:
    """Which patches are drawn.

    Args:
        settings: which patches a slide has; places are drawn among those of its magnification.
        patches: number of patches per slide.
        seed: seed of the draws.
    """

    settings: SlideSettings
    patches: int
    seed: int


def collect_features(
    slides: Sequence[CohortSlide], encoder: Encoder, size: PatchSize, draw: Draw, out: Path
) -> tuple[dict[str, SlideFeatures], dict[str, str]]:
    """Return the mean features of slides, from the journal of an earlier call where it has them.

    A slide that fails for any reason is recorded, and the others are still processed.

    Args:
        slides: the slides.
        encoder: the encoder.
        size: size of its patches.
        draw: which patches are drawn.
        out: folder of the journals.

    Returns:
        The features by slide id, and the reason of each failure by slide id.

    Raises:
        ServiceError: the encoder is a service that fails.
        OSError: the journal cannot be written.
    """
    features: dict[str, SlideFeatures] = {}
    failed: dict[str, str] = {}
    progress = Progress(f"encoding with {encoder.spec.name}", len(slides))
    with _journal(encoder.spec, size, draw, out) as journal:
        for slide in slides:
            with catch_failure(slide.slide_id) as attempt:
                with open_slide(
                    slide.path,
                    mpp=slide.mpp,
                    from_cohort=True,
                    tissue=slide.tissue,
                    missing_tiles=draw.settings.missing_tiles,
                ) as opened:
                    state = _state(opened, slide, draw)
                    stored = _parse(journal.find(slide.slide_id, state), encoder.spec.dim)
                    if stored is None:
                        centers = draw_places(
                            opened, draw.settings, count=draw.patches, seed=draw.seed
                        )
                        found = encode_places(opened, centers, encoder, size)
                        journal.add(slide.slide_id, state, _plain(found))
                features[slide.slide_id] = found if stored is None else stored
                progress.advance(slide.slide_id, skipped=stored is not None)
            if attempt.reason is not None:
                failed[slide.slide_id] = attempt.reason
                progress.fail(slide.slide_id)
    return features, failed


def _journal(encoder: EncoderSpec, size: PatchSize, draw: Draw, out: Path) -> Journal:
    """Return the journal of an encoder, one for each of its weights and sizes of patches."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", encoder.name)
    weights = re.sub(r"[^A-Za-z0-9]+", "-", encoder.weights_hash)[:16]
    path = out / FEATURES_FOLDER / f"{name}-{weights}-{size.side_px}px-{size.mpp:.4g}mpp.jsonl"
    return Journal(
        path,
        {
            "command": "probe",
            "encoder": replace(encoder, address="").to_dict(),
            "patch": asdict(size),
            "patches": draw.patches,
            "seed": draw.seed,
            "slide": asdict(draw.settings),
        },
    )


def _state(opened: Slide, slide: CohortSlide, draw: Draw) -> dict[str, object]:
    return {
        "fingerprint": opened.fingerprint,
        "mpp": opened.mpp,
        "tissue": tissue_fingerprint(slide.tissue, draw.settings.exclude_classes),
    }


def _plain(features: SlideFeatures) -> dict[str, object]:
    return {
        "mean": features.mean.tolist(),
        "patches": features.patches,
        "seconds_per_patch": features.seconds_per_patch,
    }


def _parse(stored: dict[str, object] | None, dim: int) -> SlideFeatures | None:
    """Return stored features; None if there are none, or they are damaged."""
    if stored is None:
        return None
    try:
        mean = np.array(stored["mean"], dtype=np.float32)
        patches, seconds = int(str(stored["patches"])), float(str(stored["seconds_per_patch"]))
    except (KeyError, TypeError, ValueError):
        return None
    if mean.shape != (dim,) or not np.isfinite(mean).all():
        return None
    return SlideFeatures(mean, patches, seconds)
