import base64
import html
import io
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from explain.demo_folder import DARK, with_folds, write_json
from parfocal.explain.report import ReportError, write_report
from parfocal.explain.report.stops import LINES


def score(value: float) -> dict:
    return {"value": value, "low": 0.1, "high": 0.9, "undefined_resamples": 0, "reason": None}


def metrics(**changes: object) -> dict:
    names = ("auroc_macro", "auroc_micro", "average_precision_macro", "average_precision_micro")
    names += ("accuracy", "balanced_accuracy", "weighted_f1", "quadratic_kappa")
    classes = {
        label: {"n": 2, **dict.fromkeys(("recall", "auroc", "average_precision"), score(0.5))}
        for label in ("normal", "tumor")
    }
    slides = {
        "n": 4,
        "scores": {name: score(0.75) for name in names},
        "classes": classes,
        "confusion": {"counts": [[2, 0], [1, 1]]},
    }
    spread = {"mean": 0.25, "median": 0.25}
    return {
        "format_version": 2,
        "model": {"name": "zoommil"},
        "split": "test",
        "features": "live",
        "seen_in_training": 0,
        "labels": ["normal", "tumor"],
        "interval": "95% percentile bootstrap over patients",
        "slides": slides,
        "patients": {"scores": None, "reason": "labels differ"},
        "localization": None,
        "cost": {
            "patches": [{"magnification": 2.5, "mean": 20.0, "median": 20.0}],
            "share_patches": spread,
            "macs": {"mean": 1.25e9, "median": 1e9},
            "seconds": spread,
        },
        "failed": [{"slide_id": "x", "reason": "x.svs: damaged"}],
        **changes,
    }


@pytest.fixture
def work(tmp_path):
    """A run, its evaluation, and the evaluation of another model."""
    settings = {
        "slide": {"magnifications": [2.5, 10.0]},
        "model": {"name": "zoommil"},
        "train": {"seed": 3},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "run" / "split.csv").write_text(
        "slide_id,patient_id,label,split\nx,x,normal,train\ny,y,normal,train\nz,z,tumor,test\n"
    )
    (tmp_path / "run" / "metrics.csv").write_text(
        "epoch,train_loss,val_loss,val_weighted_f1,val_auroc\n1,1,0.9,0.5,\n2,0.5,0.7,0.8,0.9\n"
    )
    rows = "slide_id,label,prob_normal,prob_tumor\na,normal,0.9,0.1\nb,tumor,0.2,0.8\n"
    for name, share in (("evaluation", 0.25), ("evaluation-mean", 1.0)):
        content = metrics()
        content["cost"]["share_patches"] = {"mean": share, "median": share}
        write_json(tmp_path / name / "metrics.json", content)
        (tmp_path / name / "predictions.csv").write_text(rows)
    return tmp_path


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def report(tmp_path, *paths, **more) -> str:
    write_report(paths, tmp_path / "report.html", **more)
    return (tmp_path / "report.html").read_text()


def test_training_is_reported(work):
    text = text_of(report(work, work / "run"))
    assert "zoommil at 2.5x, 10x, seed 3." in text
    assert "label train val test normal 2 0 0 tumor 0 0 1" in text
    assert "weighted F1" in text


def test_the_heading_names_the_models_the_day_and_what_is_reported_on(work):
    page = report(work, work / "run", work / "evaluation")
    assert "<title>zoommil · parfocal report</title>" in page
    today = datetime.now(tz=UTC).date()
    assert f"zoommil Report on run, evaluation, written {today} by parfocal" in text_of(page)


def test_the_number_of_encoded_patches_is_reported_if_there_are_any(work):
    summary = {"epochs": 2, "seconds": 3.0, "best_epoch": 2, "failed": {}}
    for patches, text in (
        (0, "2 epochs in 3 s; best epoch: 2."),
        (7, "in 3 s, 7 patches encoded;"),
    ):
        write_json(work / "run" / "summary.json", summary | {"patches_encoded": patches})
        assert text in text_of(report(work, work / "run"))


