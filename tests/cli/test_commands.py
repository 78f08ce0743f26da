"""Every subcommand, run on small slides."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from command_result import CommandResult, assert_refused
from parfocal import train as training
from parfocal.cli.program import app
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import recipe_names
from parfocal.slide.synthetic import cohort as painting_module
from parfocal.slide.synthetic.painting import TILE_PAINTING, Painting
from parfocal.train import RunSummary
from small import SLIDES, TINY, write_table


def test_help_lists_every_command(parfocal: Callable[..., CommandResult]):
    text = parfocal("--help").out
    for command in ("demo", "inspect", "synth", "extract", "train", "evaluate", "predict"):
        assert command in text
        assert "Example: parfocal" in parfocal(command, "--help").out


def test_every_recipe_is_listed_with_its_description(parfocal: Callable[..., CommandResult]):
    lines = parfocal("recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert "zoommil-eff        ZoomMIL-Eff, the variant of the paper with" in lines[-3]


def test_the_version_is_printed(parfocal: Callable[..., CommandResult]):
    assert parfocal("--version") == CommandResult(0, "parfocal 0.1.0\n", "")


def test_inspect_prints_size_and_resolution(parfocal: Callable[..., CommandResult], slide: Path):
    found = parfocal("inspect", slide)
    assert found.code == 0
    assert "1024 x 1024 px" in found.out
    assert "1 µm/px" in found.out


def test_inspect_prints_json_and_continues_after_a_failure(
    parfocal: Callable[..., CommandResult], slide: Path, tmp_path: Path
):
    found = parfocal("inspect", tmp_path / "none.svs", slide, "--json")
    assert found.code == 1
    assert [report["id"] for report in json.loads(found.out)] == ["one"]
    assert "1 of 2 slides failed" in found.err
    assert "none.svs" in found.err


def test_synth_paints_slides_and_writes_their_cohort(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    found = parfocal("synth", tmp_path / "new", "--slides", 4, "--seed", 1, "--size", 2048)
    assert found.code == 0
    with (tmp_path / "new" / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"normal", "tumor"}
    assert all((tmp_path / "new" / row["path"]).exists() for row in rows)


@pytest.mark.parametrize(
    ("options", "painting"),
    [
        ((), Painting()),
        (("--lesions", 6, "--lesion-um", 300), Painting(regions=6, lesions=6, lesion_um=300)),
        (
            ("--tiles", "t", "--normal-class", "N", "--lesion-class", "L"),
            replace(TILE_PAINTING, normal_class="N", lesion_class="L"),
        ),
        (
            ("--tiles", "t", "--lesions", 2, "--lesion-um", 300),
            Painting(regions=2, lesions=2, lesion_um=300),
        ),
    ],
)
def test_synth_passes_its_options_to_the_painting(
    parfocal: Callable[..., CommandResult],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str | int, ...],
    painting: Painting,
):
    passed: dict[str, object] = {}

    def paint(out: Path, **options: object) -> Path:
        passed.update(options)
        return out / "cohort.csv"

    monkeypatch.setattr(painting_module, "paint_cohort", paint)
    command = ("synth", "new", "--slides", 4, "--seed", 1, "--mpp", 0.5, *options)
    assert parfocal(*command).code == 0
    assert passed["painting"] == painting
    assert passed["mpp"] == 0.5


def test_synth_refuses_tile_classes_without_tiles(parfocal: Callable[..., CommandResult]):
    command = ("synth", "new", "--slides", 4, "--seed", 1, "--lesion-class", "AC")
    assert_refused(parfocal(*command), "--lesion-class is a folder of tiles", "--tiles", code=2)


def test_extract_stores_features_once(
    parfocal: Callable[..., CommandResult], cohort: Path, extracted: Path
):
    assert len(list(extracted.glob("*.h5"))) == SLIDES
    command = ("extract", cohort, "--out", extracted, *TINY, "--patch-size", 64)
    assert parfocal(*command).out == f"0 slides extracted, {SLIDES} already in {extracted}\n"


def test_extract_needs_no_labels(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    row = ("001", str(cohort.parent / "001.tif"))
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), row)
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY, "--patch-size", 64)
    assert found.out == f"1 slide extracted, 0 already in {tmp_path / 'features'}\n"


@pytest.mark.slow
def test_features_with_other_tissue_settings_can_be_extracted_and_trained_on(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    out = tmp_path / "features"
    options = (
        "--patch-size",
        64,
        "--tissue-method",
        "gray",
        "--min-tissue",
        0.5,
        "--roots",
        "share",
    )
    assert parfocal("extract", cohort, "--out", out, *TINY, *options).code == 0
    command = ("train", cohort, "--out", tmp_path / "run", "--features", out, *TINY, "--epochs", 1)
    command += (
        "--set",
        "slide.patch_size=64",
        "--set",
        "model.k=2",
        "--set",
        "slide.tissue_method=gray",
    )
    assert_refused(parfocal(*command), "min_tissue 0.5, and now it is 0.1")
    command += ("--set", "slide.min_tissue=0.5")
    assert_refused(parfocal(*command), "slide.roots share, and now it is descendants")
    assert parfocal(*command, "--set", "slide.roots=share").code == 0
    assert Checkpoint.load(tmp_path / "run").slide.roots == "share"


def test_weights_of_the_encoder_may_be_a_file(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    out, file = tmp_path / "features", tmp_path / "none.pth"
    found = parfocal("extract", cohort, "--out", out, *TINY[2:], "--weights", file)
    assert_refused(found, "none.pth: no such weights file")


def test_failures_with_the_same_reason_are_listed_together(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    rows = [("a", "a.svs"), ("b", "b.svs"), ("c", "other.svs")]
    for _, name in rows:
        (tmp_path / name).write_bytes(b"")
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), *rows)
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY)
    assert found.err.count("the file is empty") == 2
    why = "the file is empty (0 bytes). Copy it again from its source."
    assert [line.removeprefix("parfocal: ") for line in found.err.splitlines()[-3:]] == [
        "3 of 3 slides failed:",
        f"{tmp_path / 'a.svs'}, {tmp_path / 'b.svs'}: {why}",
        f"c: {tmp_path / 'other.svs'}: {why}",
    ]


def test_a_failed_slide_is_listed_by_its_name_in_the_cohort(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    (tmp_path / "scan.svs").write_bytes(b"no slide")
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), ("P-17", "scan.svs"))
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY)
    assert found.err.splitlines()[-1].startswith("parfocal: P-17: scan.svs: not a slide")


def test_training_names_the_folder_of_each_fold(
    parfocal: Callable[..., CommandResult],
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    one = RunSummary(tmp_path / "fold-0", 3, 5, 0.4, 0.75, None, 0, 1.0)
    folds = (one, replace(one, out=tmp_path / "fold-1"))
    whole = replace(one, out=tmp_path, best_epoch=None, folds=folds)
    monkeypatch.setattr(training, "train", lambda *_, **__: whole)
    assert parfocal("train", cohort, "--out", tmp_path).out == (
        f"{tmp_path}: mean of 2 folds, weighted F1 0.750 on the validation slides.\n"
    )
    monkeypatch.setattr(training, "train", lambda *_, **__: one)
    assert "x: best epoch 3, weighted F1" in parfocal("train", cohort, "--out", "x").out


@pytest.mark.slow
def test_each_fold_is_a_run_that_evaluates_and_predicts(
    parfocal: Callable[..., CommandResult],
    cohort: Path,
    extracted: Path,
    slide: Path,
    tmp_path: Path,
):
    with cohort.open(newline="") as file:
        rows = [(row["slide_id"], row["path"], row["label"]) for row in csv.DictReader(file)]
    table = cohort.with_name("unsplit.csv")
    write_table(table, ("slide_id", "path", "label"), *rows)
    run, stored = tmp_path / "run", ("--features", extracted)
    command = ("train", table, "--out", run, *stored, *TINY, "--set", "slide.patch_size=64")
    trained = parfocal(*command, "--set", "model.k=2", "--epochs", 1, "--folds", 3)
    assert f"{run}: mean of 3 folds, weighted F1" in trained.out
    tested = []
    for fold in ("fold-0", "fold-1", "fold-2"):
        out = tmp_path / "evaluation" / fold
        assert parfocal("evaluate", run / fold, table, "--out", out, *stored).code == 0
        with (out / "predictions.csv").open(newline="") as file:
            tested += [row["slide_id"] for row in csv.DictReader(file)]
    assert sorted(tested) == [slide_id for slide_id, _, _ in rows]
    page = tmp_path / "report.html"
    assert parfocal("report", run, tmp_path / "evaluation", "--out", page).code == 0
    for fold in ("fold-0", "fold-1", "fold-2"):
        assert f"Training: {fold}" in page.read_text()
        assert f"Evaluation: {fold}" in page.read_text()
    assert parfocal("predict", run / "fold-2", slide, "--out", tmp_path / "out").code == 0
    together = parfocal("predict", run, slide, "--out", tmp_path / "together")
    assert (together.code, "over 3 models" in together.out) == (0, True)
    audited = parfocal("audit", run, table, "--out", tmp_path / "audit", *stored)
    assert_refused(audited, "a run with 3 folds; give one of them")


def test_a_run_folder_has_everything_prediction_needs(run: Path):
    trained = Checkpoint.load(run)
    assert trained.magnifications == (2.5, 10.0)
    assert trained.patch_size == 64
    assert trained.labels == ("normal", "tumor")


def test_evaluate_writes_the_metrics_of_the_test_slides(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path, tmp_path: Path
):
    found = parfocal("evaluate", run, cohort, "--out", tmp_path)
    assert found.code == 0
    assert "AUROC" in found.out
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert {row["slide_id"] for row in csv.DictReader(file)} == {"006", "007"}
    assert json.loads((tmp_path / "metrics.json").read_text())["split"] == "test"


def test_predict_prints_one_line_per_slide_with_its_bill(
    parfocal: Callable[..., CommandResult], run: Path, slide: Path, tmp_path: Path
):
    found = parfocal("predict", run, slide, "--out", tmp_path / "out")
    assert found.code == 0
    assert found.out.count("\n") == 1
    out = tmp_path / "out"
    assert found.err.endswith(f"to {out}\nNext: parfocal view {out}\n")
    assert "visited 40 of 128 patches (31.2%)" in found.out
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        *("one.json", "one.png", "predictions.csv")
    }


def test_predict_continues_and_lists_failures_at_the_end(
    parfocal: Callable[..., CommandResult], run: Path, slide: Path, tmp_path: Path
):
    found = parfocal("predict", run, tmp_path / "none.svs", slide, "--out", tmp_path / "out")
    assert found.code == 1
    assert found.out.startswith("one: ")
    assert found.err.splitlines()[-3] == "parfocal: 1 of 2 slides failed:"
    assert "none.svs: no such file" in found.err.splitlines()[-2]


# What is wrong with a slide, and what its line has to say.


@pytest.mark.parametrize("columns", ["80", "120"])
def test_no_help_text_is_cut(
    parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch, columns: str
):
    monkeypatch.setenv("COLUMNS", columns)
    for command in typer.main.get_command(app).commands:
        assert "…" not in parfocal(command, "--help").out


def test_an_option_is_found_by_its_old_name(parfocal: Callable[..., CommandResult], tmp_path: Path):
    for option in (("--timed", 0), ("--timed=0",)):
        result = parfocal("compare", "none.csv", "--models", "mean", "--out", tmp_path, *option)
        assert_refused(result, "none.csv")
