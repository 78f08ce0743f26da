"""One process at a time trains in a run folder, and its state survives a kill at any moment."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal import files
from parfocal.distribute.claims import ClaimError, hold
from parfocal.features.errors import StoreError
from parfocal.files import OutputError
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import RunSettings
from parfocal.train import RunError, train
from parfocal.train.training_module import TrainingModule

HOLD = """
import sys
from pathlib import Path
from parfocal.distribute.claims import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(settings: RunSettings) -> RunSettings:
    return replace(settings, train=replace(settings.train, epochs=2))


def run_training(cohort, settings, out: Path, *, resume: bool = False):
    features = cohort.source.parent / "features"
    return train(
        cohort, settings, out, features=features, device="cpu", resume=resume, progress=False
    )


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_a_folder_is_refused(cohort, settings, tmp_path, *, resume):
    (tmp_path / "run").mkdir()
    with (
        hold(tmp_path / "run" / ".claim"),
        pytest.raises(ClaimError, match=f"{tmp_path / 'run'}: in use by process"),
    ):
        run_training(cohort, settings, tmp_path / "run", resume=resume)


def test_a_killed_training_leaves_no_claim_behind(cohort, settings, tmp_path):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run" / ".claim")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert (tmp_path / "run" / ".claim").exists()
    run_training(cohort, settings, tmp_path / "run")
    assert not (tmp_path / "run" / ".claim").exists()
    Checkpoint.load(tmp_path / "run")


def test_a_refused_training_leaves_no_folder(cohort, settings, tmp_path):
    for slide in (cohort.source.parent / "features").iterdir():
        slide.unlink()
    with pytest.raises(StoreError, match="no feature files"):
        run_training(cohort, settings, tmp_path / "runs" / "first")
    assert not (tmp_path / "runs").exists()


def test_a_training_whose_claim_was_taken_over_stops(cohort, settings, tmp_path, monkeypatch):
    usual = TrainingModule.on_train_epoch_end

    def taken_over(module: TrainingModule) -> None:
        (tmp_path / "run" / ".claim").unlink()
        usual(module)

    monkeypatch.setattr(TrainingModule, "on_train_epoch_end", taken_over)
    with pytest.raises(ClaimError, match="the claim was removed"):
        run_training(cohort, settings, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_the_folder_of_the_slides_is_refused(cohort, settings):
    folder = cohort.slides[0].path.parent
    folder.mkdir(exist_ok=True)
    with pytest.raises(OutputError, match="this folder holds the slide"):
        run_training(cohort, settings, folder)


@pytest.mark.slow
def test_the_state_is_written_in_its_own_folder_and_replaces_the_one_before_when_whole(
    cohort, settings, tmp_path, monkeypatch
):
    states, usual = [], torch.save

    def half(content: object, target: object, *arguments: object, **options: object) -> None:
        if states:  # in the second epoch
            raise OSError(28, "No space left on device")
        usual(content, target, *arguments, **options)
        states.append(target)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        run_training(cohort, settings, tmp_path / "run")
    left = sorted(path.name for path in (tmp_path / "run" / "resume").iterdir())
    assert left == ["best.safetensors", "metrics.ckpt"]
    monkeypatch.undo()
    run_training(cohort, settings, tmp_path / "run", resume=True)
    run_training(cohort, settings, tmp_path / "whole")
    found = [Checkpoint.load(tmp_path / name).weights_hash for name in ("run", "whole")]
    assert found[0] == found[1]


@pytest.mark.slow
def test_no_file_of_a_training_is_written_elsewhere(cohort, settings, tmp_path, monkeypatch):
    """Lightning writes its checkpoints to the folder of temporary files and moves them."""
    out, moved = tmp_path / "run", []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    usual = Path.replace

    def replace_and_record(part: Path, target: Path) -> Path:
        moved.append((part.parent, target))
        return usual(part, target)

    monkeypatch.setattr(Path, "replace", replace_and_record)
    run_training(cohort, settings, out)
    assert out / "resume" / "metrics.ckpt" in [target for _, target in moved]
    assert all(folder == target.parent for folder, target in moved)


def test_a_damaged_state_is_named(cohort, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "save", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_training(cohort, settings, tmp_path / "run")
    monkeypatch.undo()
    state = tmp_path / "run" / "resume" / "metrics.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(RunError) as caught:
        run_training(cohort, settings, tmp_path / "run", resume=True)
    assert str(caught.value).startswith(f"{state}: the training state is damaged (")
    assert str(caught.value).endswith(
        "). Delete the file; --resume then trains from the first epoch."
    )
    state.unlink()
    run_training(cohort, settings, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_temporary_files_of_a_killed_training_are_removed(cohort, settings, tmp_path):
    (tmp_path / "run").mkdir()
    dead = replace(files.this_process(), start=1)
    (tmp_path / "run" / f".{dead.token}-0.part").touch()
    run_training(cohort, settings, tmp_path / "run")
    assert list((tmp_path / "run").glob(".*")) == []
