import pytest

from parfocal.dataset import CohortError
from parfocal.dataset.readers import READERS, make_cohort, panda

from .conftest import PICTURE


@pytest.fixture
def many(tmp_path, put, monkeypatch):
    """Write forty biopsies; two of them are 5%."""
    monkeypatch.setattr(panda, "PUBLISHED", 40)
    lines = ["image_id,data_provider,isup_grade,gleason_score"]
    for number in range(40):
        put(tmp_path / "train_images" / f"{number:03}.tiff")
        lines.append(f"{number:03},karolinska,{number % 2},{('0+0', '3+3')[number % 2]}")
    put(tmp_path / "train.csv", "\n".join(lines))
    return tmp_path


def test_one_damaged_slide_among_many_is_listed_and_excluded(many, put, table):
    put(many / "train_images" / "007.tiff", PICTURE[:-50])
    made = make_cohort("panda", many, many / "c.csv")
    assert list(made.damaged) == ["007.tiff"]
    assert made.missing == ()
    assert made.summary == "39 slides: 20 0, 19 1"
    assert "007" not in {row["slide_id"] for row in table(many / "c.csv")}


def test_half_of_a_data_set_is_refused_without_partial(many, put):
    for number in range(20):
        (many / "train_images" / f"{number:03}.tiff").unlink()
    put(many / "train_images" / "030.tiff", PICTURE[:-50])
    with pytest.raises(CohortError) as caught:
        make_cohort("panda", many, many / "c.csv")
    assert "21 of 40 slides are missing or damaged (missing: 000.tiff, 001.tiff," in str(
        caught.value
    )
    assert "019.tiff; damaged: 030.tiff). Use --partial to continue without them. PANDA is" in str(
        caught.value
    )
    assert not (many / "c.csv").exists()
    made = make_cohort("panda", many, many / "c.csv", partial=True)
    assert (len(made.rows), len(made.missing), len(made.damaged)) == (19, 20, 1)
    assert made.notes[-1].startswith("to download missing and damaged files: PANDA is at https")


def test_slides_that_the_label_file_does_not_list_are_counted(many, monkeypatch):
    monkeypatch.setattr(panda, "PUBLISHED", 42)
    made = make_cohort("panda", many, many / "c.csv")
    assert (made.missing, made.num_missing) == (("2 that no label file lists",), 2)
    monkeypatch.setattr(panda, "PUBLISHED", 10_616)
    with pytest.raises(
        CohortError, match=r"10576 of 10616 slides are missing or damaged \(missing: 105"
    ):
        make_cohort("panda", many, many / "c.csv")


def test_a_data_set_without_any_slide_is_refused_even_with_partial(many):
    for path in (many / "train_images").glob("*.tiff"):
        path.unlink()
    with pytest.raises(
        CohortError, match=r"40 of 40 slides are missing or damaged .*\)\. PANDA is at"
    ):
        make_cohort("panda", many, many / "c.csv", partial=True)


def test_paths_are_relative_to_the_table_or_absolute(many, table, tmp_path_factory):
    make_cohort("panda", many, many / "tables" / "c.csv")
    other = tmp_path_factory.mktemp("other") / "c.csv"
    make_cohort("panda", many, other)
    for made in (many / "tables" / "c.csv", other):
        assert table(made)[0]["path"] == str(many / "train_images" / "000.tiff")


def test_an_unknown_data_set_or_folder_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown data set 'imagenet'; use one of camelyon16, cam"
    ):
        make_cohort("imagenet", tmp_path, tmp_path / "c.csv")
    for name, (source, _) in READERS.items():
        with pytest.raises(CohortError, match=f"no such folder. {source.name} is at https://"):
            make_cohort(name, tmp_path / "none", tmp_path / "c.csv")
