"""A comparison per patient, with covariates alone as a row."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.compare import compare, load_candidates
from parfocal.compare.candidate import ComparisonError
from train_features import write_features


@pytest.mark.slow
def test_covariates_alone_are_a_row_of_a_comparison_of_patients(tmp_path: Path):
    rng, rows = np.random.default_rng(0), ["slide_id,path,label,patient_id,age"]
    for patient in range(20):
        for number in range(1 + patient % 2):
            name, label = f"{patient:02d}-{number}", ("ill", "well")[patient // 2 % 2]
            rows.append(f"{name},{name}.svs,{label},p{patient:02d},{50 + patient}")
            write_features(tmp_path / "features", name, rng, 1 if label == "ill" else -1)
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    overrides = [
        *("abmil:slide.magnifications=5", "abmil:slide.patch_size=16", "abmil:encoder.name=tiny"),
        *("abmil:model.dim=8", "abmil:train.covariates=[]"),
    ]
    candidates = load_candidates(
        ["abmil", "covariates"],
        overrides=overrides,
        epochs=2,
        flags={"train.per": "patient", "train.covariates": ["age"]},
    )
    assert [each.settings.train.covariates for each in candidates] == [(), ("age",)]
    out = tmp_path / "out"
    results = compare(
        tmp_path / "cohort.csv",
        candidates,
        out,
        features=tmp_path / "features",
        timed=0,
        resamples=20,
        device="cpu",
    )
    assert [row.result.reason for row in results] == [None, None]
    patches = {row.result.name: row.result.patches for row in results}
    assert patches["covariates"] == 0
    assert patches["abmil"] >= 24


def test_models_of_patients_and_of_slides_are_not_compared():
    with pytest.raises(
        ComparisonError, match=r"train\.per is slide for abmil and patient for mean"
    ):
        load_candidates(["abmil", "mean"], overrides=["mean:train.per=patient"])
