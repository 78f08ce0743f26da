"""Commands do without what Windows and macOS lack: this is simulated, as far as it can be."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

import parfocal
from parfocal import processes
from parfocal.cli import program
from parfocal.dataset import rows
from parfocal.distribute import claims
from parfocal.distribute.mounts import mount_of
from parfocal.distribute.processes import ProcessWorker
from parfocal.distribute.stopping import stop_on_signal, stop_requested
from parfocal.distribute.work_folder import refresh
from parfocal.features.writer import _reserve
from parfocal.files import sync
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict import folder
from parfocal.predict.folder import _by_name, _item_names
from parfocal.slide.readers import probe
from parfocal.train import devices, trainer
from small import TINY, write_table

SOURCE = Path(parfocal.__file__).parent
TESTS = Path(__file__).parent
OS_NAMES = (
    r"chown|chroot|fchmod|fdatasync|fork\w*|f?statvfs|get(?:[efrs]*[gu]id|groups|loadavg|pgid|pgrp|"
    r"priority|random|xattr)|killpg|lchown|listxattr|mkfifo|mknod|nice|openpty|pathconf|pipe2|"
    r"posix_\w+|preadv?|pwritev?|readv|register_at_fork|sched_\w+|sendfile|set\w*id|splice|sync|"
    r"sysconf|uname|wait\w*|writev"
)
# What Windows, and for some macOS, lacks: calls, signals, modules, and folders of the system.
ELSEWHERE_MISSING = re.compile(
    rf"\bos\.({OS_NAMES})\b|\b(SIG(?:ALRM|CHLD|CONT|HUP|KILL|PIPE|QUIT|STOP|TSTP|USR[12]|XCPU))\b|"
    r"\bimport (fcntl|grp|pty|pwd|readline|resource|syslog|termios|tty)\b|"
    r"\btime\.(clock_\w+)|\bsignal\.(alarm|pthread_\w+|setitimer|sigwait\w*)\b|\"(/(?:dev|etc|proc|sys|tmp|var))\b"
)
# Where it is used, if it is there, and the tests without it.
USED = {
    "cli/program.py": ("test_platforms.py", {"SIGHUP"}),
    "distribute/claims.py": ("test_platforms.py", {"register_at_fork", "clock_gettime"}),
    "distribute/mounts.py": ("test_platforms.py", {"/proc"}),
    "distribute/processes.py": ("test_platforms.py", {"SIGUSR1"}),
    "distribute/slurm.py": ("distribute/test_slurm.py", {"SIGUSR1"}),  # a script for SLURM
    "distribute/stopping.py": ("test_platforms.py", {"SIGUSR1"}),
    "features/writer.py": ("test_platforms.py", {"posix_fallocate"}),
    "files.py": ("slide/sources/test_disk_pages.py", {"pread", "pwrite"}),
    "processes.py": ("test_platforms.py", {"/proc"}),
    "slide/readers/probe.py": ("test_platforms.py", {"SIGXCPU", "resource"}),
    "threads.py": ("test_threads.py", {"sched_getaffinity", "/proc", "/sys"}),
    "train/available_memory.py": (
        "train/test_available_memory.py",
        {"resource", "sysconf", "/proc", "/sys"},
    ),
    "train/devices.py": ("test_platforms.py", {"SIGUSR1"}),
    "train/trainer.py": ("test_platforms.py", {"SIGHUP"}),
}

# Other packages are imported first: they have ways of their own on other systems.
LESS = """
import os, pathlib, signal, sys
import h5py, imagecodecs, matplotlib.figure, openslide, pytorch_lightning, scipy.ndimage
import shapely, sklearn.metrics, tifffile, torch, typer, uvicorn

for name in (
    *("pread", "pwrite", "posix_fallocate", "sched_getaffinity", "fork", "geteuid", "getuid"),
    *("register_at_fork", "sysconf"),
):
    if hasattr(os, name):
        delattr(os, name)
