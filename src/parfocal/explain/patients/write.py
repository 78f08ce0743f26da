"""Write a printable page for each patient, and a page that lists them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from parfocal.explain.library import find_library
from parfocal.explain.patients.card import EvaluationFacts, ModelCard, card_of, read_cards
from parfocal.explain.patients.facts import facts_of, headline_of
from parfocal.explain.patients.patient import Patient, patients_of
from parfocal.explain.patients.pictures import draw_slide
from parfocal.explain.report.sources import ReportError
from parfocal.explain.report.template import render
from parfocal.explain.truths import read_truths
from parfocal.files import write_whole
from parfocal.progress import Progress

INDEX_FILE = "index.html"
UNSAFE = re.compile(r"[^\w.-]|^\.", re.ASCII)
HASH_DIGITS = 8


@dataclass(frozen=True)
class PatientPages:
    """The pages that were written.

    Args:
        index: the page that lists the patients.
        count: number of pages of patients.
        problems: what could not be read or shown, with the reasons.
    """

    index: Path
    count: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ListedPatient:
    """A row of the page that lists patients.

    Args:
        patient: the patient.
        file: name of the page of the patient.
        headline: what was predicted, in a few words.
    """

    patient: Patient
    file: str
    headline: str


def write_patients(
    paths: Sequence[Path],
    out: Path,
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
) -> PatientPages:
    """Write a page for each patient with predictions, and index.html, which lists them.

    A patient is the slides with one patient id in a cohort table, a run or the folders; a slide
    without one has a page of its own. Predictions of several models have a page each.

    Args:
        paths: folders of predictions, and of the runs and evaluations of their models, which the
            model card is read from.
        out: folder to write to.
        cohort: cohort table with the patients, if none is in the folders.
        moved_to: folders in which to look for slide files that have moved since the prediction.

    Raises:
        ReportError: there is no prediction.
        LibraryError: tables disagree on the label of a slide.
    """
    library = find_library(paths, cohort=cohort, moved_to=moved_to)
    truths = read_truths(paths, cohort, []) if library.failed else {}
    patients = patients_of(library, truths)
    if not patients:
        raise _no_prediction(paths, library.problems)
    cards, evaluations = read_cards(paths, library.problems)
    out.mkdir(parents=True, exist_ok=True)
    models = {(patient.weights_sha256, patient.folder) for patient in patients}
    rows = [
        ListedPatient(
            each,
            _file_name(each, several=len(models) > 1),
            headline_of(each, card_of(each.first, cards)),
        )
        for each in patients
    ]
    progress = Progress("writing pages", len(rows))
    for row in rows:
        page = _render_patient(row.patient, cards, evaluations)
        write_whole(out / row.file, page.encode(errors="xmlcharrefreplace"))
        progress.advance(row.patient.id)
    index = render(
        "patients.html",
        written=datetime.now(tz=UTC).date(),
        rows=rows,
        failed=library.failed,
        problems=library.problems,
        several_models=len(models) > 1,
    )
    write_whole(out / INDEX_FILE, index.encode(errors="xmlcharrefreplace"))
    return PatientPages(out / INDEX_FILE, len(rows), tuple(library.problems))


def _render_patient(
    patient: Patient,
    cards: Mapping[str, ModelCard],
    evaluations: Mapping[str, Sequence[EvaluationFacts]],
) -> str:
    card = card_of(patient.first, cards)
    return render(
        "patient.html",
        written=datetime.now(tz=UTC).date(),
        patient=patient,
        model=patient.first.model,
        slides=[(slide, draw_slide(slide)) for slide in patient.slides],
        headline=headline_of(patient, card),
        facts=facts_of(patient, card),
        card=card,
        evaluations=evaluations.get(patient.weights_sha256, ()),
    )


def _no_prediction(paths: Sequence[Path], problems: Sequence[str]) -> ReportError:
    if problems:
        return ReportError(problems[0])
    return ReportError(
        f"{', '.join(map(str, paths))}: no predictions here or in the direct subfolders; make some "
        "with `parfocal predict RUN SLIDE... --out DIR`, then report DIR."
    )


def _file_name(patient: Patient, *, several: bool) -> str:
    """Return the name of a patient's page, which no other patient or model has."""
    name = UNSAFE.sub("_", patient.id)[:100]
    key = f"{patient.folder.resolve()}\0{patient.weights_sha256}" if several else ""
    if name != patient.id or not patient.is_known or key or name.lower() == "index":
        digest = hashlib.sha256(f"{patient.id}\0{patient.is_known}\0{key}".encode(errors="replace"))
        name = f"{name}-{digest.hexdigest()[:HASH_DIGITS]}"
    return f"{name}.html"
