"""Ten-fold cross-validation on the classic bags musk1 and elephant.

    python benchmarks/mil_bags.py BAGS [--models abmil abmil-plain] [--seeds 5]

BAGS contains musk1.csv and elephant.csv without headers: label and id of the bag, features. The
setup follows Ilse et al., ICML 2018, with the layers of MI-Net (Wang et al., Pattern Recognition
2018): 256, 128 and 64 units, then attention with 64 units; one bag per step, 100 epochs. The paper
does not give optimizer and learning rates, so they are those of MI-Net's code (yanyongluan/MINNs;
the values for elephant are from memory). Features are standardized on the training bags, and the
last epoch is evaluated. Accuracy is the mean over folds, ± the standard deviation of that mean over
seeds; the published numbers have the standard error.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.models import ABMIL, CLAM, DSMIL, MaxPooling, MeanPooling
from parfocal.models.contract import OwnObjective

FOLDS, EPOCHS, DIM = 10, 100, 64
MOMENTUM = 0.9
# Learning rate and weight decay.
TRAINING = {"musk1": (5e-4, 5e-3), "elephant": (1e-4, 5e-3)}
PUBLISHED = {
    ("musk1", "abmil-plain"): "0.892 ± 0.040",
    ("musk1", "abmil"): "0.900 ± 0.050",
    ("elephant", "abmil-plain"): "0.868 ± 0.022",
    ("elephant", "abmil"): "0.857 ± 0.027",
}

Bags = list[tuple[Tensor, int]]


class BagClassifier(nn.Module):
    """The first layers of the paper, then a MIL model."""

    def __init__(self, in_dim: int, model: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()
        )
        self.model = model

    def loss(self, rows: Tensor, label: int) -> Tensor:
        prediction = self.model(StoredBag([self.layers(rows)]))
        if isinstance(self.model, OwnObjective):
            return self.model.objective(prediction, torch.tensor(label), F.cross_entropy)
        return F.cross_entropy(prediction.logits[None], torch.tensor([label]))

    def predict(self, rows: Tensor) -> int:
        return int(self.model(StoredBag([self.layers(rows)])).logits.argmax())


def make(name: str) -> nn.Module:
    """Build a model with the widths of the paper."""
    shared = {"dim": DIM, "dropout": 0.0}
    return {
        "abmil": lambda: ABMIL(128, 2, **shared, hidden_dim=64, gated=True),
        "abmil-plain": lambda: ABMIL(128, 2, **shared, hidden_dim=64, gated=False),
        "clam": lambda: CLAM(128, 2, **shared, hidden_dim=64, num_instances=1),
        "dsmil": lambda: DSMIL(128, 2),
        "mean": lambda: MeanPooling(128, 2, **shared),
        "max": lambda: MaxPooling(128, 2, **shared),
    }[name]()


def read_bags(path: Path) -> Bags:
    rows, labels = defaultdict(list), {}
    with path.open(newline="") as file:
        for label, bag, *features in csv.reader(file):
            rows[bag].append([float(value) for value in features])
            labels[bag] = int(float(label) > 0)
    return [(torch.tensor(rows[bag]), labels[bag]) for bag in rows]


def accuracy(name: str, bags: Bags, training: tuple[float, float], seed: int) -> float:
    """Return the mean accuracy over ten folds."""
    order = torch.randperm(len(bags), generator=torch.Generator().manual_seed(seed)).tolist()
    # Sorted by class, so that every fold has both classes.
    by_class = sorted(order, key=lambda place: bags[place][1])
    scores = []
    for fold in range(FOLDS):
        held_out = set(by_class[fold::FOLDS])
        test = [bags[place] for place in held_out]
        scores.append(
            fold_accuracy(name, [bags[p] for p in order if p not in held_out], test, training, seed)
        )
    return fmean(scores)


def fold_accuracy(
    name: str, train: Bags, test: Bags, training: tuple[float, float], seed: int
) -> float:
    torch.manual_seed(seed)
    all_rows = torch.cat([rows for rows, _ in train])
    mean, spread = all_rows.mean(dim=0), all_rows.std(dim=0).clamp(min=1e-6)
    train, test = (
        [((rows - mean) / spread, label) for rows, label in part] for part in (train, test)
    )
    model = BagClassifier(all_rows.shape[1], make(name)).train()
    rate, decay = training
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=rate,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=decay,
        fused=True,
    )
    for _ in range(EPOCHS):
        for place in torch.randperm(len(train)).tolist():
            rows, label = train[place]
            optimizer.zero_grad()
            model.loss(rows, label).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return fmean(model.predict(rows) == label for rows, label in test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bags", type=Path)
    parser.add_argument("--models", nargs="+", default=["abmil", "abmil-plain"])
    parser.add_argument("--sets", nargs="+", default=list(TRAINING), choices=TRAINING)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    for data in arguments.sets:
        bags = read_bags(arguments.bags / f"{data}.csv")
        for name in arguments.models:
            accuracies = [
                accuracy(name, bags, TRAINING[data], seed) for seed in range(arguments.seeds)
            ]
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            published = PUBLISHED.get((data, name), "")
            print(
                f"{data:10}{name:13}{fmean(accuracies):.3f} ± {spread:.3f}   {published}",
                flush=True,
            )
            results.append({"set": data, "model": name, "accuracies": accuracies})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
