import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.inputs import LiveInputs
from parfocal.distribute.worklist import Distribution
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.heldout import EvaluationError
from parfocal.evaluate.run import evaluate
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.files import OutputError
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.slide.identity import file_fingerprint
from shared_work import SentEngine

SETTINGS = SlideSettings(magnifications=(2.5, 10.0), patch_size=16)

OPEN = LiveInputs.open


def paint(path, seed, shade):
    """Write a square of tissue in the middle of 256 um of glass, at 1 µm per pixel."""
    generator = np.random.default_rng(seed)
    pixels = np.full((256, 256, 3), 245, dtype=np.uint8)
    tissue = np.array([200, shade, 180]) + generator.integers(-20, 20, size=(192, 192, 3))
    pixels[32:224, 32:224] = tissue
    Image.fromarray(pixels).save(path)


def write_cohort(path, rows):
    columns = ["slide_id", "path", "label", "patient_id", "mpp", "outlines"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({"path": f"{row['slide_id']}.png", "mpp": 1, **row} for row in rows)
    return path


def outline(path, left, top, side):
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}))
    return path.name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a run of an untrained model, and a cohort with two of its training patients."""
    folder = tmp_path_factory.mktemp("made")
    rows = []
    for number in range(8):
        paint(folder / f"{number:03}.png", number, shade=90 if number % 2 else 140)
        rows.append({"slide_id": f"{number:03}", "label": "cancer" if number % 2 else "benign"})
        rows[-1]["patient_id"] = f"p{number // 2 * 2 if number >= 6 else number}"
    rows[6]["label"] = "cancer"  # 006 and 007 are slides of one patient
    rows[3]["outlines"] = outline(folder / "003.json", 96, 96, 10)
    cohort = write_cohort(folder / "cohort.csv", rows)
    run = folder / "run"
    save_run(run, train=["000"], val=["001"])
    split = ["train", "val"] + ["test"] * 6
    lines = [
        f"{row['slide_id']},{row['patient_id']},{row['label']},{part}\n"
        for row, part in zip(rows, split, strict=True)
    ]
    (run / "split.csv").write_text("slide_id,patient_id,label,split\n" + "".join(lines))
    return folder, run, cohort, rows


def save_run(run, *, train, val, fingerprints=None):
    torch.manual_seed(0)
    encoder = load_encoder("tiny").spec
    settings = {"in_dim": encoder.dim, "num_classes": 2, "num_magnifications": 2, "dim": 8, "k": 2}
    Checkpoint(
        model=build_model("zoommil", settings),
        model_name="zoommil",
        model_settings=settings,
        labels=("benign", "cancer"),
        encoders=(encoder,) * len(SETTINGS.magnifications),
        slide=SETTINGS,
        training=TrainingProvenance(
            seed=0,
            epoch=0,
            slides={"train": train, "val": val},
            patients={"train": [f"p{int(s)}" for s in train], "val": [f"p{int(s)}" for s in val]},
            fingerprints=fingerprints or {},
        ),
    ).save(run)


@pytest.fixture(scope="module")
def evaluated(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    _, run, cohort, _ = made
    evaluation = evaluate(run, cohort, out, resamples=50)
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    return evaluation, metrics, predictions


def test_workers_evaluate_as_one_process(made, evaluated, tmp_path):
    _, run, cohort, _ = made
    found = evaluate(
        *(run, cohort, tmp_path),
        resamples=50,
        report=False,
        distribution=Distribution(engine=SentEngine()),
    )
    alone = evaluated[0]
    same_cost = [replace(each, cost=alone.results[0].cost) for each in found.results]
    assert same_cost == [replace(each, cost=alone.results[0].cost) for each in alone.results]
    assert (found.scores, found.failed) == (alone.scores, ())
    lines = (tmp_path / "slides.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(found.results)  # the worker has added its part
    assert not list((tmp_path / ".work").glob("slides.jsonl*"))


def test_the_test_slides_of_the_run_are_evaluated(evaluated):
    _, metrics, predictions = evaluated
    assert [row["slide_id"] for row in predictions] == ["002", "003", "004", "005", "006", "007"]
    assert metrics["split"] == "test"
    assert metrics["seen_in_training"] == 0
    assert metrics["failed"] == []


def test_predictions_list_the_probabilities_and_the_cost_of_each_slide(evaluated):
    _, metrics, predictions = evaluated
    assert metrics["labels"] == ["benign", "cancer"]
    for row in predictions:
        benign, cancer = float(row["prob_benign"]), float(row["prob_cancer"])
        assert benign + cancer == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == ("benign" if benign >= cancer else "cancer")
        assert float(row["share_patches"]) > 0
        assert float(row["seconds"]) > 0


def test_the_scores_follow_from_the_predictions(evaluated):
    _, metrics, predictions = evaluated
    right = np.mean([row["predicted"] == row["label"] for row in predictions])
    accuracy = metrics["slides"]["scores"]["accuracy"]
    assert accuracy["value"] == pytest.approx(right)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert metrics["slides"]["n"] == 6
    assert metrics["slides"]["classes"]["cancer"]["n"] == 4
    assert np.sum(metrics["slides"]["confusion"]["counts"]) == 6


def test_a_patient_counts_once_with_the_mean_of_its_slides(evaluated):
    _, metrics, predictions = evaluated
    assert metrics["patients"]["n"] == 5
    mean = np.mean([float(row["prob_cancer"]) for row in predictions[-2:]])
    others = [row["predicted"] == row["label"] for row in predictions[:-2]]
    right = np.mean([*others, mean > 0.5])
    assert metrics["patients"]["scores"]["accuracy"]["value"] == pytest.approx(right)


def test_the_cost_is_summarized_over_the_slides(evaluated):
    evaluation, metrics, predictions = evaluated
    cost = metrics["cost"]
    assert [step["magnification"] for step in cost["patches"]] == [2.5, 10]
    assert [step["mean"] for step in cost["patches"]] == pytest.approx(
        np.mean([[step.patches for step in result.steps] for result in evaluation.results], axis=0)
    )
    assert cost["patches"][1]["median"] == 32  # two patches zoomed into, of 16 children each
    shares = [float(row["share_patches"]) for row in predictions]
    assert cost["share_patches"]["mean"] == pytest.approx(np.mean(shares), rel=1e-5)
    assert cost["unreachable"] == {"mean": 0, "median": 0, "max": 0}
    for result in evaluation.results:
        assert tuple(step.patches for step in result.steps) == result.cost.patches
        assert result.cost.macs > 0


def test_attention_is_compared_with_the_lesions(evaluated):
    evaluation, metrics, _ = evaluated
    low, high = metrics["localization"]
    assert (low["magnification"], low["slides"]) == (2.5, 1)
    # The lesion is 10 um wide from (96, 96), inside one patch at 64 um and one at 16 um.
    assert low["slides_with_lesion_in_reach"] == 1
    found = evaluation.results[1].steps[0].localization
    assert low["attention"]["value"] == pytest.approx(found.mass)
    assert low["attention_by_chance"] == pytest.approx(1 / found.candidates)
    assert low["hit"]["value"] in (0, 1)
    assert low["hit_by_chance"] == pytest.approx(2 / found.candidates)
    assert "hit" not in high


@pytest.fixture(scope="module")
def stored(made, tmp_path_factory):
    folder, _, _, rows = made
    slides = [(row["slide_id"], folder / f"{row['slide_id']}.png", 1.0) for row in rows]
    out = tmp_path_factory.mktemp("features")
    extract_cohort(slides, out, encoder=load_encoder("tiny"), settings=SETTINGS)
    return out


def test_stored_features_give_the_same_predictions(made, evaluated, stored, tmp_path):
    _, run, cohort, _ = made
    from_files = evaluate(run, cohort, tmp_path, features=stored, resamples=50)
    live, *_ = evaluated
    assert from_files.settings.features == "stored"
    for one, other in zip(from_files.results, live.results, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)
        assert (one.patches, one.share_patches) == (other.patches, other.share_patches)
        assert one.cost.patches == ()
    assert from_files.to_dict()["localization"] is not None


def test_a_slide_without_features_is_listed_as_failed(made, stored, tmp_path):
    _, run, cohort, _ = made
    shutil.copytree(stored, tmp_path / "features")
    (tmp_path / "features" / "004.h5").unlink()
    evaluation = evaluate(
        run, cohort, tmp_path, features=tmp_path / "features", resamples=9, report=False
    )
    (failure,) = evaluation.failed
    assert failure.slide.slide_id == "004"
    assert "004.h5: there is no such feature file" in failure.reason


def test_results_of_other_settings_are_not_replaced_without_a_word(made, stored, tmp_path, caplog):
    _, run, cohort, _ = made
    for budget in (None, None, "patches=20"):
        assert "replaced" not in caplog.text
        evaluate(
            run,
            cohort,
            tmp_path,
            features=stored,
            budget=budget,
            resamples=0,
            report=False,
        )
    assert f"{tmp_path}: the results of an earlier call with another model" in caplog.text


def test_the_table_of_predictions_is_not_replaced(made, tmp_path):
    _, run, cohort, _ = made
    header = "slide_id,path,predicted,prob_benign,prob_cancer,patches,share_patches,seconds,failed"
    (tmp_path / "predictions.csv").write_text(f"{header}\n")
    with pytest.raises(OutputError, match=r"predictions\.csv: `parfocal predict` wrote this table"):
        evaluate(run, cohort, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_the_table_of_an_evaluation_that_was_killed_is_replaced(made, evaluated, tmp_path):
    _, run, cohort, _ = made
    (tmp_path / "predictions.csv").write_text(evaluated[0].to_csv().splitlines()[0])
    evaluate(run, cohort, tmp_path, resamples=9, report=False)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 7


def test_the_second_evaluation_reads_from_the_cache(made, tmp_path):
    _, run, cohort, _ = made
    once, again = (
        evaluate(
            run, cohort, tmp_path, cache=tmp_path / "cache", resamples=0, report=False, again=again
        )
        for again in (False, True)
    )
    for one, other in zip(once.results, again.results, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert one.patches == other.patches
        assert sum(other.cost.patches) == 0


def test_same_seed_same_metrics(made, evaluated, tmp_path):
    _, run, cohort, _ = made
    _, first, _ = evaluated
    again = evaluate(run, cohort, tmp_path, resamples=50, report=False).to_dict()
    again = json.loads(json.dumps(again))
    for metrics in (first, again):
        metrics["cost"].pop("seconds", None)
    assert first == again


def test_the_summary_begins_with_the_scores(evaluated):
    evaluation, *_ = evaluated
    counts = Counter(result.slide.label for result in evaluation.results)
    classes = ", ".join(f"{label} {counts[label]}" for label in evaluation.trained.labels)
    assert evaluation.summary.startswith(f"6 slides of 5 patients ({classes}): macro AUROC ")


def test_few_patients_of_a_class_are_a_warning(evaluated):
    evaluation, metrics, _ = evaluated
    (warning,) = evaluation.warnings
    assert warning.startswith("fewer than 10 patients of a class (")
    assert metrics["warnings"] == [warning]


def test_training_slides_are_refused(made, tmp_path):
    _, run, cohort, _ = made
    message = r"2 of the 8 slides, or .* for training, .* \(000, 001\).*--allow-training-slides"
    with pytest.raises(EvaluationError, match=message):
        evaluate(run, cohort, tmp_path, split="all")
    assert list(tmp_path.iterdir()) == []


def test_training_slides_are_evaluated_if_allowed(made, tmp_path):
    _, run, cohort, _ = made
    evaluation = evaluate(
        run, cohort, tmp_path, split="all", allow_training_slides=True, resamples=9
    )
    assert len(evaluation.results) == 8
    assert evaluation.settings.seen_in_training == 2


def test_a_new_slide_of_a_training_patient_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "007.png", "label": "cancer", "patient_id": "p0"}]
    cohort = write_cohort(folder / "leak.csv", rows)
    with pytest.raises(EvaluationError, match=r"other slides of their patients, .* \(new\)"):
        evaluate(run, cohort, tmp_path)


def test_slides_that_are_not_in_the_run_are_test_slides(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": f"new-{n}", "path": f"00{n}.png", "label": "benign"} for n in (0, 1)]
    evaluation = evaluate(
        run, write_cohort(folder / "new.csv", rows), tmp_path, resamples=9, report=False
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(evaluation.results) == 2
    auroc = metrics["slides"]["scores"]["auroc_macro"]
    assert (auroc["value"], auroc["reason"]) == (None, "undefined: no slide of class cancer")
    assert "macro AUROC undefined" in evaluation.summary
    assert metrics["localization"] is None


def test_slides_that_are_not_in_the_run_are_counted_and_logged(made, tmp_path, caplog):
    folder, run, _, _ = made
    caplog.set_level("INFO")
    files = {"new": "005.png", "002": "002.png"}
    rows = [{"slide_id": s, "path": files[s], "label": "cancer"} for s in files]
    evaluation = evaluate(
        run, write_cohort(folder / "both.csv", rows), tmp_path, resamples=9, report=False
    )
    assert (evaluation.settings.external, evaluation.settings.not_in_run) == (False, 1)
    message = "1 of the 2 slides to evaluate are not in the run; without a split column they count"
    assert message in caplog.text


@pytest.fixture(scope="module")
def fingerprinted(made, tmp_path_factory):
    """Return a run with fingerprints, and another cohort with its ids and the files 004 to 007."""
    folder, run, _, _ = made
    copy = tmp_path_factory.mktemp("copy") / "run"
    prints = {name: file_fingerprint(folder / f"{name}.png") for name in ("000", "001")}
    save_run(copy, train=["000"], val=["001"], fingerprints=prints)
    shutil.copy(run / "split.csv", copy)
    label = {0: "benign", 1: "cancer"}
    rows = [
        {
            "slide_id": f"00{n}",
            "path": f"00{n + 4}.png",
            "label": label[n % 2],
            "patient_id": f"p{n}",
        }
        for n in range(4)
    ]
    return copy, write_cohort(folder / "other.csv", rows)


def test_files_that_were_moved_are_recognized(made, fingerprinted, tmp_path):
    folder, _, cohort, _ = made
    run, _ = fingerprinted
    shutil.copytree(folder, tmp_path / "moved", ignore=shutil.ignore_patterns("run"))
    evaluation = evaluate(
        run, tmp_path / "moved" / cohort.name, tmp_path / "out", resamples=9, report=False
    )
    assert [each.slide.slide_id for each in evaluation.results] == [f"00{n}" for n in range(2, 8)]


def test_a_training_id_with_another_file_is_refused(fingerprinted, tmp_path):
    run, other = fingerprinted
    message = (
        r"other\.csv row 2: slide_id '000' was used in training, but "
        r".*004\.png is another file \(2 of 2 such ids\); .* use --external; if files were"
    )
    with pytest.raises(CohortError, match=message):
        evaluate(run, other, tmp_path)


def test_in_an_external_cohort_equal_ids_and_patients_are_ignored(fingerprinted, tmp_path):
    run, other = fingerprinted
    evaluation = evaluate(run, other, tmp_path, external=True, resamples=9, report=False)
    assert [each.slide.slide_id for each in evaluation.results] == ["000", "001", "002", "003"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["external"], metrics["not_in_run"], metrics["seen_in_training"]) == (True, 4, 0)


def test_a_training_file_is_refused_under_any_name(made, fingerprinted, tmp_path):
    folder, _, _, _ = made
    run, _ = fingerprinted
    rows = [{"slide_id": "renamed", "path": "001.png", "label": "cancer", "patient_id": "new"}]
    cohort = write_cohort(folder / "renamed.csv", rows)
    for external in (False, True):
        with pytest.raises(EvaluationError, match=r"1 of the 1 slides.*\(renamed\)"):
            evaluate(run, cohort, tmp_path, external=external)


def test_with_external_training_slides_cannot_be_recognized_without_fingerprints(
    made, tmp_path, caplog
):
    _, run, cohort, _ = made
    evaluate(run, cohort, tmp_path, split="all", external=True, resamples=9, report=False)
    assert (
        "the run records no fingerprints of its slides, so it is unknown whether slides were used "
        "in training" in caplog.text
    )


def test_a_slide_that_is_listed_twice_is_refused(made, tmp_path):
    folder, run, _, _ = made
    shutil.copy(folder / "005.png", tmp_path / "copy.png")
    rows = [
        {"slide_id": name, "path": path, "label": "cancer"}
        for name, path in (("a", folder / "005.png"), ("b", tmp_path / "copy.png"))
    ]
    with pytest.raises(
        CohortError, match=r"copy\.png has the same content as the slide file of ro"
    ):
        evaluate(run, write_cohort(tmp_path / "cohort.csv", rows), tmp_path / "out")


def test_outlines_beside_the_scan_are_the_failure_of_their_slide(made, tmp_path):
    folder, run, _, _ = made
    shape = outline(folder / "far.json", 5000, 96, 10)
    rows = [
        {"slide_id": "002", "label": "benign"},
        {"slide_id": "003", "label": "cancer", "outlines": shape},
    ]
    evaluation = evaluate(
        run, write_cohort(folder / "far.csv", rows), tmp_path, resamples=9, report=False
    )
    assert [each.slide.slide_id for each in evaluation.results] == ["002"]
    (failure,) = evaluation.failed
    assert "the outlines in far.json reach from x=5000, y=96 to" in failure.reason


def test_fingerprints_are_read_from_feature_files(fingerprinted, stored, tmp_path):
    run, other = fingerprinted
    shutil.copytree(stored, tmp_path / "features")
    shutil.copy(stored / "004.h5", tmp_path / "features" / "000.h5")
    with pytest.raises(CohortError, match=r"another file \(1 of 2 such ids\)"):
        evaluate(run, other, tmp_path, features=tmp_path / "features")


def test_a_split_column_that_disagrees_with_the_run_is_logged(made, tmp_path, caplog):
    folder, run, cohort, _ = made
    lines = [line.split(",") for line in cohort.read_text().splitlines()]
    parts = ["split", *["test"] * 3, *["train"] * 5]
    table = [",".join([*line, part]) for line, part in zip(lines, parts, strict=True)]
    (folder / "parted.csv").write_text("\n".join(table) + "\n")
    evaluation = evaluate(run, folder / "parted.csv", tmp_path, resamples=9, report=False)
    assert len(evaluation.results) == 6
    message = (
        "parted.csv row 2: slide 000 has split test, but it was in train in the run, which takes "
        "precedence (7 such slides); if the table is another cohort than the one of the run, use "
        "--external."
    )
    assert message in caplog.messages


def test_a_split_column_that_disagrees_with_a_fold_is_not_logged(made, tmp_path, caplog):
    folder, run, cohort, _ = made
    header, *rows = cohort.read_text().splitlines()
    table = [f"{header},split", *(f"{row},train" for row in rows)]
    (folder / "parted.csv").write_text("\n".join(table) + "\n")
    shutil.copytree(run, tmp_path / "fold-0")
    evaluate(
        tmp_path / "fold-0", folder / "parted.csv", tmp_path / "again", resamples=9, report=False
    )
    assert not [text for text in caplog.messages if "takes precedence" in text]


def test_a_missing_feature_folder_is_refused(made, tmp_path):
    _, run, cohort, _ = made
    with pytest.raises(StoreError, match=r"nofeat: the folder of features does not exist"):
        evaluate(run, cohort, tmp_path, features=tmp_path / "nofeat")


def test_a_split_without_slides_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "benign"}]
    cohort = write_cohort(folder / "few.csv", rows)
    with pytest.raises(EvaluationError, match=r"no slide in split 'val' .found: 1 test"):
        evaluate(run, cohort, tmp_path, split="val")


def test_a_label_the_model_does_not_know_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "atypia"}]
    cohort = write_cohort(folder / "unknown.csv", rows)
    with pytest.raises(CohortError, match="row 2: unknown label 'atypia'; the classes are benign"):
        evaluate(run, cohort, tmp_path)


def test_a_failed_slide_is_listed_and_the_others_are_evaluated(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "benign"}]
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:999])
    rows += [{"slide_id": name, "label": "cancer"} for name in ("broken", "gone")]
    cohort = write_cohort(folder / "broken.csv", rows)
    evaluation = evaluate(run, cohort, tmp_path, resamples=9, report=False)
    failed = json.loads((tmp_path / "metrics.json").read_text())["failed"]
    assert [slide["slide_id"] for slide in failed] == ["broken", "gone"]
    assert all(f"{slide['slide_id']}.png" in slide["reason"] for slide in failed)
    assert evaluation.summary.endswith("; 2 failed")


def test_an_evaluation_in_which_every_slide_fails_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "gone", "label": "cancer"}]
    cohort = write_cohort(folder / "none.csv", rows)
    with pytest.raises(EvaluationError, match=r"the only slide failed.*: /.*gone\.png: No such"):
        evaluate(run, cohort, tmp_path)


def test_patients_with_two_labels_have_no_scores(made, tmp_path):
    folder, run, _, _ = made
    rows = [
        {"slide_id": "new-0", "path": "000.png", "label": "benign", "patient_id": "new"},
        {"slide_id": "new-1", "path": "001.png", "label": "cancer", "patient_id": "new"},
    ]
    evaluate(run, write_cohort(folder / "mixed.csv", rows), tmp_path, resamples=9, report=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["patients"]["scores"] is None
    assert "1 of 1 patients have slides with different labels" in metrics["patients"]["reason"]
    assert metrics["slides"]["scores"]["accuracy"]["value"] is not None


def test_a_full_disk_stops_the_evaluation(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made

    def full(self, slide):
        raise UnwritableError("cache: no space left")

    monkeypatch.setattr(LiveInputs, "open", full)
    with pytest.raises(UnwritableError, match="no space left"):
        evaluate(run, cohort, tmp_path)


def test_predictions_without_metrics_are_not_left_behind(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made
    synced = []

    def full_at_the_second(path):
        if (tmp_path / "slides.jsonl").exists():  # all slides are done
            synced.append(path)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("parfocal.files.sync", full_at_the_second)
    with pytest.raises(OSError, match="No space left on device; nothing was written"):
        evaluate(run, cohort, tmp_path, resamples=9, report=False)
    assert {path.name for path in tmp_path.iterdir()} == {".work", "slides.jsonl"}


def comparable(folder):
    """Return metrics.json without the time that reading and encoding took."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["cost"].pop("seconds")
    return metrics


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_stopped(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    evaluate(run, cohort, undisturbed, resamples=9, report=False)
    opened = []

    def open_two(self, slide):
        opened.append(slide.slide_id)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return OPEN(self, slide)

    monkeypatch.setattr(LiveInputs, "open", open_two)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, cohort, resumed, resamples=9, report=False)
    evaluate(run, cohort, resumed, resamples=9, report=False)
    assert len(set(opened)) == len(opened) - 1  # only the interrupted slide was opened twice
    assert comparable(resumed) == comparable(undisturbed)
    evaluate(run, cohort, resumed, resamples=9, report=False)
    assert len(set(opened)) == len(opened) - 1
    evaluate(run, cohort, resumed, resamples=9, report=False, again=True)
    assert len(opened) == 2 * len(set(opened)) + 1
    evaluate(run, cohort, resumed, resamples=9, report=False, overrides={"k": 1})  # another model
    assert len(opened) == 3 * len(set(opened)) + 1


