"""Submit a command to a batch system instead of running it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.checks import ArgumentError, wrong_usage

Submit = Annotated[
    Literal["slurm"] | None,
    typer.Option(
        metavar="SYSTEM",
        help="Write a batch script for this system (slurm) instead of running the command.",
    ),
]
Partition = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --submit: partition of the job.")
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time", "--time-limit", metavar="H:MM:SS", help="With --submit: time limit of the job."
    ),
]
TimeLimit = Annotated[  # not --time, which is the column of a survival time
    str | None, typer.Option(metavar="H:MM:SS", help="With --submit: time limit of the job.")
]
Array = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="With --submit: number of jobs that share the work."),
]
Sbatch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OPTION", help="With --submit: another option of sbatch, such as --mem=32G."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="With --submit: also submit the script.")]

TIME_IS_A_COLUMN = ("train", "compare")  # the time of an event: for them, see `TimeLimit`
WITH_VALUE = ("--submit", "--partition", "--time-limit", "--array", "--sbatch")


@dataclass(frozen=True)
class JobOptions:
    """The options of a batch job.

    Args:
        system: the batch system; None to run the command.
        partition: partition of the job.
        time: time limit of the job.
        array: number of jobs that share the work.
        sbatch: more options.
        yes: whether to submit the scripts.
    """

    system: str | None
    partition: str | None = None
    time: str | None = None
    array: int | None = None
    sbatch: Sequence[str] | None = None
    yes: bool = False

    def refuse_without_system(self) -> None:
        """Raise if there are options of a job, and no job.

        Raises:
            ArgumentError: there are.
        """
        given = {
            "--partition": self.partition,
            "--time-limit": self.time,
            "--array": self.array,
            "--sbatch": self.sbatch or None,
            "--yes": self.yes or None,
        }
        for name, value in given.items():
            if value is not None:
                raise ArgumentError(f"{name} needs --submit slurm.")


def submit_command(
    out: Path,
    job_options: JobOptions,
    *,
    workers: int | None = None,
    threads: int | None = None,
    gpus: str | None = None,
    then_report: bool = False,
    also: Sequence[str] = (),
) -> bool:
    """Write this command as batch scripts, if it is to be submitted; return whether it is.

    Args:
        out: output folder of the command, or .jsonl file; the scripts are beside it.
        job_options: the options of the job.
        workers: number of processes of the command.
        threads: number of threads of each.
        gpus: GPUs of the command.
        then_report: whether the jobs of an array leave the report to a job that follows them.
        also: arguments to add to the command.

    Raises:
        ArgumentError: options of a job are given without --submit, or sbatch does not accept them.
    """
    from parfocal.distribute.slurm import SlurmError, SlurmJob, kept_variables, time_note

    if job_options.system is None:
        job_options.refuse_without_system()
        return False
    array = job_options.array
    words = _without_submission(sys.argv[1:])
    command = [*_program(), *words]
    command += [word for word in also if word not in command]
    name = f"parfocal-{_subcommand(words)}"
    place = out.stem if out.suffix == ".jsonl" else out.name
    with wrong_usage(SlurmError):
        job = SlurmJob(
            *(name, command, out.with_name(f"{place}-slurm"), Path.cwd()),
            array=array,
            partition=job_options.partition,
            time=job_options.time,
            cpus=(workers or 1) * (threads or 1) if workers or threads else None,
            gpus=0 if gpus is None else len(gpus.split(",")),
            options=job_options.sbatch or (),
            variables=kept_variables(os.environ),
            shards=then_report and array is not None,
        )
    if (note := time_note(job_options.time)) is not None:
        typer.echo(f"parfocal: {note}", err=True)
    jobs = [job]
    if job.shards:
        jobs.append(replace(job, name=f"{name}-report", array=None, shards=False))
    submitted: str | None = None
    for each in jobs:
        path = each.write()
        if not job_options.yes:
            after = "" if each is job else " --dependency=afterany:ID_OF_THE_ARRAY"
            typer.echo(f"wrote {path}; to submit it: sbatch{after} {path}")
            continue
        submitted = each.submit(after=submitted)
        typer.echo(f"wrote {path}; submitted as job {submitted}")
    return True


def gpus_of_devices(devices: int | None, device: str) -> str | None:
    """Return the GPUs that a job needs for a training on several devices; None if it needs none.

    Args:
        devices: value of --devices.
        device: value of --device.
    """
    if devices is None or device == "cpu":
        return None
    return ",".join(map(str, range(devices)))


def _program() -> list[str]:
    """Return the command that starts parfocal as this process was."""
    script = Path(sys.executable).with_name("parfocal")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "parfocal.cli"]


def _subcommand(words: Sequence[str]) -> str:
    """Return the subcommand; the options that may precede it have no value."""
    return next((word for word in words if not word.startswith("-")), "")


def _without_submission(words: Sequence[str]) -> list[str]:
    """Return the arguments of a command without those of its submission."""
    removed = [*WITH_VALUE, *([] if _subcommand(words) in TIME_IS_A_COLUMN else ["--time"])]
    left: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in removed:
            skip = True
        elif word != "--yes" and word.partition("=")[0] not in removed:
            left.append(word)
    return left
