"""Two processes compute the gradients of one, over gloo on the loopback interface."""

import multiprocessing
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from parfocal.dataset.sampler import ShuffledSampler, epoch_seed
from parfocal.models import AttentionSampling, JointAttention, MagNet, MeanRGB
from parfocal.models.layers.shared_norm import SharedBatchNorm, share_statistics
from parfocal.prediction import Prediction
from parfocal.train.batches import DealtBatches, batches_of
from parfocal.train.ranks import ALONE, Ranks


class Coupled(nn.Module):
    """A model whose norm couples the slides of a batch, and one of whose layers is never used."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
            self.second, self.unused = nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x):
        h = self.norm(self.first(x).flatten(0, 1)).tanh().unflatten(0, x.shape[:2]).mean(dim=1)
        members = tuple(Prediction(row) for row in self.second(h))
        return Prediction.stack(members, {"spread": h.square().mean(dim=1)})

    def objective(self, prediction, target):
        """Return a loss that is not a mean over slides."""
        loss = nn.functional.cross_entropy(prediction.logits, target)
        return loss + prediction.terms["spread"].max() * prediction.logits.std(correction=0)


def batch(size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, 2, 4, generator=generator)  # two pictures of each slide
    return x, torch.arange(size) % 3


def step(model, ranks, size):
    """Compute the gradients of a batch, as `TrainingModule` does."""
    x, target = batch(size)
    rows = torch.tensor(ranks.part(range(size)), dtype=torch.int64)
    loss = None
    with ranks.working_on(size):
        if len(rows):
            output = model(x[rows])
            if ranks.are_several:
                loss = model.objective(*ranks.join(output, target[rows], size))
            else:
                loss = model.objective(output, target)
    if size < ranks.count:
        ranks.copy_buffers(model)
    if loss is not None:
        loss.backward()


def train_steps(model, ranks, sizes):
    """Return the summed gradients, and the buffers, after a few batches."""
    for size in sizes:
        step(model, ranks, size)
    if ranks.are_several:
        ranks.sum_gradients(model.parameters())
    gradients = {n: None if p.grad is None else p.grad for n, p in model.named_parameters()}
    return gradients, dict(model.named_buffers())


def follow(connection, rank, store, sizes):
    torch.set_num_threads(1)
    ranks, model = Ranks(rank, 2), Coupled()
    ranks.connect(store, torch.device("cpu"))
    share_statistics(model, ranks.total)
    found = train_steps(model, ranks, sizes)
    plain = [{k: None if v is None else v.tolist() for k, v in each.items()} for each in found]
    connection.send((plain, ranks.gather(rank)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_compute_the_gradients_and_statistics_of_one(tmp_path):
    sizes = (5, 4, 1)  # uneven, even, and less than one slide for each process
    processes, answers = [], []
    context = multiprocessing.get_context("fork")  # starts at once: nothing is imported again
    for rank in range(2):
        answer, other = context.Pipe()
        arguments = (other, rank, tmp_path / "store", sizes)
        processes.append(context.Process(target=follow, args=arguments, daemon=True))
        processes[-1].start()
        answers.append(answer)
    assert all(answer.poll(60) for answer in answers)
    (first, gathered), (second, _) = (answer.recv() for answer in answers)
    for process in processes:
        process.join()
    assert gathered == [0, 1]
    assert first == second
    for wanted, found in zip(train_steps(Coupled(), ALONE, sizes), first, strict=True):
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            if value is None:
                assert found[name] is None, name
            else:
                torch.testing.assert_close(torch.tensor(found[name]), value, msg=name)


@pytest.mark.parametrize(("shape", "affine"), [((7, 3), False), ((4, 3, 5, 2), True)])
def test_a_shared_norm_of_one_process_is_a_batch_norm(shape, affine):
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    usual, kept = (kind(3, affine=affine).double() for _ in range(2))
    for norm in (usual, kept):
        if affine:
            nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(0))
    shared = SharedBatchNorm(kept, ALONE.total)
    x, y = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y.data.copy_(x.data)
    for norm, given in ((usual, x), (shared, y)):
        norm(given).square().sin().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    if affine:
        torch.testing.assert_close(shared.weight.grad, usual.weight.grad)
        torch.testing.assert_close(shared.bias.grad, usual.bias.grad)
    torch.testing.assert_close(shared.state_dict(), usual.state_dict())
    torch.testing.assert_close(shared.eval()(y), usual.eval()(x))


def test_a_shared_norm_takes_numbers_of_half_precision():
    usual, shared = nn.BatchNorm2d(3), SharedBatchNorm(nn.BatchNorm2d(3), ALONE.total)
    x = torch.randn(4, 3, 5, 2).bfloat16()
    normed = shared(x)
    assert normed.dtype == torch.bfloat16
    torch.testing.assert_close(normed, usual(x.float()).bfloat16())


@pytest.mark.parametrize(
    "model",
    [
        lambda: MagNet(2, patches=(2, 2), backbone="efficientnet-lite0-stem", hidden_dim=4),
        lambda: JointAttention(2, magnifications=(2.5, 5), backbone="small"),
        lambda: AttentionSampling(2, backbone="small"),
        lambda: MeanRGB(2),
    ],
    ids=["magnet", "jsma", "attentionsampling", "meanrgb"],
)
def test_every_running_statistic_of_a_model_of_pixels_is_shared(model):
    shared = model()
    share_statistics(shared, ALONE.total)
    shared.train()
    for name, module in shared.named_modules():
        if hasattr(module, "running_var") and module.training:
            assert isinstance(module, SharedBatchNorm), name
        own = [key for key, _ in module.named_buffers(recurse=False) if key not in ("mean", "std")]
        if own and not isinstance(module, SharedBatchNorm) and module.training:
            assert module.batch_total == ALONE.total, name


@pytest.mark.parametrize("slides", [1, 4, 9, 12])
@pytest.mark.parametrize(("per_step", "count"), [(4, 2), (5, 2), (3, 3), (8, 3)])
def test_the_slides_of_a_step_are_dealt_once_each(slides, per_step, count):
    order = torch.randperm(slides, generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(range(slides), batch_size=1, sampler=order, collate_fn=list)
    dealt = [DealtBatches(loader, Ranks(rank, count), per_step) for rank in range(count)]
    lists = [list(each) for each in dealt]
    assert {len(each) for each in lists} == {len(dealt[0])}
    local = -(-per_step // count)  # batches of a process in a step
    steps = [order[start : start + per_step] for start in range(0, slides, per_step)]
    for number, wanted in enumerate(steps):
        own = [each[number * local : (number + 1) * local] for each in lists]
        assert sorted(p for batches in own for each in batches for p in each) == sorted(wanted)


def test_validation_slides_are_dealt_once_each():
    loaders = [batches_of(7, 2, None, ranks=Ranks(rank, 3), dealt=1) for rank in range(3)]
    seen = Counter(position for loader in loaders for each in loader for position in each)
    assert seen == Counter(range(7))


@pytest.mark.parametrize(("size", "count"), [(5, 2), (4, 4), (2, 3), (7, 3)])
def test_the_parts_of_a_batch_are_the_batch(size, count):
    parts = [Ranks(rank, count).part(list(range(size))) for rank in range(count)]
    assert [position for part in parts for position in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts))  # the first ones have slides


def test_each_process_draws_random_numbers_of_its_own():
    assert epoch_seed(0, 3) == epoch_seed(0, 3, rank=0)
    assert len({epoch_seed(0, epoch, rank) for epoch in range(3) for rank in range(3)}) == 9


def test_one_process_gets_all_batches():
    sampler = ShuffledSampler([], seed=0, epoch=lambda: 0)
    assert isinstance(batches_of(4, 2, sampler, ranks=ALONE, dealt=1), DataLoader)
    assert isinstance(batches_of(4, 2, sampler, ranks=Ranks(0, 2), dealt=None), DataLoader)
    assert isinstance(batches_of(4, 1, sampler, ranks=Ranks(0, 2), dealt=4), DealtBatches)
