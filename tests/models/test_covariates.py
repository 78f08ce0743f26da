"""Clinical covariates: how they become numbers, and that they are joined before the last layer."""

import logging

import pytest
import torch
from torch import nn

from parfocal.bag import StoredBag
from parfocal.models.abmil import ABMIL
from parfocal.models.contract import run_model
from parfocal.models.covariates import (
    CovariateError,
    add_to_logits,
    attach_covariates,
    covariate_logits,
    fit_covariates,
    parse_covariates,
)
from parfocal.models.covariatesonly import CovariatesOnly
from parfocal.models.unit import Unit, parse_unit, refuse_units
from parfocal.prediction import Prediction

ROWS = [
    {"age": "50", "sex": "F", "stage": "1"},
    {"age": "70", "sex": "M", "stage": "2"},
    {"age": "", "sex": "NA", "stage": "2"},
    {"age": "60,0", "sex": "F", "stage": "3"},
]


def test_numbers_are_standardized_and_categories_one_hot():
    encoding = fit_covariates(("age", "sex", "stage:category"), ROWS)
    assert encoding.input_names == (
        *("age", "age missing"),
        *("sex=F", "sex=M", "sex missing"),
        *("stage=1", "stage=2", "stage=3", "stage missing"),
    )
    std = (200 / 3) ** 0.5  # of 50, 70 and 60
    values = encoding.encode({"age": "75", "sex": "M", "stage": "3"}, "p1").tolist()
    assert values == pytest.approx([15 / std, 0, 0, 1, 0, 0, 0, 1, 0])
    assert encoding.encode(dict.fromkeys(encoding.names, ""), "p2").tolist() == [
        *(0, 1),
        *(0, 0, 1),
        *(0, 0, 0, 1),
    ]


@pytest.mark.parametrize(("column", "value"), [("sex", "X"), ("age", "old")])
def test_a_value_that_training_did_not_know_is_missing_with_a_warning(column, value, caplog):
    encoding = fit_covariates((column,), ROWS)
    with caplog.at_level(logging.WARNING):
        numbers = encoding.encode({column: value}, "p7").tolist()
    assert numbers == [0.0] * (len(numbers) - 1) + [1.0]
    assert f"p7: {column} '{value}' was not in training" in caplog.text


def test_equal_values_are_not_divided_by_zero():
    encoding = fit_covariates(("age",), [{"age": "50"}, {"age": "50"}])
    assert encoding.encode({"age": "51"}, "p").tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (("age",), [{"age": "5"}, {"age": "6o"}, {"age": "7"}], r"'6o' is not a number, and most"),
        (("age",), [{"age": "5.5"}, {"age": "1,250"}], r"'1,250' has a comma, and '5.5' a decimal"),
        (("sex:number",), ROWS, r"'F' is not a number"),
        (("age",), [{"age": ""}], r"no training slide has a value; leave the covariate out"),
        (("id",), [{"id": f"x{n}"} for n in range(60)], r"60 different texts, such as 'x0', are"),
        (
            ("age:numeric",),
            ROWS,
            r"unknown kind 'numeric'; write a column, or a column with number",
        ),
        (("age", "age"), ROWS, r"age is named twice"),
        (("",), ROWS, r"a column has no name"),
    ],
)
def test_columns_that_cannot_be_covariates_are_refused(names, rows, message):
    with pytest.raises(CovariateError, match=message):
        fit_covariates(names, rows)


def test_an_absent_column_is_refused():
    encoding = fit_covariates(("age", "sex"), ROWS)
    with pytest.raises(
        CovariateError, match=r"s1: no value of sex, a covariate of the model; give"
    ):
        encoding.encode({"age": "5"}, "s1")


def test_the_map_of_covariates_is_concatenation_before_the_last_layer():
    torch.manual_seed(0)
    encoding = fit_covariates(("age", "sex"), ROWS)
    model = ABMIL(4, 3, dim=8, hidden_dim=4).eval()
    attach_covariates(model, encoding, 3)
    nn.init.normal_(model.covariate_head.weight)
    bag, numbers = StoredBag([torch.randn(6, 4)]), encoding.encode(ROWS[1], "p")
    vectors: list[torch.Tensor] = []
    model.classifier.register_forward_hook(lambda layer, given, out: vectors.append(given[0]))
    joined = run_model(model, [bag], covariates=numbers[None]).logits
    last = nn.Linear(8 + 5, 3)
    last.weight.data = torch.cat([model.classifier.weight, model.covariate_head.weight], dim=1)
    last.bias.data = model.classifier.bias.data
    torch.testing.assert_close(joined, last(torch.cat([vectors[0], numbers])))


def test_before_training_covariates_change_nothing():
    torch.manual_seed(0)
    encoding, bag = fit_covariates(("age",), ROWS), StoredBag([torch.randn(6, 4)])
    model = ABMIL(4, 2, dim=8, hidden_dim=4).eval()
    alone = model(bag).logits
    attach_covariates(model, encoding, 2)
    assert torch.equal(run_model(model, [bag], covariates=torch.randn(1, 2)).logits, alone)


def test_a_model_with_covariates_does_not_run_without_them():
    model = CovariatesOnly(2)
    attach_covariates(model, fit_covariates(("age",), ROWS), 2)
    with pytest.raises(CovariateError, match=r"and none are given; use `parfocal evaluate`"):
        run_model(model, [StoredBag([torch.zeros(0, 0)])])


def test_each_slide_of_a_batch_gets_its_covariates():
    model = CovariatesOnly(2)
    attach_covariates(model, fit_covariates(("age",), ROWS), 2)
    model.covariate_head.weight.data = torch.eye(2)
    batch = Prediction.stack([Prediction(torch.zeros(2)), Prediction(torch.ones(2))])
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    joined = add_to_logits(batch, covariate_logits(model, given))
    assert joined.logits.tolist() == [[1, 2], [4, 5]]
    assert [each.logits.tolist() for each in joined.slides] == joined.logits.tolist()


def test_the_encoding_is_read_from_json_as_it_was_written():
    encoding = fit_covariates(("age", "sex"), ROWS)
    assert parse_covariates(encoding.to_dict()) == encoding
    unit = Unit("patient", "mean", encoding)
    assert parse_unit(unit.to_dict()) == unit
    assert Unit().to_dict() == {}
    assert parse_unit(None) == Unit()


@pytest.mark.parametrize(
    "content",
    [
        "age",
        {"per": "lab"},
        {"fusion": "sum"},
        {"covariates": "age"},
        {"covariates": [{"name": "age"}]},
        {"covariates": [{"name": "age", "kind": "number", "mean": 0, "std": 0}]},
    ],
)
def test_a_damaged_unit_is_refused(content):
    with pytest.raises(ValueError, match=r"unit|covariates"):
        parse_unit(content)


def test_what_is_defined_for_slides_refuses_patients_and_covariates():
    with pytest.raises(
        ValueError, match=r"an audit is for models that predict from one slide, and"
    ):
        refuse_units(Unit("patient"), "an audit")
    with pytest.raises(ValueError, match=r"predicts from age, too"):
        refuse_units(Unit(covariates=fit_covariates(("age",), ROWS)), "an audit")
    refuse_units(Unit(), "an audit")


@pytest.mark.parametrize("word", ["", "NA", "n/a", "#N/A", "-", "?"])
def test_words_for_missing_values_are_those_of_cohorts(word):
    assert fit_covariates(("sex",), ROWS).encode({"sex": word}, "p").tolist() == [0, 0, 1]
