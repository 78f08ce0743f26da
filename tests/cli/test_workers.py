"""Options that spread a command over processes, GPUs, machines and jobs."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_result import assert_refused
from small import TINY

EXTRACT = (*TINY, "--patch-size", "64")


def array_of(count):
    """Return the variables that SLURM sets in the jobs of an array."""
    variables = {"COUNT": f"{count}", "MIN": "1", "STEP": "1"}
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in variables.items()}


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpus", "0"), ("--gpus 0: torch ", "finds no CUDA device on this machine")),
        (("--gpus", "a,b"), ("--gpus: 'a,b' is not a list of GPUs; write their numbers, such as",)),
        (("--gpus", "0", "--device", "cpu"), ("--gpus 0 and --device cpu exclude each other",)),
        (("--gpus-per-worker", "0.5"), ("--gpus-per-worker needs --workers or --ray",)),
        (("--time-limit", "8:00:00"), ("--time-limit needs --submit slurm",)),
        (("--yes",), ("--yes needs --submit slurm",)),
        (("--scratch-gb", "5"), ("--scratch-gb 5 needs --scratch",)),
        (("--scratch", "$NOT_SET"), ("--scratch $NOT_SET: this variable is not set here",)),
        (("--submit", "slurm", "--time-limit", "soon"), ("--time-limit soon: write minutes",)),
    ],
)
def test_options_that_cannot_be_met_are_refused(parfocal, cohort, tmp_path, options, words):
    out = tmp_path / "out"
    assert_refused(parfocal("extract", cohort, "--out", out, *EXTRACT, *options), *words, code=2)
    assert not out.exists()


@pytest.mark.skipif("ray" in sys.modules, reason="Ray is installed")
def test_ray_has_to_be_installed(parfocal, cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = parfocal("extract", cohort, "--out", tmp_path, *EXTRACT, "--ray", "local")
    assert_refused(result, "Ray is not installed", "pip install 'parfocal[ray]'")


def test_a_command_is_written_as_a_batch_script(parfocal, cohort, tmp_path):
    out = tmp_path / "features"
    options = ("--submit", "slurm", "--array=4", "--time-limit", "8:00:00", "--sbatch=--mem=8G")
    scratch = ("--scratch", "$TMPDIR", "--scratch-gb", "50")  # of the node, not of this machine
    result = parfocal(
        "extract", cohort, "--out", out, *EXTRACT, *options, "--threads", "2", *scratch
    )
    script = tmp_path / "features-slurm" / "parfocal-extract.sbatch"
    assert result.out == f"wrote {script}; to submit it: sbatch {script}\n"
    lines = script.read_text().splitlines()
    assert {"#SBATCH --array=1-4", "#SBATCH --mem=8G", "#SBATCH --cpus-per-task=2"} <= set(lines)
    (command,) = [line for line in lines if line.endswith(" &")]
    assert command.endswith(
        f"extract {cohort} --out {out} {' '.join(EXTRACT)} --threads 2 {shlex.join(scratch)} &"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "run", "cohort.csv", "--out", "out"),
        ("audit", "run", "cohort.csv", "--out", "out"),
        ("inspect", "cohort.csv", "--out", "out.jsonl"),
        ("reproduce", "zoommil-camelyon16", "--data", "slides", "--out", "out"),
    ],
)
def test_every_command_that_takes_long_is_written_as_a_batch_script(
    parfocal, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    found = parfocal(*words, "--submit", "slurm", "--array", "2", "--time-limit", "2:00")
    assert found.err == (
        "parfocal: --time-limit 2:00 is 2 minutes and 00 seconds; for hours, write 2:00:00\n"
    )
    script = Path("out-slurm") / f"parfocal-{words[0]}.sbatch"
    lines = script.read_text().splitlines()
    assert {"#SBATCH --array=1-2", "#SBATCH --time=2:00"} <= set(lines)
    (command,) = [line for line in lines if line.endswith(" &")]
    assert f" {shlex.join(words)} " in command
    assert "--submit" not in command
    assert list(Path().iterdir()) == [Path("out-slurm")]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("inspect", "a.svs"), "--submit: the jobs share a file; add --out FILE.jsonl."),
        (
            ("reproduce", "zoommil-camelyon16", "--data", ".", "--out", "out", "--dry-run"),
            "--dry-run takes seconds and runs here; leave --submit out.",
        ),
    ],
)
def test_what_needs_no_job_is_not_submitted(parfocal, tmp_path, monkeypatch, words, refusal):
    monkeypatch.chdir(tmp_path)
    assert_refused(parfocal(*words, "--submit", "slurm"), refusal, code=2)


@pytest.mark.slow
class TestOneResult:
    """One command, two workers, a job array and Ray write equal folders."""

    @pytest.fixture
    def extract(self, cohort, tmp_path):
        def run(name, *options, python=sys.executable):
            out = tmp_path / name
            command = [python, "-m", "parfocal.cli", "extract", cohort, "--out", out, *EXTRACT]
            subprocess.run([*command, *options], check=True, capture_output=True)
            return files_of(out)

        return run

    def test_two_workers(self, extract, extracted):
        assert extract("two", "--workers", "2", "--ray", "off") == files_of(extracted)

    def test_two_workers_evaluate_audit_and_inspect(self, cohort, run, tmp_path):
        found = {}
        for name, options in (("one", ()), ("two", ("--workers", "2", "--ray", "off"))):
            place = tmp_path / name
            commands = (
                ("evaluate", run, cohort, "--out", place / "evaluation"),
                ("audit", run, cohort, "--out", place / "audit"),
                ("inspect", cohort, "--json", "--magnifications", "2.5,10"),
            )
            printed = [
                subprocess.run(
                    [sys.executable, "-m", "parfocal.cli", *command, *options],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                for command in commands
            ]
            metrics = json.loads((place / "evaluation" / "metrics.json").read_text())
            found[name] = (
                metrics["slides"],
                (place / "audit" / "audit.csv").read_text(),
                printed[-1],
            )
        assert found["one"] == found["two"]

    def test_a_job_array(self, extract, extracted, tmp_path):
        extract("array", "--submit", "slurm", "--array", "2")
        script = tmp_path / "array-slurm" / "parfocal-extract.sbatch"
        tasks = [
            subprocess.Popen(
                ["bash", script], env={**os.environ, **array_of(2), "SLURM_ARRAY_TASK_ID": task}
            )
            for task in ("1", "2")
        ]
        assert [task.wait() for task in tasks] == [0, 0]
        assert files_of(tmp_path / "array") == files_of(extracted)

    def test_the_jobs_of_an_evaluation(self, cohort, run, tmp_path):
        command = [sys.executable, "-m", "parfocal.cli", "evaluate", run, cohort, "--out"]
        subprocess.run([*command, tmp_path / "one"], check=True, capture_output=True)
        array = ("--submit", "slurm", "--array", "2")
        subprocess.run([*command, tmp_path / "jobs", *array], check=True, capture_output=True)
        script = tmp_path / "jobs-slurm" / "parfocal-evaluate.sbatch"
        jobs = [
            subprocess.Popen(
                ["bash", script], env={**os.environ, **array_of(2), "SLURM_ARRAY_TASK_ID": task}
            )
            for task in ("1", "2")
        ]
        assert [job.wait() for job in jobs] == [0, 0]
        one, two = (
            json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "jobs")
        )
        assert one["slides"] == two["slides"]

    def test_ray(self, extract, extracted):
        pytest.importorskip("ray", reason="needs parfocal[ray]")
        assert extract("ray", "--ray", "local", "--workers", "2") == files_of(extracted)

    def test_a_job_that_is_asked_to_stop_finishes_its_slides_and_is_resumed(
        self, extract, cohort, extracted, tmp_path
    ):
        out = tmp_path / "stopped"
        command = [sys.executable, "-m", "parfocal.cli", "extract", cohort, "--out", out, *EXTRACT]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not files_of(out):
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate()
        assert (process.returncode, "run the same command again to resume" in errors) == (75, True)
        assert not list((Path(out) / ".work" / "claims").iterdir())
        assert len(files_of(out)) < len(files_of(extracted))
        assert extract("stopped") == files_of(extracted)
