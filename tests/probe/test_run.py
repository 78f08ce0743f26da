"""Probes of encoders on a cohort: equal patches and slides, kept features, failures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.probe.conftest import SLIDES

from command_result import CommandResult
from parfocal.encoders.encoder import NetworkEncoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.service import ServiceError
from parfocal.probe import ProbeError, collect, probe
from parfocal.probe import run as probe_run
from small import write_table


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Encoders `A` and `B` (B sees gray), `blind` and `broken`; counts the patches of each."""
    counts: dict[str, int] = {}

    def load(name: str, *, device: str, trust_remote_code: bool) -> NetworkEncoder:
        assert not trust_remote_code
        if name == "broken":
            raise ServiceError("encoder at http://gpu/: it does not answer.")
        tiny = load_encoder("tiny")

        class Counting(NetworkEncoder):
            def __call__(self, patches: np.ndarray) -> object:
                counts[name] = counts.get(name, 0) + len(patches)
                pixels = patches * 0 if name == "blind" else patches
                return super().__call__(pixels[..., ::-1] if name == "B" else pixels)

        return Counting(replace(tiny.spec, name=name, weights_hash=f"of-{name}"), tiny.network)

    monkeypatch.setattr(probe_run, "load_encoder", load)
    monkeypatch.setattr("parfocal.encoders.loading.is_known_encoder", lambda name: True)
    return counts


