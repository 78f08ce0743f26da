"""The multiply-accumulates of models on stored features, whose encoders need not be there."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from parfocal.compare import measure
from parfocal.compare.candidate import load_candidate
from parfocal.compare.measure import SharedSetup, mean_macs
from parfocal.dataset.cohort import Cohort
from parfocal.evaluate.step_summary import StepSummary
from parfocal.models.checkpoint import Checkpoint

METRICS = [
    {"cost": {"macs": {"mean": 1e6}, "patches": [{"mean": 100.0}, {"mean": 30.0}]}},
    {"cost": {"macs": {"mean": 3e6}, "patches": [{"mean": 100.0}, {"mean": 50.0}]}},
]


def shared() -> SharedSetup:
    return SharedSetup(Path(), Cohort(Path(), (), ("a", "b")), Path(), {}, 1, None, "cpu", 0, {})


def test_the_macs_of_encoders_of_the_catalog_are_known_without_loading_them(monkeypatch):
    monkeypatch.setattr(measure, "load_encoders", lambda *_: pytest.fail("it was loaded"))
    candidate = load_candidate(
        "m", "zoommil", encoder="1.25=kaiko-vits16,10=uni2-h", overrides=LADDER
    )
    expected = 2e6 + 100 * 4_598_498_304 + 40 * 185_470_230_528
    assert mean_macs(shared(), candidate, METRICS) == pytest.approx(expected, rel=1e-12)


LADDER = ["slide.magnifications=[1.25, 10]"]


def test_the_macs_of_an_unknown_encoder_are_unknown_and_never_zero(caplog):
    caplog.set_level(logging.WARNING)
    setup = shared()
    for _ in range(2):
        candidate = load_candidate(
            "m", "zoommil", encoder="1.25=kaiko-vits16,10=our-own", overrides=LADDER
        )
        assert mean_macs(setup, candidate, METRICS) is None
    text = "no MACs and no seconds per slide with encoder kaiko-vits16 and our-own"
    assert caplog.text.count(text) == 1
    setup.warn_of_encoder(["uni2-h"], ValueError("timm is missing"))
    assert "\nno seconds per slide" in f"\n{caplog.messages[-1]}"


def test_an_evaluation_on_stored_features_has_the_macs_of_known_encoders(untrained: Checkpoint):
    steps = {
        2.5: [SimpleNamespace(patches=4), SimpleNamespace(patches=8)],
        10.0: [SimpleNamespace(patches=16), None],
    }

    def macs(name: str, **changes: object) -> list[float] | None:
        encoders = (untrained.encoders[0], replace(untrained.encoders[1], name=name))
        trained = replace(untrained, encoders=encoders, **changes)
        evaluation = SimpleNamespace(trained=trained, _steps=lambda: steps)
        return StepSummary._known_encoding_macs(evaluation)  # type: ignore[arg-type]

    assert macs("uni2-h") == [6 * 877_500, 8 * 185_470_230_528]
    assert macs("our-own") is None
    # A weights file may be of another network with the same name.
    assert macs("uni2-h", encoder_weights=(None, Path("own.bin"))) is None
