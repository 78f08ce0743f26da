"""The five tables, made from fake data in the folder layout of each data set."""

import re

import numpy as np
import pytest
from PIL import Image

from parfocal.explain.zoom_tree import LESION
from parfocal.reproduce import TABLES

pytestmark = pytest.mark.slow  # each table takes minutes; test_run.py has shorter ones

# A row of each paper: its label and numbers as printed.
PRINTED = {
    "zoommil-bright": (
        "ZoomMIL (1.25x → 2.5x → 10x)",
        ("68.3 ± 1.1", "69.3 ± 1.0", "1.29", "0.46"),
    ),
    "zoommil-camelyon16": ("ZoomMIL (10x → 20x)", ("83.3 ± 0.3", "84.2 ± 0.4", "14.94", "5.32")),
    "magnet-camelyon": ("4-layer MagNet", ("91", "76", "63", "84", "75")),
    "jsma-bach": ("100X", ("22.9", "59.0", "18.4", "50.3")),
    "jsma-prad": ("multiple magnifications", ("91", "0.98", "0.96")),
}
ROWS = {  # number of rows of all tables of a paper
    "zoommil-bright": 8,
    "zoommil-camelyon16": 4,
    "magnet-camelyon": 4,
    "jsma-bach": 7 + 3 + 5,
    "jsma-prad": 4 + 3 + 5,
}


def lines_of(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", TABLES)
def test_each_row_has_our_numbers_and_the_papers(made, name):
    text = (made(name) / "table.md").read_text()
    label, theirs = PRINTED[name]
    found = [line for line in lines_of(text) if re.sub(r" \[.*", "", line[0]) == label]
    (line,) = [line for line in found if tuple(line[2::2]) == theirs]
    assert all(re.fullmatch(r"\d+(\.\d+)?", ours) for ours in line[1::2])


@pytest.mark.parametrize("name", TABLES)
def test_all_rows_of_the_paper_are_there_and_none_failed(made, name):
    text = (made(name) / "table.md").read_text()
    headers = text.count("\n| --- |")
    assert len(lines_of(text)) == ROWS[name] + 2 * headers
    assert "failed" not in text.casefold()


@pytest.mark.parametrize("name", TABLES)
def test_deviations_from_the_paper_are_listed_below_the_table(made, name):
    text = (made(name) / "table.md").read_text()
    below = text.partition("Notes on every row:")[2]
    assert (
        "- Changed from the paper's settings by the user: slide.patch_size=" in below
        or "mean-rgb:" in below
    )
    assert "train.epochs at most 1" in below
    assert "slides of the data set are missing" in below or name == "jsma-prad"


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_the_table_and_existing_pictures(made, name):
    page = (made(name) / "page.html").read_text()
    pictures = re.findall(r'<img class="drawn" src="([^"]+)"', page)
    assert pictures
    assert all((made(name) / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert PRINTED[name][0] in page


def test_footnotes_are_numbered_and_shared_by_rows(made):
    text = (made("zoommil-bright") / "table.md").read_text()
    assert "| MSMIL (1.25x + 2.5x + 10x) [2, 3] |" in text
    assert "| DSMIL (1.25x + 2.5x + 10x) [2] |" in text
    assert "[2] Run at 2.5x + 5x + 10x: the paper's FLOPs match these magnifications, not" in text


def test_the_published_rule_has_features_for_each_set_of_magnifications(made):
    folders = {file.parent.name for file in (made("zoommil-bright") / "runs").rglob("*.h5")}
    assert folders == {"tiny", "tiny-1.25x-2.5x", "tiny-1.25x-2.5x-10x", "tiny-2.5x-5x-10x"}


def test_rows_that_are_not_implemented_have_only_the_papers_number(made, cells):
    cell = cells(made("jsma-bach"))["Roy et al.", "accuracy"]
    assert (cell["ours"], cell["paper"]) == ("", "87.0")
    assert cell["notes"] == "Not implemented here; the number is the paper's."


def test_shares_of_attention_sum_to_100_percent(made, cells):
    found = cells(made("jsma-prad"))
    ours = [float(found[label, "%"]["ours"]) for label in ("25X", "50X", "100X")]
    assert sum(ours) == pytest.approx(100)


def test_combined_times_are_sums(made, cells):
    found = cells(made("jsma-bach"))
    for column in ("training, 5, s per epoch", "training, all, s per epoch"):
        single = [float(found[label, column]["ours"]) for label in ("50X", "100X", "200X")]
        assert float(found["combined", column]["ours"]) == pytest.approx(sum(single))


def test_the_maps_of_bach_have_the_papers_sizes(made, metrics):
    """2x2, 4x3 and 7x6 cells of 299 px; here 8x6, as 128 px are 8 times 16."""
    looked = metrics(made("jsma-bach") / "timing" / "multi-all" / "seed-0")["cost"]["patches"]
    assert [row["mean"] for row in looked] == [4, 12, 48]


def test_both_curves_of_the_four_models_are_drawn(made):
    page = (made("jsma-prad") / "page.html").read_text()
    models = "25X, 50X, 100X, multiple magnifications"
    assert re.findall(r'<svg [^>]*aria-label="([^"]*)"', page) == [
        f"true positive rate against false positive rate: {models}",
        f"precision against recall: {models}",
    ]
    assert page.count("<svg") == 2


@pytest.mark.parametrize("name", ["zoommil-bright", "magnet-camelyon", "jsma-bach"])
def test_the_pages_of_the_other_tables_have_no_curves(made, name):
    assert "<svg" not in (made(name) / "page.html").read_text()


def test_the_squares_of_magnet_are_shown(made):
    names = {path.name for path in (made("magnet-camelyon") / "figures/magnet-4").glob("*.png")}
    assert any(name.endswith("-leaves.png") for name in names)
    assert (made("magnet-camelyon") / "figures/without-gray.png").exists()


def test_known_lesions_are_drawn_on_the_leaves(made):
    folder = made("magnet-camelyon") / "figures/magnet-3"
    outlined, normal = (
        np.asarray(Image.open(folder / f"patient_{patient}_node_0-leaves.png").convert("RGB"))
        for patient in ("007", "003")
    )
    assert (outlined == LESION).all(axis=2).any()
    assert not (normal == LESION).all(axis=2).any()


def test_magnet_is_trained_again_on_validation_slides_too(made):
    assert (made("magnet-camelyon") / "runs/magnet-3/seed-0/refit.csv").exists()


def test_the_patch_model_is_trained_on_outlined_slides_and_tested_on_all(made):
    out = made("magnet-camelyon")
    rows = [line.split(",") for line in (out / "cohort.csv").read_text().splitlines()[1:]]
    kept = (out / "cohort-outlined.csv").read_text()
    for row in rows:
        is_usable = "test" in row or "negative" in row or row[-1].endswith(".geojson")
        assert (f"{row[0]}," in kept) == is_usable, row
    assert len(rows) > len(kept.splitlines()) - 1