def test_encoders_see_a_planted_difference_unless_they_are_blind(
    cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    report = probe(cohort, ["blind", "A"], tmp_path / "out", patches=7)
    best, worst = report.rows
    assert (best.name, worst.name) == ("A", "blind")
    assert best.scores["auroc_macro"].value == 1.0
    assert worst.scores["auroc_macro"].value == 0.5
    assert worst.gap_to_best is not None
    assert worst.gap_to_best.value == 0.5
    assert report.classes == {"dark": 2, "pale": 2}
    assert encoded == {"A": 7 * SLIDES, "blind": 7 * SLIDES}


def test_scores_are_those_of_the_probabilities_of_an_independent_count(
    cohort: Path, tmp_path: Path, encoded: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    seen = {}
    original = probe_run.paired_scores

    def spy(runs: dict[str, list[object]], metric: str, **options: int) -> object:
        seen.update(runs)
        return original(runs, metric, **options)

    monkeypatch.setattr(probe_run, "paired_scores", spy)
    report = probe(cohort, ["A", "B"], tmp_path / "out", patches=2, folds=None)
    for row in report.rows:
        (run,) = seen[row.name]
        aurocs = []
        for label in (0, 1):
            own = run.probabilities[run.truth == label, label]
            others = run.probabilities[run.truth != label, label]
            wins = [(a > b) + (a == b) / 2 for a in own for b in others]
            aurocs.append(np.mean(wins))
        assert row.scores["auroc_macro"].value == pytest.approx(np.mean(aurocs))


@pytest.mark.slow
def test_another_encoder_does_not_encode_with_the_first_again(
    cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    out = tmp_path / "out"
    first = probe(cohort, ["A"], out, patches=5)
    probe(cohort, ["A", "B"], out, patches=5)
    assert encoded == {"A": 5 * SLIDES, "B": 5 * SLIDES}
    again = probe(cohort, ["A"], out, patches=5)
    assert again == first
    probe(cohort, ["A"], out, patches=6)  # other patches
    assert encoded["A"] == (5 + 6) * SLIDES


def test_an_interrupted_probe_continues_where_it_stopped(
    cohort: Path, tmp_path: Path, encoded: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    whole = probe(cohort, ["A"], tmp_path / "whole", patches=5)
    calls, original = [], collect.encode_places

    def stop(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(collect, "encode_places", stop)
        with pytest.raises(KeyboardInterrupt):
            probe(cohort, ["A"], tmp_path / "out", patches=5)
    encoded.clear()
    resumed = probe(cohort, ["A"], tmp_path / "out", patches=5)
    assert encoded["A"] == 5 * (SLIDES - 4)
    assert resumed.rows[0].scores == whole.rows[0].scores


def test_a_slide_that_fails_is_left_out_for_all_encoders_and_tried_again(
    cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    lines = cohort.read_text().splitlines()
    bad = cohort.parent / "bad.tif"
    bad.write_bytes(b"not a slide")
    table = cohort.parent / "with-bad.csv"
    table.write_text("\n".join([*lines, f"bad,{bad.name},dark,test"]) + "\n")
    report = probe(table, ["A", "B"], tmp_path / "out", patches=5)
    assert list(report.failed) == ["bad"]
    assert report.classes == {"dark": 2, "pale": 2}
    assert all(row.reason is None for row in report.rows)


def test_an_encoder_that_fails_has_no_result_and_the_others_have(
    cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    report = probe(cohort, ["broken", "A"], tmp_path / "out", patches=5)
    assert [row.name for row in report.rows] == ["A", "broken"]
    assert report.rows[1].reason == "encoder at http://gpu/: it does not answer."
    assert "does not answer" not in "\n".join(report.lines())  # the command prints failures


def test_an_encoder_finer_than_every_scan_says_so(
    cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    report = probe(cohort, ["A"], tmp_path / "out", patches=5, magnification=40)
    assert "sharper than the scan" in str(report.rows[0].reason)


def test_folds_test_every_slide(cohort: Path, tmp_path: Path, encoded: dict[str, int]):
    lines = [line.split(",") for line in cohort.read_text().splitlines()]
    table = cohort.parent / "no-split.csv"
    write_table(table, *(tuple(line[:3]) for line in lines))
    report = probe(table, ["A"], tmp_path / "out", patches=5, folds=3)
    assert report.runs == 3
    assert sum(report.classes.values()) == SLIDES
    assert len(report.rows[0].strengths) == 3


def test_a_part_without_usable_slides_is_an_error(
    cohort: Path, tmp_path: Path, encoded: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    lines = cohort.read_text().splitlines()
    table = cohort.parent / "no-train.csv"
    bad = []
    for line in lines[1:]:
        name, path, label, split = line.split(",")
        if split == "train" and label == "dark":
            path = f"missing-{name}.tif"
        bad.append(f"{name},{path},{label},{split}")
    table.write_text("\n".join([lines[0], *bad]) + "\n")
    with pytest.raises(ProbeError, match="no train slide of class 'dark' can be used"):
        probe(table, ["A"], tmp_path / "out", patches=5)


@pytest.mark.parametrize("any_mpp", [False, True])
def test_an_encoder_is_used_only_where_it_was_made_for(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_mpp: bool
):
    tiny = load_encoder("tiny")
    spec = replace(tiny.spec, mpp_range=(0.4, 0.6))
    monkeypatch.setattr(
        probe_run, "load_encoder", lambda name, **_: NetworkEncoder(spec, tiny.network)
    )
    options = {"patches": 2, "magnification": 10.0, "any_mpp": any_mpp}
    (row,) = probe(cohort, ["tiny"], tmp_path / "out", **options).rows
    assert (row.reason is None) == any_mpp
    assert any_mpp or "was made for 0.4 to 0.6 µm/px, and 10x has 1" in str(row.reason)


@pytest.mark.parametrize(
    ("names", "reason"), [(["A", "A"], "A is listed twice"), (["A", ""], "a name is empty")]
)
def test_a_list_of_encoders_is_checked(cohort: Path, tmp_path: Path, names: list[str], reason: str):
    with pytest.raises(ProbeError, match=reason):
        probe(cohort, names, tmp_path / "out")


def test_the_command_prints_a_table_and_what_is_next(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    out = tmp_path / "out"
    arguments = ("probe", cohort, "--encoders", "A,B", "--out", out, "--patches", 5)
    result = parfocal(*arguments)
    assert result.code == 0, result.err
    assert "4 test slides (dark 2, pale 2), up to 5 patches each" in result.out
    assert "256 px at 10x" in result.out
    assert "A and B: their difference is within the 95% interval" in result.out
    advice = "--models abmil,zoommil-hindsight --encoder A --out comparison"
    others = "run this also with B, which may be as good"
    assert f"Next: {others}: parfocal compare {cohort} {advice}\n" in result.err
    assert "fewer than 10 patients of a class" in result.out
    shown = json.loads(parfocal(*arguments, "--json").out)
    assert shown == json.loads((out / "probe.json").read_text())
    assert (shown["format"], shown["format_version"]) == ("parfocal probe", 1)
    assert shown["rows"][0]["scores"]["auroc_macro"]["value"] == 1.0
    assert shown["rows"][0]["macs_per_patch"] == load_encoder("tiny").macs_per_patch()


def test_the_command_ends_with_1_if_an_encoder_or_a_slide_failed(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path, encoded: dict[str, int]
):
    result = parfocal(
        *("probe", cohort, "--encoders", "A,broken", "--out", tmp_path / "out", "--patches", 5)
    )
    assert result.code == 1
    assert "parfocal: 1 of 2 encoders failed:" in result.err
    assert result.err.endswith(
        "Next: correct what failed, and run the same command again; finished results are kept\n"
    )
    assert "A  " in result.out
