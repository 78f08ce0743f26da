"""Choose the device that encoders and models run on."""

import torch

from parfocal.threads import thread_count


def choose_device(name: str) -> torch.device:
    """Return a device by name.

    If the process has a quota of CPU time, torch is limited to as many threads; it counts cores.

    Args:
        name: "cpu", "cuda", "cuda:1", or "auto" for the first CUDA device and, if there is none,
            the CPU.

    Raises:
        ValueError: the name is unknown, or the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = parse_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r}: torch {torch.__version__} finds no CUDA device; use cpu."
        )
    threads = torch.get_num_threads()
    if thread_count(threads) < threads:
        torch.set_num_threads(thread_count(threads))
    return device


def parse_device(name: str) -> torch.device:
    """Return a device by the name that torch has for it; whether it exists is not checked.

    Raises:
        ValueError: the name is unknown.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device {name!r} is not known; choose auto, cpu, cuda or cuda:1."
        ) from error
