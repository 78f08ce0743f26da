import pytest

from parfocal.encoders.weights import EncoderError
from parfocal.reproduce import TABLES, read_table
from parfocal.settings import SettingsError

from .conftest import small


def settings_of(name: str, experiment: str, *more: str):
    by_kind = small(name, *more).candidates().values()
    return next(c.settings for members in by_kind for c in members if c.name == experiment)


def test_there_are_five_tables():
    assert (
        *("jsma-bach", "jsma-prad", "magnet-camelyon", "zoommil-bright", "zoommil-camelyon16"),
    ) == TABLES


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_published_numbers_for_all_columns_and_known_experiments(name):
    reproduction = read_table(name)
    for table in reproduction.tables:
        for row in table.rows:
            assert len(row.paper) == len(table.columns), row.label
            wanted = {column.run.format(run) for column in table.columns for run in row.runs}
            assert wanted <= set(reproduction.experiments)


def test_the_settings_are_those_of_the_papers():
    zooming = settings_of("zoommil-camelyon16", "zoommil", "zoommil:model.k=300")
    assert zooming.slide.magnifications == (10, 20)
    assert zooming.slide.children == "all"
    assert read_table("zoommil-camelyon16").encoder == "resnet50-layer3"
    assert "model.k=300" in read_table("zoommil-camelyon16").experiments["zoommil"].settings
    assert settings_of("zoommil-bright", "dsmil").slide.magnifications == (2.5, 5, 10)
    assert settings_of("jsma-prad", "multi").slide.magnifications == (2.5, 5, 10)
    assert settings_of("magnet-camelyon", "magnet-4").train.refit


def test_the_epochs_option_leaves_timing_experiments_unchanged():
    assert settings_of("jsma-bach", "multi").train.epochs == 1
    assert settings_of("jsma-bach", "multi-all").train.epochs == 2


def test_a_setting_for_one_experiment_leaves_the_others_unchanged():
    one = "abmil:train.patience=3"
    assert settings_of("zoommil-bright", "abmil", one).train.patience == 3
    assert settings_of("zoommil-bright", "dsmil", one).train.patience == 20


def test_a_setting_for_an_unknown_experiment_is_refused():
    with pytest.raises(SettingsError, match=r"zoomil:model.k=3: zoommil-bright has no experiment "):
        small("zoommil-bright", "zoomil:model.k=3").candidates()


@pytest.mark.parametrize("settings", [("train.task=ordinal",), ("train.target=[grade]",)])
def test_another_task_than_that_of_the_paper_is_refused(settings):
    message = r"the tables of zoommil-bright have scores of the paper's classes"
    with pytest.raises(SettingsError, match=message):
        small("zoommil-bright", *settings).candidates()


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown table 'bach'; use one of jsma-bach, jsma-prad,"):
        read_table("bach")


def test_a_network_that_is_not_available_is_refused_before_any_run(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(EncoderError, match=r"timm:inception_v3: timm cannot be imported"):
        read_table("jsma-bach").candidates()
