"""Rounds: the same answer as at once, and when to stop."""

import pytest
import torch
from tests.models.test_budget import painted_bag, zooming_model

from parfocal.bag import StoredBag
from parfocal.models.rounds import Deadline, Rounds
from parfocal.models.zoommil import ZoomMIL


@pytest.mark.parametrize("round_patches", [1, 5, 16, 1000])
@pytest.mark.parametrize("settings", [{}, {"hindsight": True}, {"scale_free": True}, {"k": [2, 5]}])
def test_rounds_of_any_size_end_with_the_answer_at_once_bit_by_bit(
    round_patches: int, settings: dict[str, object]
):
    model = zooming_model(**settings)
    with torch.no_grad():
        at_once = model(painted_bag())
        rounds = Rounds(model, painted_bag(), round_patches=round_patches).finish()
    assert torch.equal(rounds.logits, at_once.logits)
    for ours, theirs in zip(rounds.looks, at_once.looks, strict=True):
        assert torch.equal(ours.rows, theirs.rows)
        assert torch.equal(ours.score, theirs.score)
        assert (ours.selected is None) == (theirs.selected is None)
    assert torch.equal(rounds.rounds[-1].logits, at_once.logits)


def test_the_answer_after_a_round_is_that_of_the_patches_visited_so_far():
    model = zooming_model(k=[3, 3])
    fewer = zooming_model(k=[1, 3])
    fewer.load_state_dict(model.state_dict())
    bag = painted_bag()
    with torch.no_grad():
        rounds = Rounds(model, bag, round_patches=1)
        rounds.until(lambda done: "stop" if len(done) == 2 else None)
        one_parent = fewer(StoredBag(bag._tables[:2] + bag._tables[2:], valid=bag._valid))
    # Of the second look of the smaller model, the same patches; it then goes on to a third.
    assert rounds.prediction is not None
    assert torch.equal(rounds.prediction.looks[1].rows, one_parent.looks[1].rows)
    assert torch.equal(rounds.prediction.looks[1].score, one_parent.looks[1].score)
    assert len(rounds.prediction.looks) == 2


def test_each_round_visits_more_and_each_patch_has_the_round_of_its_first_visit():
    prediction = _finish(zooming_model(), 5)
    totals = [sum(each.patches) for each in prediction.rounds]
    assert totals == sorted(set(totals))
    assert {0, *range(len(totals))} == {
        number for look in prediction.looks for number in look.rounds.tolist()
    }
    assert prediction.looks[0].rounds.eq(0).all()


def test_stopping_reads_no_more():
    class Counting(torch.nn.Module):
        shape = torch.Size((144, 6))

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[int] = []

        def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
            self.rows += rows.tolist()
            return torch.ones(len(rows), 6)

    table = Counting()
    bag = StoredBag([torch.randn(9, 6), torch.randn(36, 6), table])
    with torch.no_grad():
        rounds = Rounds(zooming_model(), bag)
        prediction = rounds.until(lambda done: "enough" if len(done) == 2 else None)
        assert prediction.stop_reason == "enough"
        assert len(set(table.rows)) == 0  # two rounds reach only the middle magnification
        rounds.finish()
    assert len(set(table.rows)) == 3 * 4  # the children of k patches


def test_a_deadline_leaves_time_for_a_round_as_long_as_the_longest():
    times = iter([1.0, 3.0, 4.0, 6.5])
    deadline = Deadline(8.0, lambda: next(times))
    assert deadline([]) is None  # the first round read the lowest magnification
    assert deadline([]) is None  # 3 + 2
    assert deadline([]) is None  # 4 + 2
    reason = deadline([])  # 6.5 + 2.5
    assert reason == "after 6.50 s, another round may end after the limit of 8 s"


def _finish(model: ZoomMIL, round_patches: int):
    with torch.no_grad():
        return Rounds(model, painted_bag(), round_patches=round_patches).finish()
