"""Scores of predicted risks, against lifelines, R's published examples and plain loops."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index

from parfocal.metrics import (
    SURVIVAL_METRICS,
    SurvivalCurves,
    SurvivalPredictions,
    breslow,
    concordance,
    kaplan_meier,
    log_rank,
    risk_groups,
    survival_scores,
)
from parfocal.metrics.survival import _Scorer

# lifelines calls pandas as its version 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version")

# R's survival::aml, from Miller, "Survival Analysis", 1997; True: the event was observed.
MAINTAINED = ((9, 1), (13, 1), (13, 0), (18, 1), (23, 1), (28, 0), (31, 1), (34, 1), (45, 0))
MAINTAINED += ((48, 1), (161, 0))
NOT_MAINTAINED = ((5, 1), (5, 1), (8, 1), (8, 1), (12, 1), (16, 0), (23, 1), (27, 1), (30, 1))
NOT_MAINTAINED += ((33, 1), (43, 1), (45, 1))


def aml(group):
    time, event = np.array(group, dtype=float).T
    return time, event.astype(bool)


def random_predictions(n=60, *, seed=0, step=None, censored=0.4):
    """Return risks that go with the times; with `step`, times and risks are rounded to ties."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=n)
    time = generator.exponential(np.exp(-risk)) + 0.01
    if step:
        risk, time = np.round(risk / step) * step, np.ceil(time / step) * step
    event = generator.random(n) > censored
    return SurvivalPredictions(risk, time, event, tuple(map(str, range(n))))


def point(predictions, **options):
    scores = survival_scores(predictions, resamples=0, **options)
    return {name: score.value for name, score in scores.items()}


def test_the_concordance_is_that_of_r_on_its_examples():
    """R's survival, tests/concordance.Rout.save: counts of concordant, discordant and tied."""
    time, event = aml(MAINTAINED)
    x = np.array([1, 6, 2, 7, 3, 7, 3, 8, 4, 4, 5], dtype=float)
    ids = tuple(map(str, range(11)))
    assert concordance(SurvivalPredictions(-x, time, event, ids)) == pytest.approx(25 / 40)
    lung = load_lung()
    patients = tuple(map(str, lung.index))
    ecog = SurvivalPredictions(
        lung["ph.ecog"].to_numpy(),
        lung.time.to_numpy(dtype=float),
        lung.status.to_numpy() == 1,
        patients,
    )
    expected = (8392 + 7137 / 2) / (8392 + 4258 + 7137)
    assert concordance(ecog) == pytest.approx(expected)


@pytest.mark.parametrize("step", [None, 0.5])
def test_the_concordance_is_that_of_lifelines(step):
    given = random_predictions(step=step)
    expected = concordance_index(given.time, -given.risk, given.event)
    assert point(given)["concordance"] == pytest.approx(expected)
    opposite = SurvivalPredictions(-given.risk, given.time, given.event, given.groups)
    assert concordance(opposite) == pytest.approx(1 - expected)


def censoring(given, times, *, before):
    """Return the censoring curve by lifelines at, or just before, some times."""
    curve = KaplanMeierFitter().fit(given.time, ~given.event)
    return np.array([float(curve.predict(t - 1e-9 if before else t)) for t in times])


def test_unos_concordance_is_that_of_a_loop_over_pairs():
    given = random_predictions(40)
    weight = censoring(given, given.time, before=True) ** -2
    concordant = pairs = 0.0
    for i in np.flatnonzero(given.event):
        for j in np.flatnonzero(given.time > given.time[i]):
            pairs += weight[i]
            concordant += weight[i] * (given.risk[i] > given.risk[j])
    assert point(given)["concordance_uno"] == pytest.approx(concordant / pairs)


def test_without_censoring_unos_concordance_is_harrells():
    values = point(random_predictions(censored=-1))
    assert values["concordance_uno"] == pytest.approx(values["concordance"])


