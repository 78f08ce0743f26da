import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parfocal.distribute.slurm import SlurmError, SlurmJob, kept_variables, time_note


def job(tmp_path, *command, **options):
    return SlurmJob(
        "parfocal-extract", command or ("true",), tmp_path / "jobs", tmp_path, **options
    )


def lines(text):
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put an sbatch and a scontrol on the PATH that write down what they are called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "scontrol"):
        tool = folder / name
        tool.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/{name}.log\necho "77;cluster"\n')
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def test_the_script_asks_for_the_resources(tmp_path):
    wanted = job(
        tmp_path, "parfocal", "extract", "my cohort.csv", array=8, partition="gpu", time="8:00:00",
        cpus=4, gpus=1, memory="32G", options=["--account=lab"], variables={"HF_HOME": "/big disk"},
    )  # fmt: skip
    text = wanted.write().read_text()
    assert lines(text) == [
        "#SBATCH --job-name=parfocal-extract",
        "#SBATCH --array=1-8",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=8:00:00",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gpus-per-task=1",
        "#SBATCH --mem=32G",
        f"#SBATCH --output={tmp_path}/jobs/%x-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@300",
        "#SBATCH --requeue",
        "#SBATCH --account=lab",
    ]
    assert "parfocal extract 'my cohort.csv' &" in text
    assert "export HF_HOME='/big disk'" in text
    assert subprocess.run(["bash", "-n", wanted.path], check=False).returncode == 0


def test_a_job_is_submitted_after_another(slurm):
    wanted = job(slurm)
    wanted.write()
    assert wanted.submit(after="76") == "77"
    assert (slurm / "sbatch.log").read_text() == (
        f"--parsable --dependency=afterany:76 {wanted.path}\n"
    )


def test_a_refusal_of_sbatch_is_shown(slurm):
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho invalid partition >&2; exit 1\n")
    wanted = job(slurm, partition="nope")
    wanted.write()
    with pytest.raises(SlurmError, match=r"sbatch refused it \(invalid partition\)"):
        wanted.submit()


def test_without_sbatch_the_error_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="there is no sbatch on this machine; run `sbatch "):
        job(tmp_path).submit()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "soon"}, "--time-limit soon: write minutes, hours:minutes:seconds or days-hours"),
        ({"options": ["account=lab"]}, "write one option of sbatch"),
        ({"options": ["--a\nrm -r x"]}, "write one option of sbatch"),
        ({"partition": "a b"}, "'a b': sbatch does not accept spaces here"),
    ],
)
def test_values_that_sbatch_does_not_take_are_refused(tmp_path, options, message):
    with pytest.raises(SlurmError, match=message):
        job(tmp_path, **options)


@pytest.mark.parametrize(
    ("time", "note"),
    [
        ("99", "--time-limit 99 is 99 minutes; for hours, write 99:00:00"),
        ("8:30", "--time-limit 8:30 is 8 minutes and 30 seconds; for hours, write 8:30:00"),
        ("8:00:00", None),
        ("1-12", None),
        (None, None),
    ],
)
def test_a_time_limit_without_hours_is_said_as_slurm_reads_it(time, note):
    assert time_note(time) == note


def run(job, **variables):
    return subprocess.Popen(["bash", job.write()], env={**os.environ, **variables})


def test_the_script_ends_with_the_code_of_the_command(slurm):
    assert run(job(slurm, "bash", "-c", "exit 3"), SLURM_JOB_ID="5").wait() == 3
    assert not (slurm / "scontrol.log").exists()


def test_a_command_that_stops_early_is_queued_again(slurm):
    assert run(job(slurm, "bash", "-c", "exit 75"), SLURM_JOB_ID="5").wait() == 75
    assert (slurm / "scontrol.log").read_text() == "requeue 5\n"
    assert run(job(slurm, "bash", "-c", "exit 75"), SLURM_JOB_ID="").wait() == 75
    assert (slurm / "scontrol.log").read_text() == "requeue 5\n"  # run by bash, not by SLURM


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_the_script_passes_signals_on_and_waits_for_the_command(slurm, name):
    started = slurm / "started"
    code = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.{name}, lambda *_: (time.sleep(0.2), sys.exit(75)))\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        "time.sleep(30)"
    )
    process = run(job(slurm, sys.executable, "-c", code), SLURM_JOB_ID="5")
    while not started.exists():
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    assert process.wait(20) == 75
    assert (slurm / "scontrol.log").read_text() == "requeue 5\n"


def test_variables_that_lead_to_files_are_kept_and_secrets_are_not():
    found = kept_variables({"HF_HOME": "/a", "HF_TOKEN": "secret", "HF_HUB_OFFLINE": ""})
    assert found == {"HF_HOME": "/a"}
    assert Path(found["HF_HOME"]).is_absolute()
