import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.dataset import CohortError, read_cohort
from parfocal.dataset.readers import make_cohort
from parfocal.dataset.readers import tcga_prad as module
from parfocal.slide.slide import open_slide

SHEET = "File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type"


@pytest.fixture
def gdc(tmp_path: Path, put, write_slide: Callable[..., Path], monkeypatch) -> Path:
    """Write three slides of 1024 px at 0.5 µm/px as the GDC client does, and regions of 200 um."""
    monkeypatch.setattr(module, "REGION_PX", 200)
    manifest, sheet = ["id\tfilename\tmd5\tsize\tstate"], [SHEET]
    for number in range(3):
        folder, name = f"uuid-{number}", f"TCGA-2A-A8V{number}-01Z-00-DX1.ABC.svs"
        (tmp_path / folder).mkdir()
        path = write_slide(tmp_path / folder / name, seed=number, mpp=0.5)
        manifest.append(f"{folder}\t{name}\t{'0' * 32}\t{path.stat().st_size}\treleased")
        sheet.append(
            f"{folder}\t{name}\tBiospecimen\tSlide Image\tTCGA-PRAD\tTCGA-2A-A8V{number}\tx\ty"
        )
    put(tmp_path / "gdc_manifest.2026-01-01.txt", "\n".join(manifest))
    put(tmp_path / "gdc_sample_sheet.2026-01-01.tsv", "\n".join(sheet))
    lines = ["file_name,x,y,label"]
    for number in range(3):
        name = f"TCGA-2A-A8V{number}-01Z-00-DX1.ABC.svs"
        lines += [f"{name},0,0,benign", f"{name},100,400,gleason3", f"{name},8,600,gleason45"]
    put(tmp_path / "regions.csv", "\n".join(lines))
    return tmp_path


def test_regions_are_cut_out_at_one_micron(gdc, table):
    make_cohort("tcga-prad", gdc, gdc / "out" / "c.csv")
    rows = table(gdc / "out" / "c.csv")
    assert [(row["slide_id"], row["label"], row["patient_id"]) for row in rows[:3]] == [
        ("TCGA-2A-A8V0-01Z-00-DX1.ABC_0_0", "benign", "TCGA-2A-A8V0"),
        ("TCGA-2A-A8V0-01Z-00-DX1.ABC_100_400", "gleason3", "TCGA-2A-A8V0"),
        ("TCGA-2A-A8V0-01Z-00-DX1.ABC_8_600", "gleason45", "TCGA-2A-A8V0"),
    ]
    assert rows[1]["path"] == "c-regions/TCGA-2A-A8V0-01Z-00-DX1.ABC_100_400.png"
    cut = np.asarray(Image.open(gdc / "out" / rows[1]["path"]))
    assert cut.shape == (200, 200, 3)
    slide = next((gdc / "uuid-0").glob("*.svs"))
    with open_slide(slide) as opened:  # two pixels of the slide are averaged to one of the region
        sharp = opened._scan.read_level(0, 100, 400, 400, 400).astype(float)
    mean = sharp.reshape(200, 2, 200, 2, 3).mean(axis=(1, 3))
    assert np.abs(mean - cut).max() <= 1
    with open_slide(gdc / "out" / rows[1]["path"], mpp=float(rows[1]["mpp"])) as region:
        assert (region.mpp, region.size) == (1, (200, 200))


def test_no_slide_is_in_two_parts(gdc):
    make_cohort("tcga-prad", gdc, gdc / "c.csv")
    slides = read_cohort(gdc / "c.csv").slides
    parts = {
        slide.patient_id: {s.split for s in slides if s.patient_id == slide.patient_id}
        for slide in slides
    }
    assert sorted(map(len, parts.values())) == [1, 1, 1]
    assert set.union(*parts.values()) == {"train", "test"}


def test_a_region_is_cut_once(gdc):
    make_cohort("tcga-prad", gdc, gdc / "c.csv")
    path = next((gdc / "c-regions").glob("*.png"))
    before = path.stat().st_mtime_ns
    make_cohort("tcga-prad", gdc, gdc / "c.csv")
    assert path.stat().st_mtime_ns == before


def test_a_note_says_that_the_regions_of_the_paper_are_not_public(gdc):
    made = make_cohort("tcga-prad", gdc, gdc / "c.csv")
    assert "the 285 regions of the paper were not released" in made.notes[0]
    (gdc / "regions.csv").unlink()
    with pytest.raises(CohortError, match=r"regions\.csv: no such file\. The regions of the paper"):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")


def test_a_slide_with_another_size_than_in_the_manifest_is_damaged(gdc):
    slide = next((gdc / "uuid-1").glob("*.svs"))
    slide.write_bytes(slide.read_bytes()[:-100])
    made = make_cohort("tcga-prad", gdc, gdc / "c.csv", partial=True)
    assert list(made.damaged) == [slide.name]
    assert "so the download is incomplete" in made.damaged[slide.name]
    assert len(made.rows) == 6


NAME = "TCGA-2A-A8V0-01Z-00-DX1.ABC.svs"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("other.svs,0,0,benign", "row 2: 'other.svs' is not in the manifest and the sample sheet"),
        (
            f"{NAME},left,0,benign",
            "row 2: found x 'left', y '0' and label 'benign', expected a corner",
        ),
        (f"{NAME},-1,0,benign", "row 2: found x '-1'"),
        (
            f"{NAME},0,0,gleason9",
            "label 'gleason9', expected a corner within the slide and one of benign,",
        ),
    ],
)
def test_regions_that_do_not_match_are_refused(gdc, put, line, message):
    put(gdc / "regions.csv", f"file_name,x,y,label\n{line}\n")
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")


def test_a_region_that_leaves_its_slide_is_refused(gdc, put):
    with (gdc / "regions.csv").open("a") as file:
        file.write(f"\n{NAME},700,0,benign\n")
    with pytest.raises(
        CohortError, match=r"region at x=700, y=0 is 400 pixels wide and reaches beyond"
    ):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")


def test_the_lists_of_the_gdc_are_required(gdc, put):
    put(gdc / "gdc_manifest.2026-02-02.txt", "id\tfilename\tmd5\tsize\tstate\n")
    with pytest.raises(CohortError, match=r"one file gdc_manifest\*\.txt is needed \(found: gdc_m"):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")
    (gdc / "gdc_manifest.2026-02-02.txt").unlink()
    sheet = gdc / "gdc_sample_sheet.2026-01-01.tsv"
    put(sheet, sheet.read_text().replace("TCGA-PRAD", "TCGA-BRCA"))
    with pytest.raises(CohortError, match="the sample sheet lists a file of project 'TCGA-BRCA'"):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")
    sheet.unlink()
    with pytest.raises(CohortError, match=r"gdc_sample_sheet\*\.tsv is needed \(found: none"):
        make_cohort("tcga-prad", gdc, gdc / "c.csv")