def test_the_time_dependent_auroc_is_that_of_a_loop_over_pairs():
    given = random_predictions(40, seed=3)
    weight = 1 / censoring(given, given.time, before=True)
    by_time = []
    times = np.sort(given.time[given.event])
    for share in np.arange(1, 10) / 10:
        at = times[int(np.ceil(share * len(times) - 1e-9)) - 1]
        above = total = 0.0
        for i in np.flatnonzero(given.event & (given.time <= at)):
            for j in np.flatnonzero(given.time > at):
                total += weight[i]
                above += weight[i] * (given.risk[i] > given.risk[j])
        by_time.append(above / total)
    assert point(given)["auroc_time"] == pytest.approx(np.mean(by_time))


def test_the_integrated_brier_score_is_that_of_a_loop_over_patients():
    given = random_predictions(30, seed=1)
    times = np.quantile(given.time, [0.1, 0.3, 0.5, 0.8])
    survival = np.exp(-np.exp(given.risk)[:, None] * times)
    weight = censoring(given, given.time, before=True)
    at_times = censoring(given, times, before=False)
    by_time = np.zeros(4)
    for k, t in enumerate(times):
        for i in range(30):
            if given.time[i] <= t and given.event[i]:
                by_time[k] += survival[i, k] ** 2 / weight[i] / 30
            elif given.time[i] > t:
                by_time[k] += (1 - survival[i, k]) ** 2 / at_times[k] / 30
    areas = np.diff(times) * (by_time[1:] + by_time[:-1]) / 2
    found = point(given, curves=SurvivalCurves(times, survival))["integrated_brier"]
    assert found == pytest.approx(areas.sum() / (times[-1] - times[0]))


def test_a_patient_that_is_drawn_twice_counts_twice():
    """A resample is a row of weights: it must equal the patients written out."""
    given = random_predictions(25, step=0.5)
    repeats = np.random.default_rng(5).multinomial(25, np.full(25, 1 / 25))
    rows = np.repeat(np.arange(25), repeats)
    written = SurvivalPredictions(
        given.risk[rows], given.time[rows], given.event[rows], tuple(map(str, range(25)))
    )
    scores = survival_scores(given, resamples=1, seed=5)
    expected = point(written)
    for name in ("concordance", "concordance_uno"):
        assert scores[name].resamples == 1
    resampled = _Scorer(given, None).scores(repeats[None].astype(float))
    for name in ("concordance", "concordance_uno"):
        assert resampled[name][0] == pytest.approx(expected[name])


def test_scores_have_intervals_over_patients():
    scores = survival_scores(random_predictions(), resamples=200)
    for name in ("concordance", "concordance_uno", "auroc_time"):
        score = scores[name]
        assert score.interval == "bootstrap"
        assert score.low < score.value < score.high
    assert scores["integrated_brier"].text == (
        "undefined: the model predicts risks, not survival curves"
    )


def one_patient_each(risk, time, event):
    ids = tuple(map(str, range(len(risk))))
    numbers = np.array(risk, dtype=float), np.array(time, dtype=float)
    return SurvivalPredictions(*numbers, np.array(event, dtype=bool), ids)


def test_what_cannot_be_scored_is_undefined_with_the_reason():
    censored = survival_scores(one_patient_each([1, 2, 3], [4, 5, 6], [0, 0, 0]))
    assert censored["concordance"].text == "undefined: no event was observed"
    none = survival_scores(one_patient_each([1, 2], [np.nan, np.nan], [1, 1]))
    assert {score.text for score in none.values()} == {"undefined: no risk with a known time"}
    last = survival_scores(one_patient_each([1, 2], [1, 2], [0, 1]))
    assert last["concordance"].text == "undefined: no slide was observed beyond an event"
    assert last["auroc_time"].value is None


def test_one_event_and_constant_risks_are_scored():
    one = point(one_patient_each([3, 2, 1], [4, 5, 6], [1, 0, 0]))
    assert (one["concordance"], one["concordance_uno"], one["auroc_time"]) == (1, 1, 1)
    constant = point(one_patient_each([1, 1, 1], [4, 5, 6], [1, 1, 0]))
    assert (constant["concordance"], constant["auroc_time"]) == (0.5, 0.5)


def test_an_unknown_time_is_left_out():
    with_gap = one_patient_each([3, 2, 9, 1], [4, 5, np.nan, 6], [1, 0, 1, 0])
    assert point(with_gap)["concordance"] == 1


