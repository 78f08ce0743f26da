"""Workers that are actors of Ray, on this machine or on a cluster.

Ray is imported here only. It moves names of slides and short rows; pixels and features stay in the
files that the actors read and write.
"""

import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from parfocal.distribute.worker import Answer, PlanRunner, WorkerPlan

OBJECT_STORE_BYTES = 100 * 2**20  # near the least that Ray takes
LOOPBACK = "127.0.0.1"
LOCAL, AUTO = "local", "auto"
PATIENCE_S = 10.0  # for the end of an actor's function
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # do not hide GPUs from actors without a share
    "RAY_DEDUP_LOGS": "0",
}


class RayError(Exception):
    """Ray is not installed, cannot be reached, or does not fit."""


class RayWorkers:
    """Starts workers as actors of Ray; see `Workers`.

    Args:
        count: number of actors; None for as many as the cluster has room for.
        address: "local" to start Ray on this machine for the duration of the command, "auto" for
            the cluster that this machine belongs to, or the address of a cluster.
        cpus: number of cores that each actor reserves.
        gpus: number of GPUs that each actor reserves, such as 0.5; None for an equal share, at most
            1, of those that Ray has.
        devices: GPUs that a local Ray uses, as in CUDA_VISIBLE_DEVICES; none for all.
    """

    def __init__(
        self,
        count: int | None,
        *,
        address: str = LOCAL,
        cpus: float = 1,
        gpus: float | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self._count, self._address, self._devices = count, address, devices
        self._cpus, self._gpus = cpus, gpus
        self._ray: Any = None

    @property
    def count(self) -> int:
        """Number of actors to use; 1 if Ray has to be asked, and is not started yet."""
        return self._count or (self._room() if self._ray is not None else 1)

    @contextmanager
    def open(self, plan: WorkerPlan) -> Iterator[None]:
        """Start Ray, or connect to it, for a block; a Ray that is in use already is kept."""
        self._ray = _import_ray()
        started = not self._ray.is_initialized()
        with plan.shared_mark() as mark:
            try:
                if started:
                    self._connect()
                self._resources = {"num_cpus": self._cpus, "num_gpus": self._gpu_share()}
                self._plan, self._mark = plan, mark
                # No restarts: an item of an actor that died is handed to another one.
                self._actor = self._ray.remote(
                    **self._resources,
                    max_restarts=0,
                    max_task_retries=0,
                    max_concurrency=plan.in_flight + plan.queued,
                )(RayActor)
                yield
            finally:
                if started:
                    self._ray.shutdown()

    def start_worker(self, index: int) -> "RayWorker":
        """Start an actor; it waits until the cluster has room for it."""
        return RayWorker(self._ray, self._actor.remote(self._plan, self._mark))

    def wait(self, workers: Sequence["RayWorker"]) -> list[tuple["RayWorker", Answer]]:
        """Wait for answers of some actors."""
        of = {reference: worker for worker in workers for reference in worker.pending}
        references = list(of)
        self._ray.wait(references, num_returns=1)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        answers, dead = [], set()
        for reference in ready:
            worker = of[reference]
            if worker in dead:
                continue
            answer = worker.receive(reference)
            answers.append((worker, answer))
            if answer.died is not None:
                dead.add(worker)
        return answers

    def _connect(self) -> None:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": False,
        }
        logging.getLogger("ray").setLevel(logging.ERROR)  # it advises on the settings of clusters
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        if self._address == LOCAL:
            if self._devices:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices)
                options["num_gpus"] = len(self._devices)
            options |= {
                "address": LOCAL,
                "num_cpus": max(1, round((self._count or 1) * self._cpus)),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": LOOPBACK,
            }
        else:
            options["address"] = self._address
        try:
            self._ray.init(**options)
        except Exception as error:  # whatever Ray raises, it cannot be used
            raise RayError(_describe(self._address, error)) from error

    def _room(self) -> int:
        """Return how many actors the cluster has room for now."""
        found = self._ray.cluster_resources()
        gpus = (1 if found.get("GPU") else 0) if self._gpus is None else self._gpus
        rooms = [
            int(found.get(name, 0) / needed)
            for name, needed in (("CPU", self._cpus), ("GPU", gpus))
            if needed
        ]
        return max(1, min(rooms, default=1))

    def _gpu_share(self) -> float:
        """Return the number of GPUs that an actor reserves."""
        found = float(self._ray.cluster_resources().get("GPU", 0))
        if self._gpus is None:
            return 1 / max(1, math.ceil(self.count / found)) if found else 0.0
        if not found:
            where = "this machine" if self._address == LOCAL else "the Ray cluster"
            raise RayError(f"Ray finds no GPU on {where}; leave --gpus-per-worker out.")
        return self._gpus


class RayActor:
    """The actor: a process of Ray that follows a plan; see `PlanRunner`."""

    def __init__(self, plan: WorkerPlan, mark: Path | None) -> None:
        self._runner = PlanRunner(plan, mark)
        self._running = threading.Semaphore(plan.in_flight)

    def prepare(self) -> Answer:
        """Check that this process fits, and build its function."""
        return self._runner.prepare()

    def process(self, item: str) -> Answer:
        """Process an item, after those that are in flight."""
        self._runner.announce(item)
        with self._running:
            return self._runner.process(item)

    def finish(self) -> None:
        """End the function, after the last item."""
        self._runner.close()


class RayWorker:
    """An actor of Ray, and what it owes; see `Worker`.

    Args:
        ray: the module.
        actor: handle of the actor.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.pending: set[Any] = {actor.prepare.remote()}

    def start(self, item: str) -> None:
        """Hand an item to the actor."""
        self.pending.add(self._actor.process.remote(item))

    def receive(self, reference: Any) -> Answer:
        """Return an answer, or how the actor ended."""
        self.pending.discard(reference)
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            return Answer(died=_first_sentence(error))
        except errors.RaySystemError as error:
            return Answer(died=_first_sentence(error))
        except errors.RayTaskError as error:  # the module is missing, or of another version
            raise RayError(
                f"a worker cannot run parfocal ({_first_sentence(error.cause)}). Install the same "
                "version on all machines of the cluster."
            ) from None
        assert isinstance(answer, Answer)
        return answer

    def close(self) -> None:
        """Kill the actor, after closing its function unless it works on an item."""
        if not self.pending:
            with suppress(Exception):  # it has died, or Ray has
                self._ray.get(self._actor.finish.remote(), timeout=PATIENCE_S)
        self._ray.kill(self._actor)


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 (takes a second, and is an extra)
        import ray.exceptions  # noqa: PLC0415
    except ImportError:
        raise RayError(
            "Ray is not installed; run pip install 'parfocal[ray]', or leave --ray out: --workers "
            "alone uses processes of this machine."
        ) from None
    return ray


def _describe(address: str, error: Exception) -> str:
    text = _first_sentence(error)
    if address == LOCAL:
        return f"Ray cannot start on this machine ({text}). Leave --ray out to use processes."
    if "version" in text.lower():
        return f"Ray at {address} does not fit ({text}). Install the same versions everywhere."
    return (
        f"no Ray cluster answers at {address} ({text}). Start one with `ray start --head`, or "
        "check the address; --ray local needs none."
    )


def _first_sentence(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]
