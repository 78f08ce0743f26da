"""Options that spread a command over threads, processes, GPUs and machines."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parfocal.cli.checks import ArgumentError, checked, finite_number
from parfocal.printable import counted

if TYPE_CHECKING:
    from parfocal.distribute.distribution import Engine
    from parfocal.distribute.pool import Workers as WorkerStarter
    from parfocal.models.checkpoint import Checkpoint

LOCAL, AUTO, OFF = "local", "auto", "off"
MAX_CORES = 2**16
IN_FLIGHT = 16  # slides that fill the batches of a large GPU; see docs/benchmarks.md


def check_ray(text: str) -> None:
    """Check that a text says where Ray runs; whether a cluster answers there is checked later.

    Raises:
        ValueError: it does not.
    """
    if text not in (LOCAL, AUTO, OFF) and ":" not in text:
        raise ValueError(
            f"{text!r} is not known; use local, auto, off, or the address of a cluster (HOST:PORT)."
        )


def _check_gpus(text: str) -> None:
    names = [part.strip() for part in text.split(",")]
    if not all(name.isascii() and name.isdigit() for name in names):
        raise ValueError(f"{text!r} is not a list of GPUs; write their numbers, such as 0,1.")


Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of processes that share the work. Default: one for each of --gpus, otherwise "
        "only this process.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Where to run the workers as Ray actors: local, auto (the cluster of this machine) or "
        "an ADDRESS; off for plain processes. Default: local if Ray is installed.",
        callback=checked(check_ray),
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="GPUs of this machine to use, such as 0,1.",
        callback=checked(_check_gpus),
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        metavar="X",
        help="GPUs that each Ray actor reserves, such as 0.5 or 1.",
        callback=finite_number,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of CPU threads of each process. Default: its share of the cores.",
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of devices that train one model together: GPUs, or processes on a CPU.",
    ),
]
InFlight = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of slides that each process works on at once, to fill the batches of a "
        "GPU. Default: 1 on a CPU, more on a GPU.",
    ),
]


def worker_engine(
    *,
    workers: int | None = None,
    ray: str | None = None,
    gpus: str | None = None,
    gpus_per_worker: float | None = None,
    threads: int | None = None,
    in_flight: int | None = None,
    device: str = "auto",
    gpu_in_flight: int = 1,
) -> "Engine | None":
    """Return the engine for the options; None to work in this process.

    Args:
        workers: number of processes.
        ray: where Ray runs.
        gpus: GPUs of this machine.
        gpus_per_worker: number of GPUs that each actor reserves.
        threads: number of threads of each process, this one included.
        in_flight: number of slides that each process works on at a time.
        device: device of the command.
        gpu_in_flight: default of `in_flight` on a GPU.

    Raises:
        ArgumentError: the options do not go together, or name a GPU that does not exist.
    """
    from parfocal.distribute.engines import ThreadEngine, WorkerEngine
    from parfocal.threads import limit_threads, thread_count

    devices = _existing_gpus(gpus, device)
    count = workers or len(devices) or None
    is_remote = ray not in {None, LOCAL, OFF}
    if is_remote and devices:
        raise ArgumentError(
            "--gpus selects GPUs of this machine; on a cluster, use --gpus-per-worker."
        )
    if threads is not None:
        limit_threads(threads)
    if in_flight is None:
        in_flight = gpu_in_flight if _uses_gpu(device, gpus_per_worker) else 1
    if count is None and ray in {None, OFF}:
        if gpus_per_worker is not None:
            raise ArgumentError("--gpus-per-worker needs --workers or --ray.")
        return ThreadEngine(in_flight) if in_flight > 1 else None
    share = threads
    if share is None:
        share = 1 if is_remote else max(1, thread_count(MAX_CORES) // (count or 1))
    uses_ray = ray != OFF if ray is not None else find_spec("ray") is not None
    starter: WorkerStarter[Any]
    if uses_ray:
        from parfocal.distribute.ray_workers import RayWorkers

        place = f"actors of Ray ({ray or LOCAL})"
        starter = RayWorkers(
            count, address=ray or LOCAL, cpus=share, gpus=gpus_per_worker, devices=devices
        )
    else:
        from parfocal.distribute.processes import ProcessWorkers

        assert count is not None
        place = "processes of this machine"
        starter = ProcessWorkers(count, gpus=devices)
    number = "as many workers as fit" if count is None else counted(count, "worker")
    return WorkerEngine(
        starter,
        share,
        in_flight,
        threads_are_chosen=threads is not None,
        description=f"{number}: {place}, each with {counted(share, 'thread')}",
    )


def uses_workers(engine: "Engine | None") -> bool:
    """Return whether an engine works in other processes."""
    from parfocal.distribute.engines import WorkerEngine

    return isinstance(engine, WorkerEngine)


def slides_in_flight(trained: "Checkpoint", requested: int | None) -> int:
    """Return how many slides a model should have in flight on a GPU.

    Raises:
        ArgumentError: more than one is requested, and the model runs on one slide at a time.
    """
    if trained.encoders and not trained.traits.random:
        return IN_FLIGHT
    if requested is not None and requested > 1:
        raise ArgumentError(
            f"--in-flight {requested}: model {trained.model_name} works on one slide at a time, "
            "because it encodes patches itself or draws random numbers; use --workers."
        )
    return 1


def _uses_gpu(device: str, gpus_per_worker: float | None) -> bool:
    """Return whether the workers encode on a GPU."""
    if device != "auto" or gpus_per_worker is not None:
        return device.startswith("cuda") or (device == "auto" and gpus_per_worker is not None)
    import torch

    return torch.cuda.is_available()


def _existing_gpus(text: str | None, device: str) -> tuple[str, ...]:
    """Return the GPUs of --gpus, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ArgumentError: one of them does not exist.
    """
    if text is None:
        return ()
    import os

    import torch

    if device not in {"auto", "cuda"}:
        raise ArgumentError(f"--gpus {text} and --device {device} exclude each other.")
    names = [part.strip() for part in text.split(",")]
    found = torch.cuda.device_count()
    if not found:
        raise ArgumentError(
            f"--gpus {text}: torch {torch.__version__} finds no CUDA device on this machine; leave "
            "--gpus out to use the CPU."
        )
    missing = [name for name in names if int(name) >= found]
    if missing:
        raise ArgumentError(
            f"--gpus {text}: there is no GPU {missing[0]}; this machine has {found}, from 0 to "
            f"{found - 1}."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(visible[int(name)] if len(visible) >= found else name for name in names)