def test_the_risk_of_a_patient_is_the_mean_of_its_slides():
    slides = SurvivalPredictions(
        np.array([1.0, 3, 5]), np.array([7.0, 7, 9]), np.array([True, True, False]), tuple("aab")
    )
    patients = slides.by_patient()
    assert patients.risk.tolist() == [2, 5]
    assert patients.groups == ("a", "b")
    other = SurvivalPredictions(slides.risk, np.array([7.0, 8, 9]), slides.event, slides.groups)
    with pytest.raises(ValueError, match="patient a has slides with different times or events"):
        other.by_patient()


def test_kaplan_meier_and_log_rank_are_those_of_r_on_aml():
    """survfit and survdiff(Surv(time, status) ~ x, aml): medians 31 and 23, chisq 3.4, p 0.07."""
    curves = [kaplan_meier("", *aml(group)) for group in (MAINTAINED, NOT_MAINTAINED)]
    assert [curve.median for curve in curves] == [31, 23]
    assert curves[0].survival[:3] == pytest.approx((0.909, 0.818, 0.716), abs=5e-4)
    time, event = (
        np.concatenate(parts) for parts in zip(aml(MAINTAINED), aml(NOT_MAINTAINED), strict=True)
    )
    statistic, p = log_rank(time, event, np.repeat([0, 1], [11, 12]))
    assert (statistic, p) == (pytest.approx(3.4, abs=0.05), pytest.approx(0.0653, abs=5e-5))


def test_the_log_rank_test_of_three_groups_is_that_of_lifelines():
    given = random_predictions(step=0.25)
    group = np.arange(60) % 3
    expected = multivariate_logrank_test(given.time, group, given.event)
    statistic, p = log_rank(given.time, given.event, group)
    assert statistic == pytest.approx(expected.test_statistic)
    assert p == pytest.approx(expected.p_value)


def test_patients_are_grouped_by_tertiles_of_the_risk():
    given = random_predictions(30, seed=4)
    result = risk_groups(given.risk, given.time, given.event)
    assert [(group.name, group.n) for group in result.groups] == [
        ("low risk", 10), ("medium risk", 10), ("high risk", 10),
    ]  # fmt: skip
    highest = np.argsort(given.risk)[-10:]
    curve = KaplanMeierFitter().fit(given.time[highest], given.event[highest])
    high = result.groups[2]
    assert high.survival == pytest.approx([curve.predict(t) for t in high.times])
    interval = curve.confidence_interval_survival_function_.loc[list(high.times)].to_numpy()
    for ends, column in ((high.low, 0), (high.high, 1)):
        for own, theirs in zip(ends, interval[:, column], strict=True):
            assert own is None or own == pytest.approx(theirs, abs=1e-6)


def test_groups_that_cannot_be_compared_have_the_reason():
    time, event = np.array([1.0, 2, 3]), np.array([True, True, False])
    constant = risk_groups(np.ones(3), time, event)
    assert (constant.p, constant.reason) == (None, "undefined: all patients have the same risk")
    censored = risk_groups(np.arange(3.0), time, np.zeros(3, dtype=bool))
    assert censored.reason == "undefined: no event was observed with several groups"
    assert [group.median for group in censored.groups] == [None] * 3
    assert risk_groups(np.ones(1), np.array([np.nan]), event[:1]).groups == ()


def test_the_baseline_hazard_is_that_of_lifelines():
    given = random_predictions(50)
    frame = {"time": given.time, "event": given.event, "x": given.risk}
    model = CoxPHFitter().fit(pd.DataFrame(frame), "time", "event")
    log_risk = model.params_["x"] * (given.risk - given.risk.mean())  # lifelines centers
    baseline = breslow(given.time, given.event, log_risk)
    expected = model.baseline_cumulative_hazard_.loc[list(baseline.times)].to_numpy()[:, 0]
    assert baseline.cumulative_hazard == pytest.approx(expected, rel=1e-4)
    times = np.array(baseline.times)[[3, 20]]
    survival = model.predict_survival_function(pd.DataFrame({"x": given.risk}), times).to_numpy().T
    assert baseline.survival(log_risk, times) == pytest.approx(survival, rel=1e-4)


def test_every_metric_has_a_label():
    assert set(survival_scores(random_predictions(9), resamples=2)) == set(SURVIVAL_METRICS)
