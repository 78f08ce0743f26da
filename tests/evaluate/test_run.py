import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.inputs import LiveBags
from parfocal.encoders.encoder import load_encoder
from parfocal.evaluate.run import EvaluationError, evaluate
from parfocal.features.errors import UnwritableError
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.slide.slide import fingerprint_of

SETTINGS = SlideSettings(magnifications=(2.5, 10.0), patch_size=16)


def paint(path, seed, shade):
    """A square of tissue in the middle of 256 um of glass, at 1 um per pixel."""
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
    """A run of an untrained model, and a cohort of two patients it saw and four it did not."""
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
        encoder=encoder,
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


def test_the_test_slides_of_the_run_are_evaluated(evaluated):
    _, metrics, predictions = evaluated
    assert [row["slide_id"] for row in predictions] == ["002", "003", "004", "005", "006", "007"]
    assert metrics["split"] == "test"
    assert metrics["seen_in_training"] == 0
    assert metrics["failed"] == []


def test_predictions_hold_each_slides_probabilities_and_cost(evaluated):
    _, metrics, predictions = evaluated
    assert metrics["labels"] == ["benign", "cancer"]
    for row in predictions:
        benign, cancer = float(row["prob_benign"]), float(row["prob_cancer"])
        assert benign + cancer == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == ("benign" if benign >= cancer else "cancer")
        assert float(row["share_patches"]) > 0
        assert float(row["seconds"]) > 0


def test_the_scores_are_those_of_the_predictions(evaluated):
    _, metrics, predictions = evaluated
    right = np.mean([row["predicted"] == row["label"] for row in predictions])
    accuracy = metrics["slides"]["scores"]["accuracy"]
    assert accuracy["value"] == pytest.approx(right)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert metrics["slides"]["n"] == 6
    assert metrics["slides"]["classes"]["cancer"]["n"] == 4
    assert np.sum(metrics["slides"]["confusion"]["counts"]) == 6


def test_a_patients_slides_count_once(evaluated):
    _, metrics, predictions = evaluated
    assert metrics["patients"]["n"] == 5
    mean = np.mean([float(row["prob_cancer"]) for row in predictions[-2:]])
    others = [row["predicted"] == row["label"] for row in predictions[:-2]]
    right = np.mean([*others, mean > 0.5])
    assert metrics["patients"]["scores"]["accuracy"]["value"] == pytest.approx(right)


def test_what_an_answer_took_is_summed_up(evaluated):
    evaluation, metrics, predictions = evaluated
    cost = metrics["cost"]
    assert [step["magnification"] for step in cost["patches"]] == [2.5, 10]
    assert [step["mean"] for step in cost["patches"]] == pytest.approx(
        np.mean([[step.patches for step in result.steps] for result in evaluation.results], axis=0)
    )
    assert cost["patches"][1]["median"] == 32  # two patches zoomed into, of 16 children each
    shares = [float(row["share_patches"]) for row in predictions]
    assert cost["share_patches"]["mean"] == pytest.approx(np.mean(shares), rel=1e-5)
    for result in evaluation.results:
        assert tuple(step.patches for step in result.steps) == result.cost.patches
        assert result.cost.macs > 0


def test_attention_is_held_against_the_lesions(evaluated):
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


def test_stored_features_give_the_same_answers(made, evaluated, stored, tmp_path):
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
    evaluation = evaluate(run, cohort, tmp_path, features=tmp_path / "features", resamples=9)
    (failure,) = evaluation.failed
    assert failure.slide.slide_id == "004"
    assert "004.h5" in failure.reason


def test_a_cache_serves_the_second_visit(made, tmp_path):
    _, run, cohort, _ = made
    once, again = (
        evaluate(run, cohort, tmp_path, cache=tmp_path / "cache", resamples=0) for _ in range(2)
    )
    for one, other in zip(once.results, again.results, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert one.patches == other.patches
        assert sum(other.cost.patches) == 0


def test_same_seed_same_metrics(made, evaluated, tmp_path):
    _, run, cohort, _ = made
    _, first, _ = evaluated
    again = evaluate(run, cohort, tmp_path, resamples=50).to_dict()
    again = json.loads(json.dumps(again))
    for metrics in (first, again):
        metrics["cost"].pop("seconds", None)
    assert first == again


def test_the_summary_says_the_first_things(evaluated):
    evaluation, *_ = evaluated
    assert evaluation.summary.startswith("6 slides of 5 patients: macro AUROC ")


def test_slides_the_model_has_seen_are_refused(made, tmp_path):
    _, run, cohort, _ = made
    message = r"trained on or chosen by 2 of the 8 slides, .* \(000, 001\).*--allow-training-slides"
    with pytest.raises(EvaluationError, match=message):
        evaluate(run, cohort, tmp_path, split="all")
    assert list(tmp_path.iterdir()) == []


def test_slides_the_model_has_seen_are_scored_when_told(made, tmp_path):
    _, run, cohort, _ = made
    told = evaluate(run, cohort, tmp_path, split="all", allow_training_slides=True, resamples=9)
    assert len(told.results) == 8
    assert told.settings.seen_in_training == 2


def test_an_unseen_slide_of_a_training_patient_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "007.png", "label": "cancer", "patient_id": "p0"}]
    cohort = write_cohort(folder / "leak.csv", rows)
    with pytest.raises(EvaluationError, match=r"others of their patients \(new\)"):
        evaluate(run, cohort, tmp_path)


