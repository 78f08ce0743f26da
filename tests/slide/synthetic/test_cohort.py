import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import openslide
import pytest
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parfocal.slide.errors import SlideError
from parfocal.slide.synthetic.cohort import paint_cohort, plan_cohort
from parfocal.slide.synthetic.layout import draw_layout
from parfocal.slide.synthetic.painting import (
    TILE_PAINTING,
    Painting,
    SlidePlan,
    default_painting,
    paint_slide,
)
from parfocal.slide.synthetic.texture import Painter, draw_stain
from parfocal.slide.synthetic.tissue_tiles import find_tiles

SMALL = Painting(regions=2, lesions=1, lesion_um=150, tissue_share=0.5)
JPEG_REACH = 16  # pixels: a changed pixel changes its block


def plan(*, seed=0, lesion=True, size=768, **changed):
    return SlidePlan((seed,), (seed,), lesion, size, painting=SMALL, **changed)


def pixels_of(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def rows_of(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def inside(rings, size):
    """Return a mask of filled polygons."""
    mask = Image.new("1", (size, size))
    for ring in rings:
        ImageDraw.Draw(mask).polygon([tuple(point) for point in ring], fill=1)
    return np.asarray(mask)


def dilated(mask, reach):
    """Dilate a mask by a square."""
    for axis in (0, 1):
        mask = np.any([np.roll(mask, step, axis) for step in range(-reach, reach + 1)], axis=0)
    return mask


def painted(folder, **settings):
    return paint_cohort(folder / "cohort", seed=0, size=768, painting=SMALL, **settings)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return painted(tmp_path_factory.mktemp("painted"), slides=6)


@pytest.fixture
def tiles(tmp_path):
    """Write ten tiles per class, which differ only in the fine stripes of the lesions."""
    rng = np.random.default_rng(0)
    for kind in ("normal", "tumor"):
        (tmp_path / "tiles" / kind).mkdir(parents=True)
        for number in range(10):
            tile = rng.integers(120, 180, (96, 96, 3), dtype=np.uint8)
            tile[::2] += 40 * (kind == "tumor")
            Image.fromarray(tile).save(tmp_path / "tiles" / kind / f"{number}.png")
    return tmp_path / "tiles"


def test_the_table_lists_every_slide_with_its_split_and_outlines(cohort):
    rows = rows_of(cohort)
    assert list(rows[0]) == [
        *("slide_id", "path", "label", "patient_id", "mpp", "split", "stratum", "outlines")
    ]
    assert [row["split"] for row in rows] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert {row["label"] for row in rows} == {"normal", "tumor"}
    for row in rows:
        assert (cohort.parent / row["path"]).is_file()
        assert (cohort.parent / row["outlines"]).is_file() == (row["label"] == "tumor")
        assert (row["stratum"] == "none") == (row["label"] == "normal")


def test_openslide_opens_a_painted_slide_with_its_mpp(cohort):
    with openslide.OpenSlide(cohort.parent / "slides" / "slide-0000.tif") as slide:
        assert slide.properties["openslide.mpp-x"] == "1"
        assert slide.level_dimensions == ((768, 768), (384, 384))


def test_outlines_are_closed_rings_of_a_feature_collection(cohort):
    outlines = json.loads((cohort.parent / "outlines" / "slide-0001.geojson").read_text())
    assert outlines["type"] == "FeatureCollection"
    (feature,) = outlines["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["properties"]["objectType"] == "annotation"
    assert ring[0] == ring[-1]
    assert np.min(ring) >= 0
    assert np.max(ring) <= 768


def test_the_same_seed_paints_the_same_bytes(cohort, tmp_path):
    again = painted(tmp_path, slides=6, threads=1)
    for path in sorted(cohort.parent.rglob("*.*")):
        assert path.read_bytes() == (again.parent / path.relative_to(cohort.parent)).read_bytes()


def test_slides_of_other_seeds_and_splits_differ(cohort, tmp_path):
    slides = [path.read_bytes() for path in (cohort.parent / "slides").iterdir()]
    paint_slide(tmp_path / "other.tif", plan(seed=1))
    assert len({*slides, (tmp_path / "other.tif").read_bytes()}) == 7


def test_a_lesion_changes_only_pixels_inside_its_outline(tmp_path):
    for lesion in (False, True):
        layout = paint_slide(tmp_path / f"{lesion}.tif", plan(lesion=lesion))
    without, within = (pixels_of(tmp_path / f"{lesion}.tif") for lesion in (False, True))
    changed = (without != within).any(axis=-1)
    outline = inside([lesion.polygon() for lesion in layout.lesions], 768)
    assert changed[outline].mean() > 0.5
    assert not changed[~dilated(outline, JPEG_REACH)].any()


def test_a_lesion_vanishes_when_shrunk():
    """It differs from a region by many gray levels at 1 µm per pixel, and hardly at 8."""
    rng = np.random.default_rng(0)
    textures = Painter(rng, 1.0).textures(draw_stain(rng))
    change = textures.lesion.astype(float) - textures.region
    shrunk = change.reshape(len(change), 56, 8, 56, 8, 3).mean(axis=(2, 4))
    assert change.std() > 15
    assert shrunk.std() < 0.08 * change.std()
    assert np.abs(change.mean(axis=(0, 1, 2))).max() < 0.2


def test_regions_are_conspicuous_with_or_without_lesions():
    rng = np.random.default_rng(0)
    textures = Painter(rng, 1.0).textures(draw_stain(rng))
    plain, region, lesion = (
        kind.mean(axis=(1, 2)).mean(axis=0)
        for kind in (textures.plain, textures.region, textures.lesion)
    )
    assert np.abs(plain - region).max() > 8
    assert np.abs(lesion - region).max() < 0.2


def test_normal_slides_have_as_many_regions_as_tumor_slides():
    counts = {"extent_um": 2000, "mpp": 1, "tissue_share": 0.5, "regions": 3, "lesion_um": 150}
    normal, tumor = (
        draw_layout(np.random.default_rng(4), **counts, lesions=lesions) for lesions in (0, 2)
    )
    assert len(normal.regions) == len(tumor.regions) == 3
    assert len(normal.lesions) == 0
    for lesion, region in zip(tumor.lesions, normal.regions, strict=False):
        assert (lesion.x, lesion.y) == (region.x, region.y)
        assert (lesion.radii < region.radii).all()


def test_tissue_and_lesions_have_the_requested_size():
    layout = draw_layout(
        np.random.default_rng(0),
        extent_um=4000,
        mpp=1,
        tissue_share=0.4,
        regions=2,
        lesions=2,
        lesion_um=300,
    )
    assert np.mean(layout.field > 0) == pytest.approx(0.4, abs=0.01)
    area = inside([lesion.polygon() for lesion in layout.lesions], 4000).sum()
    assert area == pytest.approx(2 * np.pi * 150**2, rel=0.02)


def test_a_lesion_covers_more_pixels_at_a_finer_mpp():
    masks = []
    for mpp, side in ((1.0, 64), (0.5, 128)):
        layout = draw_layout(
            np.random.default_rng(0),
            extent_um=1024,
            mpp=mpp,
            tissue_share=0.5,
            regions=1,
            lesions=1,
            lesion_um=150,
        )
        x, y = int(layout.lesions[0].x / mpp) - side, int(layout.lesions[0].y / mpp)
        masks.append(layout.masks(x, y, side).lesions)
    halved = masks[1].reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.abs(halved - masks[0]).mean() < 0.02


@pytest.mark.slow
def test_mean_color_does_not_predict_the_class(tmp_path):
    """The classifier is fitted on the train slides and tested on the test slides."""
    painting = replace(SMALL, splits=(0.4, 0, 0.6))
    rows = rows_of(paint_cohort(tmp_path / "c", slides=24, seed=0, size=768, painting=painting))
    colors = np.array([pixels_of(tmp_path / "c" / row["path"]).mean(axis=(0, 1)) for row in rows])
    labels = np.array([row["label"] == "tumor" for row in rows])
    test = np.array([row["split"] == "test" for row in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(colors[~test], labels[~test])
    assert roc_auc_score(labels[test], model.decision_function(colors[test])) <= 0.6
    for channel in colors.T:
        assert abs(roc_auc_score(labels, channel) - 0.5) <= 0.1


def test_tiles_make_a_cohort_whose_lesion_is_a_share_of_the_tissue(tiles, tmp_path):
    table = paint_cohort(tmp_path / "c", slides=4, seed=0, size=768, tiles=tiles)
    tumors = [row for row in rows_of(table) if row["label"] == "tumor"]
    assert tumors
    for row in tumors:
        features = json.loads((tmp_path / "c" / row["outlines"]).read_text())["features"]
        lesion = inside([feature["geometry"]["coordinates"][0] for feature in features], 768)
        tissue = pixels_of(tmp_path / "c" / row["path"]).mean(axis=-1) < 220
        assert 0.005 < lesion.sum() / tissue.sum() < 0.025


def test_splits_share_no_tiles(tiles):
    files = find_tiles(tiles, mpp=1.0)
    train, val, test = files.divide((0.5, 0.2, 0.3), 0)
    assert [len(share.normal) for share in (train, val, test)] == [5, 2, 3]
    assert len({*train.lesion, *val.lesion, *test.lesion}) == 10


def test_a_lesion_of_tiles_stays_in_its_outline(tiles, tmp_path):
    files = find_tiles(tiles, mpp=1.2)
    for lesion in (False, True):
        layout = paint_slide(tmp_path / f"{lesion}.tif", plan(lesion=lesion, tiles=files))
    changed = (pixels_of(tmp_path / "True.tif") != pixels_of(tmp_path / "False.tif")).any(axis=-1)
    outline = inside([lesion.polygon() for lesion in layout.lesions], 768)
    assert changed[outline].mean() > 0.5
    assert not changed[~dilated(outline, JPEG_REACH)].any()


@pytest.mark.parametrize("kind", ["normal", "tumor"])
def test_folders_that_cannot_be_recognized_must_be_named(tiles, kind):
    (tiles / kind).rename(tiles / "first")
    role = {"normal": "normal", "tumor": "lesion"}[kind]
    with pytest.raises(ValueError, match=f"which folder holds {role} tissue.*{role}_class"):
        find_tiles(tiles, mpp=1.0)
    assert find_tiles(tiles, mpp=1.0, **{f"{role}_class": "first"})


def test_the_folders_that_are_used_are_logged(tiles, caplog):
    (tiles / "adipose").mkdir()
    with caplog.at_level("INFO"):
        find_tiles(tiles, mpp=1.0)
    message = "normal tissue from normal, lesions from tumor; not used: adipose"
    assert caplog.messages == [f"{tiles}: {message}"]


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found 0 folders, but it must hold one with tiles"):
        find_tiles(tmp_path / "missing", mpp=1.0)


def test_a_class_without_tiles_is_refused(tiles):
    for path in (tiles / "tumor").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="tumor: no tiles found"):
        find_tiles(tiles, mpp=1.0)


def test_too_few_tiles_for_the_splits_are_refused(tiles):
    with pytest.raises(ValueError, match="normal: 10 tiles are too few"):
        find_tiles(tiles, mpp=1.0).divide((0.98, 0.01, 0.01), 0)


def test_the_error_about_a_tile_that_is_not_an_image_names_it(tiles, tmp_path):
    (tiles / "tumor" / "3.png").write_text("not an image")
    with pytest.raises(SlideError, match=r"3\.png: the tile cannot be read"):
        paint_slide(tmp_path / "slide.tif", plan(tiles=find_tiles(tiles, mpp=1.0)))


def test_tiles_of_different_sizes_are_refused(tiles, tmp_path):
    Image.new("RGB", (50, 50)).save(tiles / "normal" / "3.png")
    with pytest.raises(SlideError, match="All tiles must have one size"):
        paint_slide(tmp_path / "slide.tif", plan(tiles=find_tiles(tiles, mpp=1.0)))


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"the folder exists and is not empty\. Choose a new"):
        paint_cohort(tmp_path, slides=2, seed=0, size=768, painting=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_painting_leaves_no_file(tmp_path):
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        paint_slide(tmp_path / "slide.tif", plan(), stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_cohort_leaves_no_files(tmp_path):
    def interrupt(done, slides):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path, slides=6, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_failed_can_be_painted_into_the_same_folder(tiles, tmp_path):
    broken = tiles / "tumor" / "3.png"
    content = broken.read_bytes()
    broken.write_text("not an image")
    settings = {"slides": 4, "seed": 0, "size": 768, "tiles": tiles}
    (tmp_path / "mine").mkdir()
    with pytest.raises(SlideError):
        paint_cohort(tmp_path / "mine", **settings)
    assert list((tmp_path / "mine").iterdir()) == []
    broken.write_bytes(content)
    assert paint_cohort(tmp_path / "mine", **settings).exists()


@pytest.mark.parametrize("slides", range(2, 14))
def test_every_split_that_is_not_empty_has_both_classes(slides):
    planned = plan_cohort(slides=slides, seed=0)
    assert len(planned) == slides
    classes_of = {
        split: {plan.lesion for part, plan in planned if part == split} for split, _ in planned
    }
    assert set(classes_of) == set(("train", "test", "val")[: slides // 2])
    assert all(classes == {False, True} for classes in classes_of.values())


def test_splits_have_the_requested_shares():
    planned = plan_cohort(slides=64, seed=0, painting=Painting(splits=(0.5, 0.156, 0.344)))
    counts = Counter((split, plan.lesion) for split, plan in planned)
    assert [counts[part, True] for part in ("train", "val", "test")] == [16, 5, 11]
    assert [counts[part, False] for part in ("train", "val", "test")] == [16, 5, 11]


def test_a_rare_class_is_in_every_split():
    planned = plan_cohort(slides=40, seed=0, painting=Painting(positive_share=0.05))
    assert {split for split, plan in planned if plan.lesion} == {"train", "val", "test"}


def test_progress_is_reported(tmp_path):
    calls = []
    painted(tmp_path, slides=2, progress=lambda done, slides: calls.append((done, slides)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slides": 1}, "slides must be 2 or more, one of each class, and seed 0 .* not 1 and 0"),
        ({"slides": -3}, "not -3 and 0"),
        ({"seed": -1}, "not 2 and -1"),
        ({"size": 100}, "size must be 512 to 100000 pixels, not 100"),
        ({"mpp": 8}, "mpp must be 0.1 to 2.0 µm per pixel"),
        (
            {"size": 768},
            "a slide of 768 px at 1 µm per pixel with 45% tissue has no room for 4 regions, 2 of "
            r"them with a lesion of 400 um. Choose larger slides \(--size\) or smaller",
        ),
        (
            {"size": 768, "painting": default_painting(lesions=6, lesion_um=400)},
            r"6 regions, 6 of them .* \(--size\), fewer lesions \(--lesions\) or smaller",
        ),
    ],
)
def test_invalid_settings_of_a_cohort_are_refused(tmp_path, settings, message):
    settings = {"slides": 2, "seed": 0, "painting": Painting(lesion_um=400), **settings}
    with pytest.raises(ValueError, match=message):
        paint_cohort(tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive_share": 2}, "positive_share must be 0 to 1"),
        ({"tissue_share": 0.9}, "tissue_share 0.02 to 0.7"),
        ({"lesions": 5}, "lesions must be 1 to 4"),
        ({"lesion_share": 0}, "lesion_share must be above 0"),
        ({"splits": (0.5, 0.5, 0.5)}, "must sum to 1"),
    ],
)
def test_invalid_paintings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Painting(**settings)


@pytest.mark.slow
def test_color_of_real_tiles_does_not_predict_the_class(tmp_path):
    folder = Path(__file__).parents[3].parent / "shared" / "data" / "colon-tiles"
    if not folder.is_dir():
        pytest.skip("the colon tiles are not available")
    rows = rows_of(
        paint_cohort(
            tmp_path / "c", slides=24, seed=0, size=2048, tiles=folder, painting=TILE_PAINTING
        )
    )
    colors = np.array([pixels_of(tmp_path / "c" / row["path"]).mean(axis=(0, 1)) for row in rows])
    labels = [row["label"] == "tumor" for row in rows]
    assert all(abs(roc_auc_score(labels, channel) - 0.5) <= 0.1 for channel in colors.T)