def test_the_epochs_are_those_of_metrics_csv(work):
    svg = report(work, work / "run").partition("<svg")[2].partition("</svg>")[0]
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    assert texts[: texts.index("epoch")] == ["0", "1", "2"]
    assert {"loss", "training", "validation"} <= set(texts)


def test_scores_come_with_intervals_and_cost(work):
    text = text_of(report(work, work / "evaluation"))
    assert "micro AUROC 0.750 (0.100 to 0.900) –" in text
    assert "Confusion predicted true normal tumor normal 2 0 tumor 1 1" in text
    assert "Cost per slide mean median visited patches at" in text
    assert "multiply-accumulates 1.25 G 1 G" in text
    assert "Calibration (expected calibration error 0.150)" in text
    assert "x: x.svs: damaged" in text
    assert "Accuracy against cost" not in text


@pytest.mark.parametrize(("key", "name"), [("look", "step 1"), ("magnification", "1x")])
def test_steps_without_a_magnification_are_named_by_their_number(work, key, name):
    measures = {"attention": score(0.5), "attention_by_chance": 0.25}
    content = metrics(localization=[{key: 1.0, **measures}, {key: "all", **measures}])
    content["cost"]["patches"] = [{key: 1.0, "mean": 7.0, "median": 7.0}]
    write_json(work / "evaluation" / "metrics.json", content)
    text = text_of(report(work, work / "evaluation"))
    assert f"patches at {name} 7 7" in text
    assert f"{name} 0.500 (0.100 to 0.900) 0.250 – – all 0.500" in text


def test_what_is_unusual_is_explained_once_below_the_tables(work):
    content = metrics()
    perfect = {"value": 1.0, "low": None, "high": None, "reason": "no interval: it is the same"}
    content["slides"]["scores"]["auroc_macro"] = perfect
    content["slides"]["classes"]["tumor"]["recall"] = perfect
    content["auroc_delong"] = {"tumor": perfect}
    content["cost"]["share_patches"] = {"mean": 1.073, "median": 0.9}
    write_json(work / "evaluation" / "metrics.json", content)
    text = text_of(report(work, work / "evaluation"))
    assert "macro AUROC 1.000 (no interval)" in text
    names = "macro AUROC, recall of tumor, AUROC by DeLong of tumor"
    assert f"No interval (it is the same): {names}." in text
    assert "(above 100% if there is nothing to skip, because lower magnifications are" in text


def test_the_tissue_out_of_reach_is_reported(work):
    content = metrics()
    content["cost"]["unreachable"] = {"mean": 0.012, "median": 0.0, "max": 0.3}
    write_json(work / "evaluation" / "metrics.json", content)
    text = text_of(report(work, work / "evaluation"))
    assert "tissue out of reach (at most 30.0%) 1.2% 0.0%" in text


def test_two_evaluations_are_drawn_against_their_cost(work):
    page = report(work, work)
    assert "Accuracy against cost" in page
    assert ">zoommil (evaluation)</text>" in page
    assert ">zoommil (evaluation-mean)</text>" in page


def test_slides_used_in_training_are_reported(work):
    write_json(work / "evaluation" / "metrics.json", metrics(seen_in_training=4))
    assert "4 of them were used in training" in text_of(report(work, work / "evaluation"))


def test_errors_come_first_and_show_the_visited_patches(folder, tmp_path):
    page = report(tmp_path, folder)
    text = text_of(page)
    # b is wrong with probability 0.9; a and c are correct.
    assert (
        "true normal, predicted tumor (0.90) zoommil, predictions visited 6 of 60 patches (10.0%)"
        in text
    )
    assert page.count('stroke="#d55e00"') == 1
    assert '<rect x="600" y="300" width="200" height="200" stroke="#0072b2"' in page
    slides = text[text.index("Slides slide model") :]
    assert slides.index("b zoommil, predictions") < slides.index("a zoommil, predictions")


