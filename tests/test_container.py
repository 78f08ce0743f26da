"""The Dockerfile, as far as it can be checked without Docker: its script runs in an environment."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parfocal.models.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "container" / "install.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    (line,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return dict(word.split("=", 1) for word in line.split())


def test_the_image_runs_parfocal_as_another_user_than_root():
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\d+)", final, re.MULTILINE)
    assert int(user) > 0
    assert 'ENTRYPOINT ["parfocal"]' in final
    assert "/opt/parfocal/bin" in environment()["PATH"].split(":")


def test_the_image_writes_only_to_folders_that_can_be_mounted():
    set_here = environment()
    for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME"):
        assert set_here[name].startswith("/tmp")
    assert set_here["HF_HOME"] == "/models"
    assert set_here["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_dockerfile_runs_the_script_with_both_devices():
    assert "container/install.sh /opt/parfocal" in DOCKERFILE
    assert "ARG DEVICE=cpu" in DOCKERFILE
    assert re.search(r"^ {4}cpu\)", SCRIPT.read_text(), re.MULTILINE)
    assert re.search(r"^ {4}cuda\)", SCRIPT.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("place",), "usage:"), (("place", "tpu"), "device 'tpu' is not cpu or cuda")],
)
def test_a_wrong_use_of_the_script_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
):
    done = subprocess.run(
        ["sh", str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the script is for Linux")
def test_the_installed_program_predicts_without_a_home_that_can_be_written(
    tmp_path: Path, write_slide: Callable[..., Path], untrained: Checkpoint
):
    prefix = tmp_path / "parfocal"
    # With the settings of pip here, since a test installs nothing from an index of its own.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    subprocess.run(
        ["sh", str(SCRIPT), str(prefix), "cpu"],
        env={**clean, "TORCH_INDEX": "", "PATH": path},
        check=True,
    )
    untrained.save(tmp_path / "run")
    write_slide(tmp_path / "one.tif")
    # Not even root can write to /proc.
    image = {name: value.replace("/tmp", "/proc/none") for name, value in environment().items()}
    image |= {"PATH": f"{prefix}/bin:/usr/bin:/bin"}
    done = subprocess.run(
        ["parfocal", "predict", "run", "one.tif", "--out", "predictions"],
        cwd=tmp_path,
        env=image,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions" / "one.json").exists()
