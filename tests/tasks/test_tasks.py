import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.dataset import CohortError, CohortSlide
from parfocal.evaluate.task_scores import score_text
from parfocal.tasks import (
    Answer,
    build_task,
    mean_answer,
    parse_task,
    read_task_cohort,
    stored_task,
)
from parfocal.tasks.ordinal import ordinal_loss
from parfocal.tasks.registry import shared_by_folds
from parfocal.train.selection import can_select, warn_unmeasured


def slide(number=0, label="", patient=None, **values):
    cells = {column: str(value) for column, value in values.items()}
    name = f"s{number}"
    return CohortSlide(name, Path(f"{name}.svs"), label, patient or name, number + 2, values=cells)


def test_the_usual_task_is_stored_as_nothing():
    assert stored_task(build_task(labels=("a", "b"))) is None


@pytest.mark.parametrize(
    "task",
    [
        build_task("classification", target=["msi"], labels=("no", "yes")),
        build_task("ordinal", target=["grade"], labels=("0", "1", "2")),
        build_task("multilabel", target=["er", "pr"]),
        build_task("regression", target=["a", "b"]),
        build_task("survival", time="t", event="e"),
        build_task("hazards", time="t", event="e", time_bins=3),
        build_task("regression", target=["a", "g:ordinal"], time=None),
    ],
    ids=lambda task: task.name,
)
def test_a_task_is_read_as_it_was_stored(task):
    assert parse_task(stored_task(task)) == task


def test_a_regression_answers_in_the_unit_of_its_column():
    slides = [slide(n, mm2=value) for n, value in enumerate((1, 3, 5))]
    task = build_task("regression", target=["mm2"]).prepared(slides).fitted(slides)
    deviation = math.sqrt(8 / 3)
    assert task.answer(torch.tensor([1.0])).outputs == pytest.approx({"mm2": 3 + deviation})
    targets = torch.stack([task.encode(each) for each in slides])
    loss = task.loss(torch.zeros(3, 1), targets)
    assert loss.item() == pytest.approx(1)  # the variance of standardized values


def test_missing_numbers_have_no_part_in_the_loss():
    slides = [slide(0, a=1, b=""), slide(1, a=2, b=4), slide(2, a=3, b=8)]
    task = build_task("regression", target=["a", "b"]).prepared(slides).fitted(slides)
    logits = torch.zeros(1, 2, requires_grad=True)
    task.loss(logits, task.encode(slides[0])[None]).backward()
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, 0] != 0


def test_missing_labels_have_no_part_in_the_loss():
    task = build_task("multilabel", target=["er", "pr"])
    logits = torch.tensor([0.3, 5.0])
    loss = task.loss(logits, task.encode(slide(er=1, pr="NA")))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))


def test_the_loss_of_two_ordered_classes_is_the_cross_entropy():
    logits, target = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(ordinal_loss(logits, target), F.cross_entropy(logits, target))


def test_the_loss_of_ordered_classes_is_the_mean_of_their_thresholds():
    logits = torch.tensor([0.2, -1.0, 0.7])
    p = logits.softmax(0).tolist()
    expected = -(math.log(p[1] + p[2]) + math.log(p[0] + p[1])) / 2  # class 1: above 0, not above 1
    assert ordinal_loss(logits, torch.tensor(1)).item() == pytest.approx(expected)


def test_a_farther_class_costs_more():
    logits = torch.tensor([4.0, 0.0, 0.0])
    near, far = (ordinal_loss(logits, torch.tensor(c)) for c in (1, 2))
    assert far > near


def test_hazards_have_the_likelihood_of_each_interval():
    events = [slide(n, t=t, e=1) for n, t in enumerate((2, 4, 6, 8))]
    task = build_task("hazards", time="t", event="e", time_bins=2).fitted(events)
    assert task.edges == (5.0,)
    logits = torch.tensor([0.4, -0.3])
    h = logits.sigmoid().tolist()
    cases = {
        (3, 1): h[0],
        (7, 1): (1 - h[0]) * h[1],
        (2, 0): 1,  # before the middle of the first interval: nothing is known
        (3, 0): 1 - h[0],
        (50, 0): 1 - h[0],  # the last interval has no middle
    }
    for (time, event), likelihood in cases.items():
        loss = task.loss(logits, task.encode(slide(t=time, e=event)))
        assert loss.item() == pytest.approx(-math.log(likelihood)), (time, event)
    answer = task.answer(logits)
    assert answer.outputs == pytest.approx({"risk": h[0], "survival_at_5": 1 - h[0]})