def test_the_gallery_shows_the_top_patch(folder, tmp_path):
    page = report(tmp_path, folder / "predictions" / "a.json")
    (picture,) = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int)
    assert np.abs(pixels - DARK).max() < 12


def test_the_page_is_self_contained(folder, work):
    page = report(work, work, folder)
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "url(" not in page
    assert "<script" not in page


def test_text_from_files_is_escaped(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["id"] = "<script>alert(1)</script>"
    write_json(tmp_path / "predictions" / "a.json", content)
    page = report(tmp_path, tmp_path / "predictions")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_moved_slide_has_no_picture_but_a_warning(folder, tmp_path, caplog):
    content = (folder / "predictions" / "a.json").read_text().replace(str(folder), "/gone")
    write_json(tmp_path / "predictions" / "a.json", json.loads(content))
    page = report(tmp_path, tmp_path / "predictions")
    assert "<img" not in page
    assert "a: the slide is no longer at /gone" in caplog.text


def test_a_report_of_five_hundred_slides_is_below_five_megabytes(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    for number in range(500):
        content["slide"]["id"] = f"slide-{number:04}"
        write_json(tmp_path / "predictions" / f"{number}.json", content)
    page = report(tmp_path, tmp_path / "predictions")
    assert page.count("<tr") > 500
    assert len(page) < 5e6


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no run, evaluation or prediction here"):
        write_report([tmp_path], tmp_path / "report.html")


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(ReportError, match="nowhere: no such file or folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation/metrics.json", "{}"),
        ("evaluation/metrics.json", "[" * 100_000),
        ("evaluation/metrics.json", '{"format_version": 2, "labels": ["normal", "tumor"]}'),
        ("evaluation/metrics.json", '{"format_version": 2, "labels": 3}'),
        ("evaluation/predictions.csv", "slide_id\n1\n"),
        ("run/settings.yaml", "- 1"),
        ("run/settings.yaml", "model: {}"),
        ("run/summary.json", "[1]"),
        ("run/metrics.csv", "epoch,train_loss\none,two\n"),
        ("cohort.csv", "slide_id\n"),
    ],
)
def test_a_damaged_file_is_listed_and_the_rest_is_reported(work, name, content):
    (work / name).write_text(content)
    problems = write_report([work], work / "report.html")
    assert len(problems) == 1
    text = (work / "report.html").read_text()
    assert Path(name).parts[0] in problems[0]
    assert problems[0] in html.unescape(text)
    assert "evaluation-mean" in text


def test_a_path_that_is_missing_does_not_hide_the_others(work):
    problems = write_report([work, work / "nowhere"], work / "report.html")
    assert problems == (f"{work / 'nowhere'}: no such file or folder; check the path.",)


def test_slides_that_failed_are_reported_with_their_reasons(work):
    (work / "predictions.csv").write_text(
        "slide_id,path,predicted,prob_normal,prob_tumor,failed\n"
        f"bad,/slides/bad.svs,,,,the file is empty{'!' * 1000}\n",
    )
    summary = {"epochs": 2, "seconds": 3.0, "patches_encoded": 0, "best_epoch": 2}
    summary["failed"] = {"left": "it has no tissue"}
    (work / "run" / "summary.json").write_text(json.dumps(summary))
    assert write_report([work], work / "report.html") == ()
    text = text_of((work / "report.html").read_text())
    assert "left: it has no tissue" in text
    assert "the file is empty!" in text
    assert "!" * 501 not in text


def test_predictions_of_version_1_are_reported(tmp_path):
    page = report(tmp_path, Path(__file__).parents[2] / "fixtures" / "v1" / "predictions")
    text = text_of(page)
    assert "share of sampling probability" in text
    assert "slide-0043 zoommil, predictions – tumor" in text


def test_patches_of_a_magnification_that_the_first_slide_did_not_reach_are_counted(
    folder, tmp_path
):
    for name in ("a", "b"):
        content = json.loads((folder / "predictions" / f"{name}.json").read_text())
        if name == "a":
            content["steps"] = content["steps"][:1]
            content["regions"] = [each for each in content["regions"] if each["step"] == 0]
        write_json(tmp_path / "given" / f"{name}.json", content)
    text = text_of(report(tmp_path, tmp_path / "given"))
    assert "patches per slide 2.5x 4 10x 1 Reasons" in text


