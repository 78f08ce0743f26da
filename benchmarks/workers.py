"""Measure workers: two over one, what they cost per slide, and the memory of the driver.

    python benchmarks/workers.py [--slides 24] [--repeats 3] [--ray local] [--cluster]

Painted slides are extracted, and predicted by an untrained model, by one worker on one core and by
two on two cores, with one thread of torch each. Patches are read while others are encoded, so a
worker that is left all cores (--unpinned) uses more than one of them. The first item begins when
all workers are ready, so start-up is a column of its own. The driver's cost is measured with items
that do nothing: milliseconds for each, and the growth of its memory from 1,000 to 100,000 of them.
--cluster also runs the slides on a simulated cluster of 4 nodes of Ray, of which one is killed in
the middle, and compares the files with those of one process.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from parfocal.distribute.engines import WorkerEngine
from parfocal.distribute.pool import Workers, run_items
from parfocal.distribute.processes import ProcessWorkers
from parfocal.distribute.ray_workers import RayWorkers
from parfocal.distribute.worker import WorkerPlan
from parfocal.distribute.worklist import Distribution
from parfocal.encoders.loading import load_encoder
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.predict.folder import predict_slides
from parfocal.slide.synthetic.cohort import paint_cohort

SETTINGS = SlideSettings((2.5, 10.0))
ENCODER = "efficientnet-lite0"


def load() -> list[Any]:
    return [load_encoder(ENCODER, runtime="torch")] * 2


def untrained() -> Checkpoint:
    spec = load_encoder(ENCODER, runtime="torch").spec
    settings = {"in_dim": spec.dim, "num_classes": 2, "num_magnifications": 2, "k": 8}
    return Checkpoint(
        model=build_model("zoommil", settings).eval(),
        model_name="zoommil",
        model_settings=settings,
        labels=("normal", "tumor"),
        encoders=(spec, spec),
        slide=SETTINGS,
        training=TrainingProvenance(seed=0, epoch=0),
    )


def workers_of(count: int, ray: str | None) -> Workers[Any]:
    return ProcessWorkers(count) if ray is None else RayWorkers(count, address=ray)


class Timed:
    """Notes when the workers are ready."""

    def __init__(self, workers: Workers[Any]) -> None:
        self.inner, self.count = workers, workers.count
        self.began, self.ready = time.perf_counter(), 0.0
        self.waiting: list[Any] = []

    def open(self, plan: WorkerPlan) -> Any:
        return self.inner.open(plan)

    def start_worker(self, index: int) -> Any:
        return self.inner.start_worker(index)

    def wait(self, workers: Any) -> Any:
        if self.ready:
            return self.inner.wait(workers)
        left, answers = list(workers), []
        while left:  # hold the first items back until all workers are ready
            for worker, answer in self.inner.wait(left):
                left.remove(worker)
                answers.append((worker, answer))
        self.ready = time.perf_counter()
        return answers


def run(paths: list[Path], out: Path, task: str, workers: Workers[Any]) -> tuple[float, float]:
    """Return seconds of start-up and of the work."""
    timed = Timed(workers)
    distribution = Distribution(engine=WorkerEngine(timed, threads=1))
    if task == "extract":
        files = [(path.stem, path, None) for path in paths]
        encoder = load()
        timed.began = time.perf_counter()
        result = extract_cohort(
            *(files, out),
            encoder=encoder,
            load_encoders=load,
            settings=SETTINGS,
            distribution=distribution,
        )
        assert len(result.done) == len(paths), result
    else:
        torch.manual_seed(0)
        trained = untrained()
        timed.began = time.perf_counter()
        found = predict_slides(paths, trained, out, device="cpu", distribution=distribution)
        assert len(list(found)) == len(paths)
    return timed.ready - timed.began, time.perf_counter() - timed.ready


def nothing() -> Callable[[str], str]:
    return str.upper


def cost_of_items(workers: Workers[Any]) -> dict[str, float]:
    """Return the milliseconds of an item that does nothing, and the driver's growth in MiB."""
    rows: Iterator[Any] = run_items(map(str, range(100_000)), WorkerPlan(nothing), workers)
    list(islice(rows, 1_000))
    start, before = time.perf_counter(), memory()
    count = sum(1 for _ in rows)
    return {
        "ms": 1000 * (time.perf_counter() - start) / count,
        "growth_mib": memory() - before,
    }


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cluster(paths: list[Path], out: Path, expected: dict[str, bytes]) -> None:
    """Extract on a simulated cluster, and kill a node in the middle."""
    import ray  # noqa: PLC0415 (an extra)
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [simulated.add_node(num_cpus=1) for _ in range(3)]
    ray.init(address=simulated.address, log_to_driver=False)
    try:
        files = [(path.stem, path, None) for path in paths]
        engine = WorkerEngine(KillsNode(RayWorkers(4), lambda: simulated.remove_node(nodes[-1])), 1)
        result = extract_cohort(
            *(files, out),
            encoder=load(),
            load_encoders=load,
            settings=SETTINGS,
            distribution=Distribution(engine=engine),
        )
        found = {path.name: path.read_bytes() for path in out.glob("*.h5")}
        assert found == expected, sorted(found.keys() ^ expected.keys())
        print(f"cluster of 4 nodes, one killed: {len(result.done)} of {len(paths)} slides, equal")
    finally:
        ray.shutdown()
        simulated.shutdown()