def test_several_targets_add_up_without_the_missing_ones():
    slides = [slide(n, area=n, kind="ab"[n % 2], t=n + 1, e=1) for n in range(4)]
    slides.append(slide(4, area="", kind="", t=9, e=1))
    task = build_task(
        "survival", target=["area:regression", "kind:classification"], time="t", event="e"
    )
    task = task.prepared(slides).fitted(slides)
    assert task.output_names == ("risk", "area", "kind=a", "kind=b")
    assert task.compares_slides
    logits, targets = torch.randn(5, 4), torch.stack([task.encode(each) for each in slides])
    survival, regression, _ = task.parts
    expected = (
        survival.loss(logits[:, :1], targets[:, :2])
        + regression.loss(logits[:4, 1:2], targets[:4, 2:3])
        + F.cross_entropy(logits[:4, 2:], targets[:4, 3].long())
    )
    torch.testing.assert_close(task.loss(logits, targets), expected)
    answer = task.answer(logits[0])
    assert sum(answer.outputs[f"kind={each}"] for each in "ab") == pytest.approx(1)
    scores = task.scores(slides, [task.answer(row) for row in logits], resamples=0)
    assert {"concordance/t", "r2/area", "auroc_macro/kind", "auroc/kind=a"} <= scores.keys()


@pytest.mark.parametrize(
    ("task", "beginnings"),
    [
        (
            build_task("classification", target=["kind", "area:regression"]),
            ["weighted F1 of kind ", "R² of area "],
        ),
        (
            build_task("regression", target=["area", "other"]),
            ["R² of area ", "R² of other ", "mean absolute error of area "],
        ),
        (build_task("regression", target=["area"]), ["R² ", "mean absolute error "]),
        (build_task("multilabel", target=["er", "pr"]), ["macro AUROC ", "AUROC of er "]),
    ],
)
def test_the_line_of_scores_has_each_target(task, beginnings):
    slides = [slide(n, kind="ab"[n % 2], area=n, other=-n, er=n % 2, pr=n // 2) for n in range(4)]
    task = task.prepared(slides).fitted(slides)
    logits = torch.randn(4, len(task.output_names))
    scores = task.scores(slides, [task.answer(row) for row in logits], resamples=0)
    texts = score_text(task, scores).split(", ")
    assert all(text.startswith(begin) for text, begin in zip(texts, beginnings, strict=False))
    assert len(texts) == min(4, len(scores))


def test_survival_has_the_baseline_hazard_of_its_training_slides():
    slides = [slide(n, t=n + 1, e=int(n != 1)) for n in range(3)]
    risks = [0.5, 0.0, -0.5]
    task = build_task("survival", time="t", event="e")
    task = task.completed(slides, [torch.tensor([risk]) for risk in risks])
    first = 1 / sum(math.exp(risk) for risk in risks)
    assert task.times == (1, 3)
    assert task.hazard == pytest.approx((first, first + 1 / math.exp(-0.5)))
    curves = task.curves([task.answer(torch.tensor([0.5]))])
    assert curves.survival[0, 0] == pytest.approx(math.exp(-first * math.exp(0.5)))
    assert parse_task(stored_task(task)) == task


def test_answers_of_a_patient_are_averaged():
    task = build_task("survival", time="t", event="e")
    answers = [task.answer(torch.tensor([risk])) for risk in (1.0, 2.0)]
    assert mean_answer(answers).outputs == {"risk": 1.5}


SURVIVAL = {"name": "survival", "time": "months", "event": "dead"}
BAD_CELLS = [
    (
        "survival",
        {"months": "-3", "dead": 1},
        "row 2: months is -3, but a time .* has to be above 0",
    ),
    ("survival", {"months": "0", "dead": 1}, "row 2: months is 0"),
    ("survival", {"months": "", "dead": 1}, "row 2: months is missing for slide s0"),
    ("survival", {"months": "5", "dead": ""}, "row 2: dead is missing for slide s0"),
    ("survival", {"months": "5", "dead": "2"}, "row 2: dead '2' is neither 0 .* nor 1 .the event"),
    (
        "survival",
        {"months": "long", "dead": 1},
        "row 2: months 'long' is not a number.* without the unit",
    ),
    ("regression", {"area": "high"}, "row 2: area 'high' is not a number.*classification"),
    ("regression", {"area": "inf"}, "row 2: area 'inf' is not a number"),
    ("regression", {"area": "n/a"}, "row 2: area is missing for slide s0"),
    ("multilabel", {"er": "positive"}, "row 2: er 'positive' is neither 0"),
]


@pytest.mark.parametrize(("name", "cells", "message"), BAD_CELLS)
def test_a_bad_cell_is_refused(name, cells, message):
    times = {"time": "months", "event": "dead"} if name == "survival" else {"target": list(cells)}
    with pytest.raises(CohortError, match=message):
        build_task(name, **times).prepared([slide(0, **cells)])


def test_events_may_be_written_in_several_ways():
    task = build_task("survival", time="t", event="e")
    found = [
        task.encode(slide(t="3,5", e=text))[1].item() for text in ("1:DECEASED", "TRUE", "0.0")
    ]
    assert found == [1, 1, 0]


def test_a_patient_has_one_time():
    slides = [slide(0, patient="p", t=5, e=1), slide(1, patient="p", t=6, e=1)]
    with pytest.raises(CohortError, match="row 3: patient p has another t or e than in row 2"):
        build_task("survival", time="t", event="e").prepared(slides)


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        (build_task("survival", time="t", event="e"), [(3, 0), (4, 0)], "none of the 2 training"),
        (build_task("survival", time="t", event="e"), [(3, 0), (4, 1)], "no two patients can be"),
        (build_task("hazards", time="t", event="e"), [(3, 1), (4, 1)], "set train.time_bins lower"),
    ],
)
def test_too_few_events_are_refused(task, cells, message):
    with pytest.raises(CohortError, match=message):
        task.fitted([slide(n, t=time, e=event) for n, (time, event) in enumerate(cells)])