def test_slides_the_run_never_met_are_test_slides(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": f"new-{n}", "path": f"00{n}.png", "label": "benign"} for n in (0, 1)]
    evaluation = evaluate(run, write_cohort(folder / "new.csv", rows), tmp_path, resamples=9)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(evaluation.results) == 2
    auroc = metrics["slides"]["scores"]["auroc_macro"]
    assert (auroc["value"], auroc["reason"]) == (None, "not defined: none here is cancer")
    assert "AUROC not defined" in evaluation.summary
    assert metrics["localization"] is None


def test_new_slides_are_counted_and_it_is_said_where_they_stand(made, tmp_path, caplog):
    folder, run, _, _ = made
    caplog.set_level("INFO")
    rows = [{"slide_id": name, "path": "005.png", "label": "cancer"} for name in ("new", "002")]
    evaluation = evaluate(run, write_cohort(folder / "both.csv", rows), tmp_path, resamples=9)
    assert (evaluation.settings.external, evaluation.settings.not_in_run) == (False, 1)
    told = "1 of the 2 slides to evaluate are not in the run, and count as test, as the table has"
    assert told in caplog.text


@pytest.fixture(scope="module")
def fingerprinted(made, tmp_path_factory):
    """The run with what it knows of files, and another cohort: its ids, the files of 004 to 007."""
    folder, run, _, _ = made
    known = tmp_path_factory.mktemp("known") / "run"
    prints = {name: fingerprint_of(folder / f"{name}.png") for name in ("000", "001")}
    save_run(known, train=["000"], val=["001"], fingerprints=prints)
    shutil.copy(run / "split.csv", known)
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
    return known, write_cohort(folder / "other.csv", rows)


def test_the_same_files_elsewhere_are_known_again(made, fingerprinted, tmp_path):
    folder, _, cohort, _ = made
    run, _ = fingerprinted
    shutil.copytree(folder, tmp_path / "moved", ignore=shutil.ignore_patterns("run"))
    evaluation = evaluate(run, tmp_path / "moved" / cohort.name, tmp_path / "out", resamples=9)
    assert [each.slide.slide_id for each in evaluation.results] == [f"00{n}" for n in range(2, 8)]


def test_equal_ids_of_other_files_are_refused(fingerprinted, tmp_path):
    run, other = fingerprinted
    message = (
        r"other\.csv row 2: slide_id '000' is of a slide the run has seen in training, but "
        r".*004\.png is another file \(2 of 2 such ids\); .* say --external; if files were"
    )
    with pytest.raises(CohortError, match=message):
        evaluate(run, other, tmp_path)


def test_of_another_cohort_equal_ids_and_patients_say_nothing(fingerprinted, tmp_path):
    run, other = fingerprinted
    evaluation = evaluate(run, other, tmp_path, external=True, resamples=9)
    assert [each.slide.slide_id for each in evaluation.results] == ["000", "001", "002", "003"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["external"], metrics["not_in_run"], metrics["seen_in_training"]) == (True, 4, 0)


def test_a_file_the_model_has_seen_is_refused_under_any_name(made, fingerprinted, tmp_path):
    folder, _, _, _ = made
    run, _ = fingerprinted
    rows = [{"slide_id": "renamed", "path": "001.png", "label": "cancer", "patient_id": "new"}]
    cohort = write_cohort(folder / "renamed.csv", rows)
    for external in (False, True):
        with pytest.raises(EvaluationError, match=r"chosen by 1 of the 1 slides.*\(renamed\)"):
            evaluate(run, cohort, tmp_path, external=external)


def test_features_tell_other_files_apart_too(fingerprinted, stored, tmp_path):
    run, other = fingerprinted
    shutil.copytree(stored, tmp_path / "features")
    shutil.copy(stored / "004.h5", tmp_path / "features" / "000.h5")
    with pytest.raises(CohortError, match=r"another file \(1 of 2 such ids\)"):
        evaluate(run, other, tmp_path, features=tmp_path / "features")


def test_a_table_that_parts_slides_otherwise_than_the_run_is_told(made, tmp_path, caplog):
    folder, run, cohort, _ = made
    lines = [line.split(",") for line in cohort.read_text().splitlines()]
    parts = ["split", *["test"] * 3, *["train"] * 5]
    table = [",".join([*line, part]) for line, part in zip(lines, parts, strict=True)]
    (folder / "parted.csv").write_text("\n".join(table) + "\n")
    evaluation = evaluate(run, folder / "parted.csv", tmp_path, resamples=9)
    assert len(evaluation.results) == 6
    told = (
        "parted.csv row 2: slide 000 is in split test there, and was in train in the run, which "
        "counts (so with 7 slides); if the table is of another cohort than the run's, say "
        "--external."
    )
    assert told in caplog.messages


def test_features_that_are_not_there_are_told_once(made, tmp_path):
    _, run, cohort, _ = made
    with pytest.raises(CohortError, match=r"nofeat: no such folder; run `parfocal extract` first"):
        evaluate(run, cohort, tmp_path, features=tmp_path / "nofeat")


def test_a_split_without_slides_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "benign"}]
    cohort = write_cohort(folder / "few.csv", rows)
    with pytest.raises(EvaluationError, match=r"no slide of split 'val' .there are 1 of test"):
        evaluate(run, cohort, tmp_path, split="val")