class KillsNode(Timed):
    """Kills a node of the cluster when a third of its answers are there."""

    def __init__(self, workers: Workers[Any], kill: Callable[[], None]) -> None:
        super().__init__(workers)
        self.kill, self.answers = kill, 0

    def wait(self, workers: Any) -> Any:
        answers = super().wait(workers)
        before, self.answers = self.answers, self.answers + len(answers)
        if before < 8 <= self.answers:
            self.kill()
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--size", type=int, default=2560)
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many runs")
    parser.add_argument("--ray", help="local or an address; default: processes")
    parser.add_argument("--unpinned", action="store_true", help="leave every worker all cores")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paint_cohort(folder / "slides", slides=options.slides, seed=0, size=options.size, mpp=1.0)
        paths = sorted((folder / "slides").rglob("*.tif"))
        assert len(paths) == options.slides
        cores = sorted(os.sched_getaffinity(0))
        print("| task | workers | start-up, s | work, s | slides per minute | over one |")
        print("|---|---|---|---|---|---|")
        for task in ("extract", "predict"):
            seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
            for _ in range(options.repeats):  # in turn, since machines are noisy
                for count, runs in seconds.items():
                    if not options.unpinned:
                        os.sched_setaffinity(0, cores[:count])  # inherited by the workers
                    out = folder / f"{task}-{count}"
                    shutil.rmtree(out, ignore_errors=True)
                    runs.append(run(paths, out, task, workers_of(count, options.ray)))
            ratios = [one[1] / two[1] for one, two in zip(*seconds.values(), strict=True)]
            for count, runs in seconds.items():
                started, worked = (median(each) for each in zip(*runs, strict=True))
                found[f"{task}-{count}"] = {"start": started, "work": worked}
                ratio = 1.0 if count == 1 else median(ratios)
                rate = 60 * len(paths) / worked
                print(f"| {task} | {count} | {started:.1f} | {worked:.1f} | ", end="")
                print(f"{rate:.1f} | {ratio:.2f} |", flush=True)
            found[f"{task}-ratios"] = ratios
            print(f"ratios of {task}:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
        one, two = (
            {path.name: path.read_bytes() for path in (folder / f"extract-{count}").glob("*.h5")}
            for count in (1, 2)
        )
        assert one == two
        if options.cluster:
            cluster(paths, folder / "cluster", one)
    found["items"] = cost_of_items(workers_of(2, options.ray))
    print(f"{found['items']['ms']:.2f} ms per item that does nothing; the driver grew by ", end="")
    print(f"{found['items']['growth_mib']:.1f} MiB from 1,000 to 100,000 items")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