JOINT = build_task("regression", target=("grade:classification", "a"))


@pytest.mark.parametrize(
    ("task", "cells", "unmeasured", "selects"),
    [
        (
            build_task("survival", time="t", event="e"),
            [{"t": 3, "e": 0}, {"t": 4, "e": 0}],
            ("none of the 2 validation slides has an event (e = 1)",),
            False,
        ),
        (
            build_task("survival", time="t", event="e"),
            [{"t": 3, "e": 0}, {"t": 4, "e": 1}],
            ("none of the 2 validation slides has t above 4, the time of the first event",),
            False,
        ),
        (
            build_task("survival", time="t", event="e"),
            [{"t": 3, "e": 1}, {"t": 4, "e": 0}],
            (),
            True,
        ),
        (
            build_task("hazards", time="t", event="e").fitted(
                [slide(n, t=n + 1, e=1) for n in range(8)]
            ),
            [{"t": 9, "e": 0}],
            ("the only validation slide does not have an event (e = 1)",),
            True,
        ),
        (
            build_task("regression", target=["a", "b"]).fitted(
                [slide(n, a=n, b=n) for n in range(3)]
            ),
            [{"a": 1, "b": ""}, {"a": 1, "b": ""}],
            ("a is 1 on all 2 validation slides", "b is missing on all 2 validation slides"),
            True,
        ),
        (
            build_task("multilabel", target=["er", "pr"]),
            [{"er": "yes", "pr": 0}, {"er": 1, "pr": 1}],
            ("er is 1 on all 2 validation slides",),
            True,
        ),
        (
            build_task(labels=("a", "b", "c")),
            [{"label": "b"}, {"label": "b"}],
            ("none of the 2 validation slides has label a or c",),
            True,
        ),
        (
            JOINT.prepared([slide(n, grade="xy"[n % 2], a=n) for n in range(4)]).fitted(
                [slide(n, grade="xy"[n % 2], a=n) for n in range(4)]
            ),
            [{"grade": "x", "a": ""}, {"grade": "y", "a": ""}],
            ("a: missing on all 2 validation slides",),
            True,
        ),
    ],
)
def test_what_validation_slides_cannot_measure_is_said(task, cells, unmeasured, selects, caplog):
    slides = [slide(n, each.pop("label", ""), **each) for n, each in enumerate(map(dict, cells))]
    assert (task.unmeasured(slides), can_select(task, slides)) == (unmeasured, selects)
    warn_unmeasured(Path("run"), task, slides)
    follows = "best epoch is chosen without it" if selects else "weights of the last epoch are kept"
    assert (follows in caplog.text) == bool(unmeasured)
    assert all(each in caplog.text for each in unmeasured)


