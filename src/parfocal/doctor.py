"""Check an installation: versions, devices, readers, codecs, folders, network, a tiny slide."""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import torch

from parfocal.bag import Bag
from parfocal.distribute.batch_job import this_job
from parfocal.distribute.mounts import mount_of
from parfocal.distribute.shards import shard_from_environment
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.features.store import FeatureFile, feature_path
from parfocal.models import MODELS
from parfocal.printable import counted
from parfocal.settings.encoders import encoder_settings, load_encoders
from parfocal.slide.failure import describe_failure
from parfocal.slide.slide import open_slide
from parfocal.slide.write import write_pyramid
from parfocal.threads import thread_count

REQUIRED = (
    *("parfocal", "torch", "pytorch-lightning", "numpy", "scipy", "h5py"),
    *("openslide-python", "tifffile", "imagecodecs", "simplejpeg", "pillow"),
)
OPTIONAL = {
    "timm": "encoders by name (timm)",
    "transformers": "some pathology encoders (transformers)",
    "onnxruntime": "faster encoders on CPUs (onnx)",
    "ray": "workers on many machines (ray)",
    "wsidicom": "more kinds of DICOM (dicom)",
    "fsspec": "slides in object stores (remote)",
    "huggingface_hub": "models of the Hub (hub)",
    "tensorboard": "training logs (tensorboard)",
    "mlflow": "training logs (mlflow)",
    "wandb": "training logs (wandb)",
    "pandas": "predictions as data frames (notebook)",
}
CODECS = ("jpeg8", "jpeg2k", "jpegxl", "webp", "lzw", "deflate", "zstd")
NETWORK = (
    *("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT", "http_proxy", "https_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
)
MIN_FREE_GIB = 1.0
RAY_TIMEOUT_S = 3.0
MAX_CORES = 2**16

State = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Args:
        topic: what kind of thing, such as "folder".
        name: which one.
        state: "ok"; "note" for what is missing but optional; "failed" for what does not work.
        text: what was found, and what to do if it failed.
    """

    topic: str
    name: str
    state: State
    text: str


def diagnose(folders: Iterable[Path] = ()) -> Iterator[Check]:
    """Check the installation, and yield each finding; only the cluster of RAY_ADDRESS is contacted.

    Args:
        folders: folders to write to, besides the current one and that of temporary files.
    """
    yield from installation()
    yield from _codecs()
    needed = dict.fromkeys(folders)
    places = dict.fromkeys((*needed, Path.cwd(), Path(tempfile.gettempdir())))
    yield from (_folder(place, "failed" if place in needed else "note") for place in places)
    yield from _network(os.environ)
    yield from _jobs()
    yield _tiny_slide()


def installation() -> Iterator[Check]:
    """Yield the versions of packages and of OpenSlide's library, and the devices."""
    yield from _versions()
    yield _attempt("reader", "openslide", _openslide_version, "install openslide-bin")
    yield from _devices()


def to_json(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Return checks as values of JSON."""
    return [asdict(check) for check in checks]


def _versions() -> Iterator[Check]:
    yield Check("version", "python", "ok", f"{sys.version.split()[0]} on {sys.platform}")
    for name in REQUIRED:
        try:
            yield Check("version", name, "ok", version(name))
        except PackageNotFoundError:
            yield Check("version", name, "failed", "is not installed; install parfocal again")
    for name, what in OPTIONAL.items():
        if find_spec(name) is None:
            yield Check("version", name, "note", f"is not installed; needed for {what}")
        else:
            yield Check("version", name, "ok", _version_of_module(name))


def _version_of_module(name: str) -> str:
    """Return the version of a module, whose package may have another name (onnxruntime-gpu)."""
    try:
        return version(name)
    except PackageNotFoundError:
        packages = packages_distributions().get(name, [])
        return ", ".join(f"{version(each)} ({each})" for each in packages) or "unknown version"


def _devices() -> Iterator[Check]:
    cores = counted(thread_count(MAX_CORES), "core")
    cores += f", {counted(torch.get_num_threads(), 'thread')} of torch"
    yield Check("device", "cpu", "ok", cores)
    if not torch.cuda.is_available():
        built = "has no CUDA" if torch.version.cuda is None else "finds no usable GPU"
        yield Check("device", "cuda", "note", f"this torch {built}; models run on the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _gpu(index)


def _gpu(index: int) -> Check:
    properties = torch.cuda.get_device_properties(index)
    text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return Check("device", f"cuda:{index}", "failed", f"{text}: {reason}; check its driver")
    return Check("device", f"cuda:{index}", "ok", text)


def _codecs() -> Iterator[Check]:
    for codec in CODECS:
        advice = "install imagecodecs again"
        yield _attempt("codec", codec, partial(_round_trip, codec), advice)


def _openslide_version() -> str:
    import openslide  # noqa: PLC0415 (its library may be missing)

    return f"library {openslide.__library_version__}"


def _round_trip(codec: str) -> str:
    """Encode and decode a small picture."""
    import imagecodecs  # noqa: PLC0415 (large)

    pixels = np.full((16, 16, 3), 200, np.uint8)
    if codec in ("lzw", "deflate", "zstd"):
        decoded = getattr(imagecodecs, f"{codec}_decode")(
            getattr(imagecodecs, f"{codec}_encode")(pixels.tobytes())
        )
        equal = bytes(decoded) == pixels.tobytes()
    else:
        encoded = getattr(imagecodecs, f"{codec}_encode")(pixels)
        decoded = getattr(imagecodecs, f"{codec}_decode")(encoded)
        equal = bool(np.abs(decoded.astype(int) - 200).max() <= 3)
    if not equal:
        raise ValueError("decodes to other pixels")
    return "decodes"


def _folder(place: Path, problem: State) -> Check:
    """Check that a folder can be written; `problem` is the state if it cannot."""
    mount = mount_of(place)
    kind = "" if mount is None else f", {mount.kind}{' (network)' if mount.is_network else ''}"
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            links = _links(Path(folder))
    except OSError as error:
        text = f"cannot be written ({error.strerror}){kind}; choose another folder for results"
        return Check("folder", str(place), problem, text)
    free = shutil.disk_usage(place).free / 2**30
    if free < MIN_FREE_GIB:
        return Check("folder", str(place), problem, f"{free:.2f} GiB free{kind}; free some space")
    return Check("folder", str(place), "ok", f"writable, {free:,.0f} GiB free{kind}{links}")


def _links(folder: Path) -> str:
    """Return a note if the file system has no hard links; claims then work without them."""
    (folder / "probe").write_bytes(b"parfocal")
    try:
        (folder / "link").hardlink_to(folder / "probe")
    except OSError:
        return ", no hard links"
    return ""


def _network(environment: Mapping[str, str]) -> Iterator[Check]:
    chosen = [
        f"{name}={_without_password(environment[name])}"
        for name in NETWORK
        if environment.get(name)
    ]
    text = "used only for remote slides, published weights and the Hub; nothing is reported"
    yield Check("network", "policy", "ok", text)
    if chosen:
        yield Check("network", "environment", "ok", ", ".join(chosen))


def _without_password(value: str) -> str:
    parts = urlsplit(value)
    return value if "@" not in parts.netloc else value.replace(parts.netloc, parts.hostname or "")


def _jobs() -> Iterator[Check]:
    job, shard = this_job(), shard_from_environment()
    if job or shard is not None:
        begins = "" if shard is None else f"begins with share {shard}"
        yield Check("job", job or "ranks", "ok", begins or "one process")
    address = os.environ.get("RAY_ADDRESS")
    if address and find_spec("ray") is not None:
        yield ray_check(address)


def ray_check(address: str) -> Check:
    """Return whether a Ray cluster can be reached, without joining it.

    Args:
        address: its address, as in RAY_ADDRESS; "auto" and "local" need no connection.
    """
    place = urlsplit(address if "//" in address else f"//{address}")
    if place.hostname is None or place.port is None:
        return Check("ray", address, "note", "no HOST:PORT to connect to")
    try:
        with socket.create_connection((place.hostname, place.port), timeout=RAY_TIMEOUT_S):
            return Check("ray", address, "ok", "accepts connections")
    except OSError as error:
        text = f"cannot be reached ({error.strerror or error}); start it, or correct RAY_ADDRESS"
        return Check("ray", address, "failed", text)


def _tiny_slide() -> Check:
    advice = "run with --debug, and report what it prints"
    return _attempt("slide", "whole path", _run_tiny_slide, advice)


def _run_tiny_slide() -> str:
    """Write, open, extract and classify a painted slide; return what was done."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "tiny.tif", Path(folder) / "features"
        write_pyramid(path, _tissue, (512, 512), mpp=1.0, downsamples=(1, 4))
        settings = SlideSettings((2.5, 10.0), 64)
        encoders = load_encoders(
            encoder_settings("tiny", settings.magnifications),
            settings.magnifications,
            device="cpu",
            patch_size=settings.patch_size,
        )
        slides = [("tiny", path, None)]
        result = extract_cohort(slides, out, encoder=encoders, settings=settings)
        if result.failed:
            raise ValueError(result.failed["tiny"])
        with open_slide(path) as slide:
            fingerprint = slide.fingerprint
        file = FeatureFile(feature_path(out, "tiny"))
        if file.fingerprint != fingerprint:
            raise ValueError("the feature file is of another slide")
        bag = file.bag()
        answer = _classify(bag, encoders[0].spec.dim)
    seconds = time.perf_counter() - started
    return f"read, encoded, stored and classified in {seconds:.1f} s ({answer})"


def _tissue(column: int, row: int) -> np.ndarray:
    if column:
        return np.full((256, 256, 3), 245, np.uint8)
    generator = np.random.default_rng(row)
    pink = generator.integers(120, 200, (256, 256, 1))
    return np.concatenate([pink + 40, pink - 60, pink], axis=2).astype(np.uint8)


def _classify(bag: Bag, dim: int) -> str:
    """Run an untrained model that zooms; return the number of patches that it visited."""
    model = MODELS["zoommil"].build(in_dim=dim, num_classes=2, num_magnifications=2, k=2).eval()
    with torch.no_grad():
        prediction = model(bag)
    if not bool(torch.isfinite(prediction.logits).all()):
        raise ValueError("the model's answer is not finite")
    return f"{sum(len(look.rows) for look in prediction.looks)} patches visited"


def _attempt(topic: str, name: str, work: Callable[[], str], advice: str) -> Check:
    """Run a check; if it raises an error, the check has failed and reports that error."""
    try:
        return Check(topic, name, "ok", work())
    except Exception as error:  # a broken installation raises anything
        return Check(topic, name, "failed", f"{describe_failure(error)}; {advice}")
