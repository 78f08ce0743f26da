"""Write a command as a batch script of SLURM, and submit it."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.distribute.stopping import EXIT_CODE
from parfocal.files import write_whole

SHARD = ' --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
NOTICE_S = 300  # before the time limit: for the slides in flight, or the epoch
TIME = re.compile(r"(?:\d+-)?\d+(?::\d+){0,2}")
WITHOUT_HOURS = re.compile(r"(\d+)(?::(\d+))?")
# What decides which files a command finds; none of it is secret.
KEPT_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "OMP_NUM_THREADS",
)
TEMPLATE = """\
#!/bin/bash
# {title}
# Written by parfocal; edit it as you like, then: sbatch {script}
{directives}

cd {workdir} || exit 1
{exports}
# SLURM sends SIGUSR1 {notice} s before the time limit: the slides in work, or the epoch, are
# finished. The job is then queued again, and goes on where it has stopped.
{command} &
child=$!
trap 'kill -USR1 "$child" 2>/dev/null' USR1
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # a signal has ended the wait, not the command
    wait "$child"
    code=$?
done
if [ "$code" -eq {exit_code} ] && [ -n "$SLURM_JOB_ID" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


class SlurmError(Exception):
    """A batch job cannot be written or submitted."""


@dataclass(frozen=True)
class SlurmJob:
    """A command as a batch job.

    Args:
        name: name of the job.
        command: the command and its arguments.
        folder: folder of the script and the logs.
        workdir: folder to run in, from which relative paths start.
        array: number of tasks that share the work; None for a single job.
        partition: partition to run in; None for the default one.
        time: time limit, as sbatch takes it, such as 08:00:00; None for that of the partition.
        cpus: number of cores of each task.
        gpus: number of GPUs of each task.
        memory: memory of each task, as sbatch takes it, such as 32G; None for the default.
        options: more options of sbatch, such as "--account=lab".
        variables: environment variables to set.
        shards: whether each task of the array does its own share only.

    Raises:
        SlurmError: a value is not one that sbatch takes.
    """

    name: str
    command: Sequence[str]
    folder: Path
    workdir: Path
    array: int | None = None
    partition: str | None = None
    time: str | None = None
    cpus: int | None = None
    gpus: int = 0
    memory: str | None = None
    options: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    shards: bool = False

    def __post_init__(self) -> None:
        """Refuse what sbatch would refuse, or what would add lines to the script."""
        if self.time is not None and TIME.fullmatch(self.time) is None:
            raise SlurmError(
                f"--time-limit {self.time}: write minutes, hours:minutes:seconds or days-hours, "
                "such as 8:00:00."
            )
        for option in self.options:
            if not option.startswith("-") or "\n" in option:
                raise SlurmError(
                    f"--sbatch {option!r}: write one option of sbatch, such as --account=lab."
                )
        texts = {"--partition": self.partition, "job name": self.name, "memory": self.memory}
        for name, text in texts.items():
            if re.search(r"\s", text or ""):
                raise SlurmError(
                    f"{name} {text!r}: sbatch does not accept spaces here; remove them."
                )

    @property
    def path(self) -> Path:
        """The script."""
        return self.folder / f"{self.name}.sbatch"

    def script(self) -> str:
        """Return the text of the script."""
        log = "%x-%A_%a.log" if self.array is not None else "%x-%j.log"
        wanted = {
            "job-name": self.name,
            "array": None if self.array is None else f"1-{self.array}",
            "partition": self.partition,
            "time": self.time,
            "ntasks": "1",
            "cpus-per-task": self.cpus,
            "gpus-per-task": self.gpus or None,
            "mem": self.memory,
            "output": shlex.quote(str(self.folder.absolute() / log)),
            "open-mode": "append",
            "signal": f"B:USR1@{NOTICE_S}",
            "requeue": "",
        }
        directives = [
            f"#SBATCH --{name}{'=' if value != '' else ''}{value}"
            for name, value in wanted.items()
            if value is not None
        ]
        directives += [f"#SBATCH {option}" for option in self.options]
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return TEMPLATE.format(
            title=" ".join(shlex.join(self.command).splitlines()),
            script=shlex.quote(str(self.path)),
            directives="\n".join(directives),
            workdir=shlex.quote(str(self.workdir)),
            exports="".join(f"{line}\n" for line in exports),
            notice=NOTICE_S,
            command=shlex.join(self.command) + (SHARD if self.shards else ""),
            exit_code=EXIT_CODE,
        )

    def write(self) -> Path:
        """Write the script, and return its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.script().encode())
        return self.path

    def submit(self, *, after: str | None = None) -> str:
        """Submit the written script, and return the id of the job.

        Args:
            after: id of a job that has to end first.

        Raises:
            SlurmError: there is no sbatch, or it refuses the script.
        """
        command = ["sbatch", "--parsable"]
        command += [] if after is None else [f"--dependency=afterany:{after}"]
        try:
            done = subprocess.run(
                [*command, str(self.path)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise SlurmError(
                f"there is no sbatch on this machine; run `sbatch {self.path}` on one that has it."
            ) from None
        if done.returncode:
            text = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise SlurmError(
                f"{self.path}: sbatch refused it ({text}). Edit the script, and submit it."
            )
        return done.stdout.strip().partition(";")[0]


def time_note(text: str | None) -> str | None:
    """Return a note on how SLURM reads a time limit without hours, which may be a mistake.

    >>> time_note("99")
    '--time-limit 99 is 99 minutes; for hours, write 99:00:00'
    >>> time_note("8:30")
    '--time-limit 8:30 is 8 minutes and 30 seconds; for hours, write 8:30:00'

    Args:
        text: the time limit; None without one.

    Returns:
        The note; None if the time limit has hours or days.
    """
    found = None if text is None else WITHOUT_HOURS.fullmatch(text)
    if text is None or found is None:
        return None
    minutes, seconds = found.groups()
    read = f"{minutes} minutes" + ("" if seconds is None else f" and {seconds} seconds")
    meant = f"{text}:00:00" if seconds is None else f"{text}:00"
    return f"--time-limit {text} is {read}; for hours, write {meant}"


def kept_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that a job needs to find the same files."""
    return {name: environment[name] for name in KEPT_VARIABLES if environment.get(name)}
