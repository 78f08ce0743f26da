import json
from pathlib import Path

import pytest

from parfocal.explain.read_metrics import METRICS_VERSION, read_metrics

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "v1" / "evaluation" / "metrics.json"


def test_metrics_of_version_1_are_read_with_the_keys_of_version_2():
    old, new = json.loads(VERSION_1.read_text()), read_metrics(VERSION_1)
    assert new["format_version"] == METRICS_VERSION
    assert new["localization_overall"] == old["localisation_together"]
    assert len(new["localization"]) == len(old["localisation"])
    assert not {"localisation", "localisation_together"} & new.keys()
    small = new["strata"]["small"]["auroc"]
    assert small["undefined_resamples"] == old["strata"]["small"]["auroc"]["left_out"] == 8
    assert "left_out" not in json.dumps(new)
    assert new["localization"][0]["attention"]["low"] == old["localisation"][0]["attention"]["low"]


def test_metrics_of_version_2_are_read_as_they_are(tmp_path):
    content = {"format_version": 2, "cost": {"patches": [{"mean": 1.0}]}}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content))
    assert read_metrics(path) == content


@pytest.mark.parametrize("content", [{"format_version": 3}, {}, [1]])
def test_metrics_of_another_version_are_refused(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metrics format version (3|None) is not supported"):
        read_metrics(path)
