"""The files of a model for other people: weights, description, settings and a model card.

Ids of slides and patients, names of files and paths are left out. Fingerprints of slide files are
left out unless requested.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.encoders.spec import EncoderSpec
from parfocal.features.foreign.encoder_names import encoder_problem
from parfocal.hub.card import model_card
from parfocal.hub.facts import read_facts
from parfocal.hub.repository import HubError
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import HUB_DESCRIPTION_FILE, HUB_WEIGHTS_FILE
from parfocal.models.provenance import TrainingProvenance
from parfocal.settings import RunSettings
from parfocal.settings.load import load_run_settings, load_settings, recipe_names

CARD_FILE, SETTINGS_FILE = "README.md", "settings.yaml"
# What a name of an encoder may contain besides the name: the path of a folder or file.
LOCAL_NAME = re.compile(r"(?P<kind>.*\blocal-dir:)(?P<path>.*)", re.DOTALL)


@dataclass(frozen=True)
class Package:
    """The files of a model for other people.

    Args:
        files: content by name.
        notes: what was left out, for the person who pushes.
    """

    files: dict[str, bytes]
    notes: tuple[str, ...]


def build_package(
    run: Path,
    *,
    name: str,
    evaluation: Path | None = None,
    license_id: str | None = None,
    fingerprints: bool = False,
) -> Package:
    """Build the files of a trained model for other people.

    Args:
        run: folder of a finished run.
        name: what `predict` will be given: a repository or a folder.
        evaluation: folder of an evaluation of the run, for the metrics of the card; None for the
            folder `evaluation` inside the run, if there is one.
        license_id: license of the model, as the Hub writes it, such as "apache-2.0"; None if it is
            not said.
        fingerprints: whether to include the hashes of the files of training slides, with which
            `evaluate` on other machines refuses these slides.

    Raises:
        CheckpointError: the run cannot be loaded.
        HubError: the evaluation is missing, or is of another model.
    """
    trained = Checkpoint.load(run)
    public = replace(
        trained,
        training=_anonymous(trained.training, fingerprints=fingerprints),
        encoders=tuple(public_encoder(each) for each in trained.encoders),
        encoder_weights=(),
    )
    weights, description = public.to_bytes()
    facts = read_facts(run, trained, evaluation)
    settings = None
    if (run / SETTINGS_FILE).is_file():
        settings, _ = load_run_settings(run / SETTINGS_FILE)
    title = None if settings is None else _recipe_name(settings)
    card = model_card(public, facts, name=name, title=title, license_id=license_id)
    files = {
        CARD_FILE: card.encode(),
        HUB_DESCRIPTION_FILE: description,
        HUB_WEIGHTS_FILE: weights,
    }
    if settings is not None:
        files[SETTINGS_FILE] = _public_settings(settings, public).to_yaml().encode()
    return Package(files, _notes(trained, fingerprints=fingerprints))


def public_encoder(encoder: EncoderSpec) -> EncoderSpec:
    """Return the description of an encoder without its address and without paths of this machine.

    An encoder from a local folder is named after its weights; others can put their folder there.
    """
    match = LOCAL_NAME.fullmatch(encoder.name)
    name = encoder.name
    if match is not None:
        name = f"{match['kind']}encoder-{encoder.weights_hash}"
    elif Path(name).is_absolute() or "\\" in name or name.startswith((".", "~")):
        raise HubError(
            f"encoder {name!r}: the name is a path of this machine, which is not published; train "
            "with an encoder that has a name."
        )
    return replace(encoder, name=name, address="")


def _recipe_name(settings: RunSettings) -> str | None:
    """Return the only recipe with the same model and the same choices; None if there is none."""
    chosen = _choices(settings)
    same = [name for name in recipe_names() if _choices(load_settings(name)) == chosen]
    return same[0] if len(same) == 1 else None


def _choices(settings: RunSettings) -> dict[str, object]:
    """Return the model and its settings that are no numbers, which make it another method."""
    arguments = settings.model.arguments.items()
    return {
        "name": settings.model.name,
        **{key: value for key, value in arguments if isinstance(value, bool | str)},
    }


def _anonymous(training: TrainingProvenance, *, fingerprints: bool) -> TrainingProvenance:
    """Return where weights come from without ids; each fingerprint stands for itself."""
    kept = sorted(set(training.fingerprints.values())) if fingerprints else []
    return replace(training, slides={}, patients={}, fingerprints={each: each for each in kept})


def _public_settings(settings: RunSettings, public: Checkpoint) -> RunSettings:
    """Return the settings of a run without paths, and without names of parts of the cohort."""
    train = replace(settings.train, init_from=None, teacher=None, exclude_strata=())
    encoder = settings.encoder
    if encoder is not None and public.encoders:
        names = {
            magnification: each.name
            for magnification, each in zip(public.magnifications, public.encoders, strict=True)
        }
        name = names if len(set(names.values())) > 1 else public.encoders[0].name
        encoder = replace(encoder, name=name, weights=None)
    return replace(settings, train=train, encoder=encoder)


def _notes(trained: Checkpoint, *, fingerprints: bool) -> tuple[str, ...]:
    """Return notes on what was left out."""
    training = trained.training
    slides = sum(map(len, training.slides.values()))
    patients = sum(map(len, training.patients.values()))
    notes = [f"left out: ids of {slides:,} slides and {patients:,} patients, and all paths"]
    if training.fingerprints:
        count = f"fingerprints of {len(training.fingerprints):,} slide files"
        notes.append(
            f"included: {count}"
            if fingerprints
            else f"left out: {count}, with which `evaluate` refuses training slides; "
            "--fingerprints includes them"
        )
    if any(trained.encoder_weights):
        notes.append("left out: the encoder's weights, which others have to give")
    for problem in dict.fromkeys(map(encoder_problem, trained.encoders)):
        if problem is not None:
            notes.append(f"slide files cannot be predicted with this model: {problem}")
    if any(each.address for each in trained.encoders):
        notes.append("left out: the address of the encoder service")
    return tuple(notes)