def test_the_reasons_to_stop_are_counted(folder, tmp_path):
    reasons = {
        **{"a": "share=5% was spent", "b": "share=5% was spent"},
        **{"c": "after 1.25 s", "d": "after 3 s", "e": "after 1e-06 s"},
    }
    visited = {"c": 4, "d": 5}
    for name, reason in reasons.items():
        content = json.loads((folder / "predictions" / "a.json").read_text())
        content["slide"]["id"] = name
        content["regions"] = content["regions"][: visited.get(name)]
        write_json(tmp_path / "given" / f"{name}.json", content | {"stop_reason": reason})
    page = report(tmp_path, tmp_path / "given")
    table = "reason answers patches (median) after … s 3 5 share=5% was spent 2 6 "
    assert table in text_of(page)
    assert "Running answers" not in page  # there are no rounds


def test_the_running_answers_of_folds_are_drawn(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    write_json(tmp_path / "given" / "a.json", with_folds(content))
    page = report(tmp_path, tmp_path / "given")
    assert "every patch was visited 1 6 settled 1 5 Running answers" in text_of(page)
    chart = "probability of the predicted class against visited patches"
    assert f'aria-label="{chart}: fold-0, a, fold-1, a"' in page


def with_rounds(first: dict, name: str, last: int) -> dict:
    rounds = [
        {"patches": patches, "probabilities": {"normal": 0.2, "tumor": 0.8}}
        for patches in (4, last)
    ]
    return first | {"slide": first["slide"] | {"id": name}, "rounds": rounds}


def names_in(page: str) -> str:
    (names,) = re.findall('aria-label="probability of the predicted class[^:]*: ([^"]*)"', page)
    return names


def test_only_the_slides_with_the_most_patches_have_a_line(folder, tmp_path):
    first = json.loads((folder / "predictions" / "a.json").read_text())
    for number in range(LINES + 1):
        content = with_rounds(first, f"n{number}", 5 + number)
        write_json(tmp_path / "given" / f"n{number}.json", content)
    page = report(tmp_path, tmp_path / "given")
    assert names_in(page) == ", ".join(f"n{number}" for number in range(LINES, 0, -1))
    assert f", {LINES} of {LINES + 1} slides with several rounds, those" in page


def test_a_chart_has_all_folds_of_a_slide_or_none(folder, tmp_path):
    first = json.loads((folder / "predictions" / "a.json").read_text())
    slides = LINES // 2 + 1
    for number in range(slides):
        content = with_folds(first | {"slide": first["slide"] | {"id": f"n{number}"}})
        content["members"][0]["rounds"][-1]["patches"] += number
        write_json(tmp_path / "given" / f"n{number}.json", content)
    page = report(tmp_path, tmp_path / "given")
    shown = [
        f"fold-{fold}, n{slides - 1 - number}" for number in range(slides - 1) for fold in (0, 1)
    ]
    assert names_in(page) == ", ".join(shown)


def test_a_top_patch_names_its_model_if_there_are_several(folder, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(folder / "predictions", tmp_path / "given" / name)
    text = text_of(report(tmp_path, tmp_path / "given"))
    assert re.search("attention 0.9 10x zoommil, one", text)
    assert re.search("attention 0.9 10x zoommil, two", text)


def test_a_long_name_keeps_both_ends_in_the_legend(folder, tmp_path):
    first = json.loads((folder / "predictions" / "a.json").read_text())
    content = with_rounds(first, f"TCGA-{'x' * 60}-end", 5)
    write_json(tmp_path / "given" / "a.json", content)
    name = names_in(report(tmp_path, tmp_path / "given"))
    assert re.fullmatch("TCGA-x+…x+-end", name)
    assert len(name) < 60