@pytest.mark.parametrize(
    ("arguments", "rows", "line"),
    [
        (
            {"name": "survival", "time": "t", "event": "e"},
            ("patient_id,t,e", "p,3,1", "p,3,1", "q,9,0", "r,5.5,1"),
            "e: 3 slides with an event (2 patients), 1 censored; t: 3 to 9, median 4.25 "
            "(4 slides of 3 patients)",
        ),
        (
            {"name": "regression", "target": ["a", "b"]},
            ("a,b", "1,7", "2.5,", "10,"),
            "a: 1 to 10, median 2.5; b: 7 to 7, median 7, 2 missing (3 slides, patients not given)",
        ),
        (
            {"name": "multilabel", "target": ["er", "pr"]},
            ("er,pr", "yes,0", "1,", "0,0"),
            "er: 2 yes, 1 no; pr: 0 yes, 2 no, 1 missing (3 slides, patients not given)",
        ),
        (
            {"name": "regression", "target": ["grade:classification", "a"]},
            ("grade,a", "low,1", "high,", ",3"),
            "grade: high 1, low 1, 1 missing; a: 1 to 3, median 2, 1 missing (3 slides, patients "
            "not given)",
        ),
        (
            {"target": ["grade"]},
            ("grade", "low", "high", "low"),
            "2 classes: high 1, low 2 (3 slides, patients not given)",
        ),
    ],
)
def test_a_cohort_is_counted_by_its_targets(arguments, rows, line, tmp_path, caplog):
    caplog.set_level("INFO")
    read_task_cohort(write_cohort(tmp_path, *rows), build_task(**arguments))
    assert caplog.messages == [f"cohort.csv: {line}"]


def test_folds_share_the_intervals_of_time():
    slides = [slide(n, t=n + 1, e=1, a=n) for n in range(8)]
    hazards = build_task("hazards", time="t", event="e")
    shared = shared_by_folds(hazards, slides)
    assert shared.fitted(slides[:5]) == shared == hazards.fitted(slides)
    assert hazards.fitted(slides[:5]) != shared
    several = build_task("hazards", time="t", event="e", target=["a:regression"])
    assert shared_by_folds(several, slides).parts[0] == shared
    assert shared_by_folds(JOINT, slides) == JOINT  # without intervals
    with pytest.raises(CohortError, match=r"8 events at 8 different times, .* 9 intervals"):
        shared_by_folds(build_task("hazards", time="t", event="e", time_bins=9), slides)


def test_a_target_that_no_training_slide_has_is_refused():
    slides = [slide(n, grade="xy"[n % 2], a="") for n in range(4)]
    with pytest.raises(CohortError, match="a: missing on all 4 training slides, so there is"):
        JOINT.prepared(slides).fitted(slides)


def test_a_comma_for_thousands_is_not_read_as_a_decimal_comma():
    message = r"row 3: a '1,250' has a comma, and '12.5' of row 2 a decimal point; write all"
    slides = [slide(0, a="12.5"), slide(1, a="1,250")]
    with pytest.raises(CohortError, match=message):
        build_task("regression", target=["a"]).prepared(slides)
    times = [slide(0, a="12.5", e=1), slide(1, a="1,250", e=1)]
    with pytest.raises(CohortError, match=message):
        build_task("survival", time="a", event="e").prepared(times)