# Lightning needs SIGUSR1 where there is no Windows.
for name in ("SIGHUP", "SIGALRM", "SIGXCPU", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None

def refuse(*_, **__):
    raise OSError(1, "Operation not permitted")

pathlib.Path.hardlink_to = refuse
from parfocal.cli import main
main()
"""


def run(place: Path, *arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(parfocal.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", LESS, *map(str, arguments)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.slow
def test_commands_do_without_what_other_systems_lack(
    tmp_path: Path, write_slide: Callable[..., Path], untrained: Checkpoint
):
    rows = []
    for number in range(8):
        path = write_slide(tmp_path / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2]
        rows.append((str(number), path.name, ("normal", "tumor")[number % 2], split))
    write_table(tmp_path / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)
    untrained.save(tmp_path / "run")
    run(tmp_path, "inspect", "0.tif")
    run(tmp_path, "predict", "run", "0.tif", "--out", "predictions")
    extract = ("--encoder", "tiny", "--magnifications", "2.5,10", "--patch-size", "64")
    run(tmp_path, "extract", "cohort.csv", "--out", "features", *extract)
    settings = ("--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "1")
    run(tmp_path, "train", "cohort.csv", "--out", "trained", *TINY, *settings)
    assert sorted(path.name for path in (tmp_path / "predictions").glob("[!.]*")) == [
        *("0.json", "0.png", "predictions.csv")
    ]


def test_what_other_systems_lack_is_used_only_where_tests_simulate_its_absence():
    found = {}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        names = {name for match in ELSEWHERE_MISSING.findall(text) for name in match if name}
        if names:
            found[path.relative_to(SOURCE).as_posix()] = names
    assert found == {path: names for path, (_, names) in USED.items()}
    for test, names in USED.values():
        text = (TESTS / test).read_text(encoding="utf-8")
        assert all(name in text for name in names if not name.startswith("/")), test


def test_without_sigusr1_no_process_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(signal, "SIGUSR1")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    with stop_on_signal():
        assert not stop_requested()
    running = SimpleNamespace(pid=1, is_alive=lambda: True)
    worker = ProcessWorker.__new__(ProcessWorker)
    worker._process, worker._is_stopping = running, False
    worker.stop()
    rank = devices._RankProcess.__new__(devices._RankProcess)
    rank.process = running
    devices._signal([rank], "SIGUSR1")


def test_without_sighup_the_other_signals_interrupt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(signal, "SIGHUP")
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with program._interrupt_on_termination():
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with trainer.InterruptHandler():
        found = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, usual)
    assert found.__name__ == "_handle"


def test_feature_files_are_created_without_posix_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    _reserve(tmp_path / "a.h5", 10_000)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["a"] = 1


def test_without_proc_processes_and_mounts_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    this = processes.this_process()

    def missing(path: Path, *_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(Path, "readlink", missing)
    assert processes._start(this.pid) == 0
    assert not this.is_dead
    assert processes._machine.__wrapped__() == processes._machine.__wrapped__()
    assert mount_of(tmp_path) is None


def test_without_clock_gettime_claims_have_the_usual_clock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.delattr(time, "clock_gettime", raising=False)
    before = time.monotonic()
    assert before <= claims._now() <= time.monotonic()


def test_windows_opens_no_folder_and_gets_no_signal(tmp_path: Path, monkeypatch):
    opened = []
    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("this ends a process on Windows"))
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append((path, flags)) or -1)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "close", lambda _: None)
    this = processes.this_process()
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        assert not replace(this, start=this.start + 1).is_dead
        refresh(tmp_path)
        sync(tmp_path)
        sync(tmp_path / "a")
    assert opened == [(tmp_path / "a", os.O_RDWR)]


@pytest.mark.parametrize("limits", ["import sys; sys.modules['resource'] = None\n", ""])
def test_without_limits_of_processes_a_slide_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: str
):
    monkeypatch.setattr(probe, "XCPU", None)  # SIGXCPU, which Windows lacks
    monkeypatch.setattr(probe, "CHILD", limits + probe.CHILD.partition("from openslide")[0])
    (tmp_path / "a.czi").touch()
    probe._problem.cache_clear()
    probe.probe(tmp_path / "a.czi", [tmp_path / "a.czi"])
    probe._problem.cache_clear()


@pytest.mark.parametrize("name", ["S:1", "a?b", "con", "NUL.2", "lpt1"])
def test_windows_names_no_files_after_some_ids(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(rows, "WINDOWS", False)
    assert rows.unusable_name(name) is None
    monkeypatch.setattr(rows, "WINDOWS", True)
    assert rows.unusable_name(name) == "is no name of a file on Windows"
    assert rows.unusable_name("console-1") is None


def test_names_that_differ_only_in_case_are_those_of_one_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder, "may_be_slide", lambda path: path.suffix == ".svs")
    slides = [Path("one/S-1.svs"), Path("two/s-1.svs")]
    assert list(_item_names(slides)) == ["one/S-1.svs", "two/s-1.svs"]
    with pytest.raises(ValueError, match=r"'S-1' \(or 's-1', on a disk that ignores case\)"):
        _by_name(slides)
    assert _by_name([slides[0], Path("s-1.txt")]) == {"S-1": slides[0]}