def test_any_error_is_the_failure_of_its_slide(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made
    errors = iter([MemoryError(), ZeroDivisionError("a damaged field")])

    def fail_twice(self, slide):
        error = next(errors, None)
        if error is not None:
            raise error
        return OPEN(self, slide)

    monkeypatch.setattr(LiveInputs, "open", fail_twice)
    evaluation = evaluate(run, cohort, tmp_path, resamples=9, report=False)
    reasons = [failure.reason for failure in evaluation.failed]
    assert "not enough memory" in reasons[0]
    assert reasons[1] == "unexpected ZeroDivisionError: a damaged field"
    assert evaluation.results


def test_ids_that_lost_their_leading_zeros_are_refused(made, tmp_path):
    folder, run, _, _ = made
    cohort = write_cohort(folder / "spreadsheet.csv", [{"slide_id": "2", "label": "benign"}])
    with pytest.raises(
        EvaluationError, match=r"row 2: slide_id '2' was '002' in training; restore"
    ):
        evaluate(run, cohort, tmp_path)


def test_the_failure_of_a_coarse_slide_names_the_magnifications_of_the_model(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "coarse", "path": "000.png", "label": "benign", "mpp": 4}]
    rows += [{"slide_id": "new", "path": "002.png", "label": "benign"}]
    evaluation = evaluate(
        run, write_cohort(folder / "coarse.csv", rows), tmp_path, resamples=9, report=False
    )
    (failure,) = evaluation.failed
    assert "is sharper than the scan" in failure.reason
    assert "the model was trained at 2.5x, 10x and takes no other" in failure.reason
