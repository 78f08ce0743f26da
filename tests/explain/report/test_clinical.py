"""Charts of net benefit, survival and lesions found, and the tables beside them."""

from dataclasses import asdict

import numpy as np

from parfocal.explain.report.clinical import clinical_charts
from parfocal.metrics import SlideDetections, decision_curve, froc, risk_groups


def test_each_chart_has_its_lines_and_a_title():
    generator = np.random.default_rng(0)
    truth, time = generator.random(30) < 0.5, generator.exponential(size=30)
    curve = decision_curve(truth, np.clip(truth * 0.3 + generator.random(30) * 0.6, 0, 1))
    groups = risk_groups(generator.random(30), time, truth)
    lesions = froc([SlideDetections(2, (0.9, 0.8, 0.7), (0, -1, 1))])
    charts = clinical_charts(
        {
            "decision_curve": {"label": "tumor", **asdict(curve)},
            "survival": asdict(groups),
            "froc": asdict(lesions),
        }
    )
    titles = [title for title, _ in charts]
    assert titles[0] == "Net benefit of acting on tumor"
    assert titles[1].startswith("Survival by tertile of the predicted risk (log-rank p = ")
    assert titles[2] == "Lesions found (FROC, score 0.833 of 2 lesions)"
    assert "act on everyone" in str(charts[0][1])
    assert f"low risk ({groups.groups[0].events} of 10 with the event)" in str(charts[1][1])
    assert "false positives per slide" in str(charts[2][1])
    assert all("<svg" in str(chart) for _, chart in charts)


def test_an_evaluation_without_them_has_no_charts():
    undefined = asdict(risk_groups(np.ones(2), np.array([1.0, 2]), np.zeros(2, dtype=bool)))
    assert clinical_charts({}) == []
    assert clinical_charts({"froc": asdict(froc([]))}) == []
    ((title, _),) = clinical_charts({"survival": undefined})
    assert title == "Survival by predicted risk (undefined: all patients have the same risk)"