def test_a_label_the_model_does_not_know_is_refused(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "atypia"}]
    cohort = write_cohort(folder / "unknown.csv", rows)
    with pytest.raises(CohortError, match="row 2: unknown label 'atypia'; the classes are benign"):
        evaluate(run, cohort, tmp_path)


def test_a_failed_slide_is_listed_and_the_others_go_on(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "new", "path": "000.png", "label": "benign"}]
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:999])
    rows += [{"slide_id": name, "label": "cancer"} for name in ("broken", "missing")]
    cohort = write_cohort(folder / "broken.csv", rows)
    evaluation = evaluate(run, cohort, tmp_path, resamples=9)
    failed = json.loads((tmp_path / "metrics.json").read_text())["failed"]
    assert [slide["slide_id"] for slide in failed] == ["broken", "missing"]
    assert all(f"{slide['slide_id']}.png" in slide["reason"] for slide in failed)
    assert evaluation.summary.endswith("; 2 failed")


def test_where_every_slide_fails_there_is_nothing_to_score(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "missing", "label": "cancer"}]
    cohort = write_cohort(folder / "none.csv", rows)
    with pytest.raises(EvaluationError, match=r"all 1 slides failed.*: /.*missing\.png: there is"):
        evaluate(run, cohort, tmp_path)


def test_patients_of_two_labels_have_no_scores(made, tmp_path):
    folder, run, _, _ = made
    rows = [
        {"slide_id": "new-0", "path": "000.png", "label": "benign", "patient_id": "new"},
        {"slide_id": "new-1", "path": "001.png", "label": "cancer", "patient_id": "new"},
    ]
    evaluate(run, write_cohort(folder / "mixed.csv", rows), tmp_path, resamples=9)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["patients"]["scores"] is None
    assert "1 of 1 patients have slides of different labels" in metrics["patients"]["reason"]
    assert metrics["slides"]["scores"]["accuracy"]["value"] is not None


def test_a_disk_that_fills_up_stops_it_all(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made

    def full(self, slide):
        raise UnwritableError("cache: no space left")

    monkeypatch.setattr(LiveBags, "open", full)
    with pytest.raises(UnwritableError, match="no space left"):
        evaluate(run, cohort, tmp_path)


def test_predictions_without_metrics_are_not_left_behind(made, tmp_path, monkeypatch):
    _, run, cohort, _ = made
    synced = []

    def full_at_the_second(handle):
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_at_the_second)
    with pytest.raises(OSError, match="No space left on device; nothing was written"):
        evaluate(run, cohort, tmp_path, resamples=9)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_lost_their_zeros_are_refused(made, tmp_path):
    folder, run, _, _ = made
    cohort = write_cohort(folder / "spreadsheet.csv", [{"slide_id": "2", "label": "benign"}])
    with pytest.raises(EvaluationError, match=r"row 2: slide_id '2' was '002' in training; give"):
        evaluate(run, cohort, tmp_path)


def test_a_slide_the_magnifications_do_not_fit_is_told_those_of_the_model(made, tmp_path):
    folder, run, _, _ = made
    rows = [{"slide_id": "coarse", "path": "000.png", "label": "benign", "mpp": 4}]
    rows += [{"slide_id": "new", "path": "000.png", "label": "benign"}]
    evaluation = evaluate(run, write_cohort(folder / "coarse.csv", rows), tmp_path, resamples=9)
    (failure,) = evaluation.failed
    assert "is sharper than the scan" in failure.reason
    assert "the model looks at 2.5x, 10x and at no other" in failure.reason
