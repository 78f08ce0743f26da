"""Training on partial bags."""

import torch
import torch.nn.functional as F  # noqa: N812
from tests.models.test_budget import painted_bag, zooming_model

from parfocal.models.limited_bag import LimitedBag, Visited
from parfocal.models.random_limit import RandomLimit

EXISTS = torch.ones(4, dtype=torch.bool)


def test_half_of_the_steps_visit_all_and_the_others_end_anywhere():
    ends = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        limit = RandomLimit(2, generator)
        select = [
            limit.choose(painted_bag(), step, lambda *_: torch.eye(4), torch.arange(4.0), EXISTS)
            for step in range(2)
        ]
        ends.append(tuple(0 if each is None else len(each) for each in select))
    full = ends.count((4, 4)) / len(ends)
    assert abs(full - 0.5) < 4 * (0.25 / len(ends)) ** 0.5
    assert {(count, 0) for count in range(4)} | {(4, count) for count in range(5)} == set(ends)


def test_the_patches_with_the_highest_scores_are_kept():
    limit = RandomLimit(1, torch.Generator())
    limit._last_zoom, limit._share = 0, 0.5
    scores = torch.tensor([0.1, 0.4, 0.3, 0.2])
    select = limit.choose(painted_bag(), 0, lambda *_: torch.eye(4), scores, EXISTS)
    assert select.argmax(dim=1).tolist() == [1, 2]


def test_a_model_trains_on_partial_bags():
    for settings in ({"hindsight": True}, {}):
        model = zooming_model(**settings).train()
        generator = torch.Generator().manual_seed(1)
        for _ in range(6):
            limit = RandomLimit(2, generator)
            prediction = model(LimitedBag(painted_bag(), limit, Visited()))
            loss = model.objective(prediction, torch.tensor(1), F.cross_entropy)
            loss.backward()
            assert loss.isfinite()
