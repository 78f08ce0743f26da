"""The model card: what a model is for, what it was trained on, how well it does, what it costs."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import yaml

from parfocal.features.foreign.encoder_names import encoder_problem
from parfocal.hub.facts import ALL, EvaluationFacts, RunFacts
from parfocal.metrics import (
    METRICS,
    REGRESSION_METRICS,
    SCORE_LABELS,
    SURVIVAL_METRICS,
    interval_notes,
)
from parfocal.models.checkpoint import Checkpoint
from parfocal.printable import counted, counts_of_each, left_out
from parfocal.slide.resolution import magnification_of
from parfocal.tasks import task_of

CARD_METRICS = ("auroc_macro", "balanced_accuracy", "accuracy", "weighted_f1", "quadratic_kappa")
CLASS_METRICS = {"recall": "recall", "auroc": "AUROC", "average_precision": "average precision"}
# Of tasks without classes, and of each of several targets.
OTHER_METRICS = (*SURVIVAL_METRICS, *REGRESSION_METRICS)
CLASS_METRICS |= SURVIVAL_METRICS | REGRESSION_METRICS
TAGS = ["pathology", "whole-slide-imaging", "multiple-instance-learning", "parfocal"]
RESEARCH_USE = (
    "Research software: not a medical device, not for diagnosis. The scores below hold for slides "
    "like those of the evaluation; on slides of another scanner, stain, center or population they "
    "can be much lower. Evaluate the model on slides of your own before you rely on it."
)


def model_card(
    public: Checkpoint,
    facts: RunFacts,
    *,
    name: str,
    title: str | None = None,
    license_id: str | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        public: the model as it is published.
        facts: counts and metrics.
        name: what `predict` is given.
        title: the recipe of the run; None for the name of the model.
        license_id: license of the model; None if it is not said.
    """
    task = task_of(public)
    labels = ", ".join(public.labels)
    what = f"classifies whole-slide images of pathology as {labels}"
    if not task.classes:
        what = f"predicts {labels} from whole-slide images of pathology (task {task.name})"
    header = yaml.safe_dump(
        _front_matter(facts, license_id), sort_keys=False, allow_unicode=True, width=1000
    )
    sections = [
        f"---\n{header}---",
        f"# {title or public.model_name}: {labels}",
        f"A model that {what}. {_zooming(public)}",
        f"## Use\n\n    parfocal predict {name} slide.svs --out predictions\n\nNeeds "
        f"parfocal {version('parfocal')} or later"
        f"{', and the encoder below' if public.encoders else ''}.",
        f"## Intended use\n\nResearch on slides of the tissue and stain of the training slides.\n\n"
        f"{RESEARCH_USE}",
        f"## Training slides\n\n{_data(task.classes or (ALL,), facts)}",
        f"## Evaluation\n\n{_evaluation(facts.evaluation)}",
        f"## Cost\n\n{_cost(facts.evaluation)}",
        f"## Encoder\n\n{_encoders(public)}",
        f"## Patches\n\n{_patches(public)}",
        f"## Training\n\n{_training(public)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: RunFacts, license_id: str | None) -> dict[str, Any]:
    """Return what the Hub reads."""
    matter: dict[str, Any] = {
        "library_name": "parfocal",
        "pipeline_tag": "image-classification",
        "tags": TAGS,
    }
    if license_id is not None:
        matter["license"] = license_id
    evaluation = facts.evaluation
    if evaluation is not None:
        values = [
            {"type": metric, "name": METRICS[metric], "value": round(score.value, 4)}
            for metric in CARD_METRICS
            if (score := evaluation.scores.get(metric)) is not None and score.value is not None
        ]
        result = {
            "task": {"type": "image-classification", "name": "Slide classification"},
            "dataset": {"type": "private", "name": "held-out slides"},
            "metrics": values,
        }
        matter["model-index"] = [{"name": "parfocal", "results": [result]}]
    return matter


def _zooming(public: Checkpoint) -> str:
    names = [f"{each:g}x" for each in public.magnifications]
    if not public.traits.zooms:
        return f"It reads all patches at {' and '.join(names)}."
    return (
        f"It starts at {names[0]} and reads higher magnifications ({', '.join(names[1:])}) only "
        "where it zooms in."
    )


def _data(labels: Sequence[str], facts: RunFacts) -> str:
    if not facts.data:
        text = "The run records no split."
    else:
        rows = [
            [part, *(f"{counts[label].slides} of {counts[label].patients}" for label in labels)]
            for part, counts in facts.data.items()
        ]
        text = "Slides of patients in each part; no patient is in two parts.\n\n" + _table(
            ["part", *labels], rows
        )
    if facts.unreadable:
        text += f"\n\n{left_out(facts.unreadable, 'slide')}."
    return text


def _evaluation(evaluation: EvaluationFacts | None) -> str:
    if evaluation is None:
        return "None was given."
    counts = counts_of_each(evaluation.counts)
    whose = (
        "another cohort than that of the training"
        if evaluation.external
        else f"part `{evaluation.part}` of the cohort"
    )
    rows = [
        (SCORE_LABELS[name], evaluation.scores[name])
        for name in (*CARD_METRICS, *OTHER_METRICS)
        if name in evaluation.scores
    ]
    rows += [
        (f"{CLASS_METRICS[name]} of {label}", score)
        for label, scores in evaluation.by_class.items()
        for name, score in scores.items()
        if name in CLASS_METRICS
    ]
    total = counted(sum(evaluation.counts.values()), "slide")
    lines = [
        f"On {total} ({counts}) of {whose}, with 95% intervals over patients.",
        _table(["metric", "value"], [[name, score.short] for name, score in rows]),
        *interval_notes(rows),
    ]
    if evaluation.failed:
        lines.append(f"{left_out(evaluation.failed, 'slide')}.")
    if evaluation.seen_in_training:
        lines.append(
            f"{evaluation.seen_in_training} of the slides were used in training, so the scores "
            "are too optimistic."
        )
    return "\n\n".join(lines)


def _cost(evaluation: EvaluationFacts | None) -> str:
    if evaluation is None or not evaluation.cost:
        return "Not measured; `parfocal predict` prints the cost of each slide."
    cost = evaluation.cost
    texts = {"patches": f"{cost.get('patches', 0):,.0f} patches"}
    if "share_patches" in cost:
        texts["patches"] += f" ({100 * cost['share_patches']:.3g}% of those with tissue)"
    texts["macs"] = f"{cost['macs'] / 1e9:,.4g} GMAC" if "macs" in cost else "MACs unknown"
    if "seconds" in cost:
        texts["seconds"] = f"{cost['seconds']:.3g} s on the machine of the evaluation"
    note = " Features were stored, so MACs and seconds are those of the model alone."
    return f"Mean per slide: {', '.join(texts.values())}." + (note if evaluation.stored else "")


def _encoders(public: Checkpoint) -> str:
    if not public.encoders:
        return "None: the model takes pixels, and its network is part of its weights."
    rows: dict[str, list[str]] = {}
    for magnification, encoder in zip(public.magnifications, public.encoders, strict=True):
        row = rows.setdefault(
            f"{encoder.name} {encoder.weights_hash}",
            [
                *("", encoder.name, str(encoder.dim), encoder.preparation, _range(encoder)),
                *(encoder.license, encoder.weights_hash),
            ],
        )
        row[0] += f"{', ' if row[0] else ''}{magnification:g}x"
    header = ["at", "name", "features", "input", "made for", "license", "weights"]
    problems = dict.fromkeys(map(encoder_problem, public.encoders))
    notes = [
        f"\n\nSlide files cannot be predicted with this model, only stored features: {problem}."
        for problem in problems
        if problem is not None
    ]
    return (
        _table(header, list(rows.values()))
        + "\n\nIts weights are not part of this repository, and their license applies to their "
        "use." + "".join(notes)
    )


def _range(encoder: Any) -> str:
    low, high = encoder.mpp_range
    return f"{low:g} to {high:g} µm/px ({magnification_of(high):g}x to {magnification_of(low):g}x)"


def _patches(public: Checkpoint) -> str:
    slide = public.slide
    names = ", ".join(f"{each:g}x" for each in slide.magnifications)
    return (
        f"{slide.patch_size} px at {names}; tissue: {slide.tissue_method}, at least "
        f"{slide.min_tissue:.0%} of a patch."
    )


def _training(public: Checkpoint) -> str:
    training = public.training
    used = ", ".join(f"{name} {number}" for name, number in public.versions.items())
    refit = ", then trained again on training and validation slides together"
    held = (
        "Fingerprints of the training slides are included, so `parfocal evaluate` refuses them."
        if training.fingerprints
        else "The training slides are not recorded here, so `parfocal evaluate` cannot refuse them."
    )
    tool = (
        f" Its features were made by {training.feature_tool}, at nominal magnifications."
        if training.feature_tool
        else ""
    )
    return (
        f"Epoch {training.epoch} of a run with seed {training.seed}"
        f"{refit if training.refit else ''}; {used}. The settings are in `settings.yaml`, if the "
        f"run has them.{tool} {held}"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def license_of(card: str) -> str | None:
    """Return the license that a model card states; None if it states none."""
    start, *rest = card.split("---\n", maxsplit=2)
    try:
        matter = yaml.safe_load(rest[0]) if not start and len(rest) == 2 else None
    except yaml.YAMLError:
        return None
    stated = matter.get("license") if isinstance(matter, dict) else None
    return stated if isinstance(stated, str) else None
