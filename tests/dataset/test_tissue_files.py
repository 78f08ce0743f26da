from pathlib import Path

import pytest

from parfocal.dataset.errors import CohortError
from parfocal.dataset.tissue_files import match_tissue_files


@pytest.fixture
def slides(tmp_path):
    paths = [tmp_path / "a.ome.tif", tmp_path / "b.svs"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def test_a_file_is_that_of_the_only_slide(tmp_path, slides):
    mask = tmp_path / "mask.png"
    mask.touch()
    assert match_tissue_files(mask, slides[:1]) == {slides[0]: mask}
    with pytest.raises(
        CohortError, match=r"mask\.png: one tissue file for 2 slides; give a folder"
    ):
        match_tissue_files(mask, slides)


def test_files_of_a_folder_are_matched_by_the_names_of_the_slides(tmp_path, slides, caplog):
    folder = tmp_path / "contours_geojson"
    folder.mkdir()
    with pytest.raises(
        CohortError, match=r"no tissue file of the 2 slides; .* a\.geojson or \.png"
    ):
        match_tissue_files(folder, slides)
    (folder / "a.geojson").touch()
    assert match_tissue_files(folder, slides) == {slides[0]: folder / "a.geojson"}
    assert "tissue files of 1 of 2 slides; on the others, the tissue is found" in caplog.text


def test_the_column_of_a_table_is_matched_by_the_paths_of_the_slides(tmp_path, slides):
    (tmp_path / "mask.png").touch()
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,tissue\nA,a.ome.tif,mask.png\nB,b.svs,\n")
    assert match_tissue_files(table, slides) == {slides[0]: tmp_path / "mask.png"}
    with pytest.raises(CohortError, match=r"no tissue file of the 1 slides; fill its column"):
        match_tissue_files(table, slides[1:])


def test_a_missing_path_is_refused(slides):
    with pytest.raises(CohortError, match="none: no such tissue file or folder"):
        match_tissue_files(Path("none"), slides)
