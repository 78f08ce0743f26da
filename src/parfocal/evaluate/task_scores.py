"""Scores, summary and tables of a task without classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from parfocal.dataset.cohort import CohortSlide
from parfocal.evaluate.result import SlideResult
from parfocal.metrics import Score, score_label
from parfocal.printable import counted
from parfocal.tasks import Answer, Task, mean_answer

MAX_IN_SUMMARY = 4
MIN_PATIENTS = 10  # patients, in survival with an event, below which scores are rough


def slide_scores(
    task: Task, results: Sequence[SlideResult], *, resamples: int, seed: int
) -> dict[str, Score]:
    """Compute the scores of slides whose target is known.

    Args:
        task: the task.
        results: the predictions.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    known = [result for result in results if task.known(result.slide)]
    slides, answers = [each.slide for each in known], [_answer(each) for each in known]
    return task.scores(slides, answers, resamples=resamples, seed=seed)


def patient_scores(
    task: Task, results: Sequence[SlideResult], *, resamples: int, seed: int
) -> dict[str, Score] | str:
    """Compute the scores of patients, each with the mean of the answers for its slides.

    Args:
        task: the task.
        results: the predictions.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        The scores, or why there are none.
    """
    by_patient: dict[str, list[SlideResult]] = {}
    for result in results:
        if task.known(result.slide):
            by_patient.setdefault(result.slide.patient_id, []).append(result)
    for patient, own in by_patient.items():
        if any(task.truth(each.slide) != task.truth(own[0].slide) for each in own):
            return (
                f"slides of patient {patient} have different targets; patient-level scores need "
                "one per patient."
            )
    slides: list[CohortSlide] = [own[0].slide for own in by_patient.values()]
    answers = [mean_answer([_answer(each) for each in own]) for own in by_patient.values()]
    return task.scores(slides, answers, resamples=resamples, seed=seed)


def scores_entry(count: int, scores: Mapping[str, Score]) -> dict[str, object]:
    """Return scores as in metrics.json, those of one of several targets under its column.

    Args:
        count: number of slides or patients.
        scores: the scores by name; that of one target is named `metric/column`.
    """
    overall: dict[str, object] = {}
    targets: dict[str, dict[str, object]] = {}
    for name, score in scores.items():
        metric, _, column = name.partition("/")
        (targets.setdefault(column, {}) if column else overall)[metric] = asdict(score)
    return {"n": count, "scores": overall, "targets": targets}


def score_text(task: Task, scores: Mapping[str, Score]) -> str:
    """Return the main scores with their intervals in one line, beginning with those of training.

    Args:
        task: the task; each of several targets has a score in the line.
        scores: the scores by name, as `task.scores` returns them.
    """
    names = dict.fromkeys([*(name for name in task.monitored if name in scores), *scores])
    listed = []
    for name in list(names)[: max(MAX_IN_SUMMARY, len(task.columns))]:
        listed.append(f"{score_label(name)} {scores[name].text}")
    return ", ".join(listed)


def few_patients(task: Task, results: Iterable[SlideResult]) -> str | None:
    """Return a warning if a task without classes was measured on under 10 patients, else None.

    For survival, patients with an event count.
    """
    slides = [result.slide for result in results if task.known(result.slide)]
    what = ""
    if task.name in ("survival", "hazards"):
        slides, what = [slide for slide in slides if task.group(slide) == "event"], " with an event"
    patients = len({slide.patient_id for slide in slides})
    if patients >= MIN_PATIENTS:
        return None
    return f"{counted(patients, 'patient')}{what} (fewer than {MIN_PATIENTS}): scores are rough"


def table_header(task: Task, results: Sequence[SlideResult]) -> list[str]:
    """Return the columns of predictions.csv with the true targets and the predicted numbers."""
    return [*task.columns, *(f"pred_{name}" for name in results[0].outputs)]


def table_cells(task: Task, result: SlideResult) -> list[str]:
    """Return the cells of a row below `table_header`."""
    truth = task.truth(result.slide)
    return [
        *(truth[column] for column in task.columns),
        *(f"{value:.6g}" for value in result.outputs.values()),
    ]


def _answer(result: SlideResult) -> Answer:
    return Answer(outputs=result.outputs)