def test_the_column_of_the_classes_is_named(tmp_path):
    path = write_cohort(tmp_path, "msi", "yes", "")
    with pytest.raises(CohortError, match="row 3: msi is empty; every slide needs one"):
        read_task_cohort(path, build_task(target=["msi"]))
    labels = build_task(target=["msi"], labels=["no", "maybe"])
    with pytest.raises(CohortError, match="unknown msi 'yes'; the classes are no, maybe"):
        read_task_cohort(write_cohort(tmp_path, "msi", "yes", "no"), labels)


def test_a_column_of_numbers_is_no_column_of_classes(tmp_path):
    path = write_cohort(tmp_path, "area", *map(str, range(12)))
    message = "area has 12 different values on 12 slides, such as .0., .* --task regression"
    with pytest.raises(CohortError, match=message):
        read_task_cohort(path, build_task(target=["area"]))


def test_a_constant_target_is_refused():
    slides = [slide(n, a=1, er=0) for n in range(3)]
    with pytest.raises(CohortError, match="a is the same on all 3 training slides"):
        build_task("regression", target=["a"]).fitted(slides)
    with pytest.raises(CohortError, match="er is always the same on the training slides"):
        build_task("multilabel", target=["er"]).fitted(slides)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "regression"}, "target: task regression needs the columns"),
        ({"name": "survival"}, "time: task survival needs the column of the time"),
        ({"name": "survival", "time": "t"}, "event: task survival needs"),
        ({"name": "survival", "time": "t", "event": "t"}, "'t' is also the column of the time"),
        ({"name": "regression", "target": ["a"], "time": "t"}, "task regression does not use them"),
        ({"name": "regression", "target": ["a", "a"]}, "column 'a' is there twice"),
        ({"name": "regression", "target": ["t:survival"]}, "with --time and --event"),
        ({"target": ["slide_id"]}, "target: column 'slide_id' identifies a slide or its part of"),
        ({"target": ["fold_1"]}, "target: column 'fold_1' identifies a slide or its part of"),
        (
            {"name": "survival", "time": "t", "event": "split"},
            "time, event: column 'split' identifies a slide",
        ),
        (
            {"name": "survival", "time": "t", "event": "e", "target": ["t:regression"]},
            "target: 't' is also the column of the time or the event",
        ),
        (
            {"name": "survival", "time": "t", "event": "e", "target": ["a"]},
            "with survival, .* needs its own task",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_task(**arguments)


def write_cohort(path, header, *rows):
    lines = [f"slide_id,path,{header}"]
    lines += [f"{n},{n}.svs,{row}" for n, row in enumerate(rows)]
    (path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return path / "cohort.csv"


def test_no_label_is_needed_without_classes(tmp_path):
    path = write_cohort(tmp_path, "months,dead", "3,1", "4,0")
    cohort = read_task_cohort(path, build_task("survival", time="months", event="dead"))
    assert cohort.labels == ()
    assert [each.split_group for each in cohort.slides] == ["event", "censored"]


def test_the_table_is_named_in_the_message(tmp_path):
    path = write_cohort(tmp_path, "months,dead", "3,1", "-4,0")
    with pytest.raises(CohortError, match=r"cohort.csv row 3: months is -4"):
        read_task_cohort(path, build_task("survival", time="months", event="dead"))


def test_a_missing_column_is_named(tmp_path):
    path = write_cohort(tmp_path, "months", "3", "4")
    with pytest.raises(CohortError, match=r"no column dead .found: slide_id, path, months."):
        read_task_cohort(path, build_task("survival", time="months", event="dead"))


def test_ordered_classes_that_are_numbers_are_ordered_as_such(tmp_path):
    path = write_cohort(tmp_path, "grade", *("10", "9", "10", "2"))
    cohort = read_task_cohort(path, build_task("ordinal", target=["grade"]))
    assert cohort.labels == ("2", "9", "10")


def test_ordered_classes_that_are_words_need_their_order(tmp_path):
    path = write_cohort(tmp_path, "grade", "benign", "3+3", "4+4")
    with pytest.raises(CohortError, match=r"cohort.csv grade: the order .* 3\+3, 4\+4, benign is"):
        read_task_cohort(path, build_task("ordinal", target=["grade"]))


def test_a_class_that_only_slides_outside_of_training_have_is_refused():
    slides = [slide(n, grade=g, age=50 + n) for n, g in enumerate(("low", "high", "low"))]
    task = build_task("regression", target=("grade:classification", "age")).prepared(slides)
    message = "no training slide of class 'high' of grade; move some of its patients to train"
    with pytest.raises(CohortError, match=message):
        task.fitted([slides[0], slides[2]])
    task.fitted(slides)


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_a_class_that_the_model_was_not_trained_on_is_refused(kind):
    trained = build_task(kind, target=("grade",), labels=("1", "2"))
    trained.prepared([slide(0, grade=1), slide(1)])
    with pytest.raises(CohortError, match="row 4: grade '3' is none of the classes 1, 2"):
        trained.prepared([slide(0, grade=1), slide(2, grade=3)])


def multilabel_answers(task, *probabilities):
    return [Answer(outputs=dict(zip(task.targets, each, strict=True))) for each in probabilities]


def test_the_mean_auroc_of_several_labels_has_an_interval():
    task = build_task("multilabel", target=["er", "pr"])
    slides = [slide(n, er=n % 2, pr=n // 2 % 2) for n in range(12)]
    rows = [(0.1 * (n % 7), 0.9 - 0.1 * (n % 5)) for n in range(12)]
    scores = task.scores(slides, multilabel_answers(task, *rows), resamples=200)
    macro = scores["auroc_macro"]
    assert next(iter(scores)) == "auroc_macro"
    assert macro.value == pytest.approx((scores["auroc/er"].value + scores["auroc/pr"].value) / 2)
    assert macro.low < macro.value < macro.high
    assert macro.interval == "bootstrap"
    same = [slide(n, er=1, pr=n % 2) for n in range(12)]
    missing = task.scores(same, multilabel_answers(task, *rows), resamples=10)["auroc_macro"]
    assert (missing.value, missing.reason) == (None, "undefined: a label has no AUROC")


def test_a_label_is_found_from_its_own_threshold_on():
    task = build_task("multilabel", target=["er", "pr"])
    (answer,) = multilabel_answers(task, (0.4, 0.6))
    assert task.describe(answer) == "pr"
    assert task.describe(answer, {"er": 0.3, "pr": 0.7}) == "er"
    assert task.describe(answer, {"er": 0.5, "pr": 0.7}) == "none"


@pytest.mark.parametrize(
    "task",
    [
        build_task("classification", labels=("0", "1")),
        build_task("ordinal", target=["g"], labels=("0", "1")),
        build_task("multilabel", target=["er", "pr"]),
        build_task("regression", target=["a"]),
        build_task("regression", target=["a", "b"]),
        build_task("survival", time="t", event="e"),
        build_task("classification", target=["g", "a:regression"], time=None),
    ],
    ids=lambda task: f"{task.name}-{len(task.columns)}",
)
def test_the_scores_of_a_comparison_are_those_of_an_evaluation(task):
    rng, slides = np.random.default_rng(0), []
    for n in range(12):
        cells = {"er": n % 2, "pr": n // 2 % 2, "a": n, "b": -n, "t": n + 1, "e": n % 3 // 2}
        cells |= {"g": n % 2}
        slides.append(slide(n, label=str(n % 2), **cells))
    slides[3] = slide(3, label="1", **(dict(slides[3].values) | {"a": "", "er": ""}))
    slides = [each for each in slides if task.known(each)]
    task = task.prepared(slides).fitted(slides)
    answers = [
        task.answer(torch.from_numpy(rng.normal(size=len(task.output_names)))) for _ in slides
    ]
    expected = task.scores(slides, answers, resamples=0)
    found = task.resamplable(slides, answers).weighted(np.ones((1, len(slides))))
    for name in task.compared:
        value = expected[name].value
        assert found[name][0] == pytest.approx(np.nan if value is None else value, nan_ok=True)
