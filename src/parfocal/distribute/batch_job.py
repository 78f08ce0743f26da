"""Recognize the batch job that this process belongs to, and its share of the work."""

import os
from collections.abc import Mapping

# Job of each batch system, and the part of it that a process is, by environment variables.
JOBS = {
    "slurm": (("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"), "SLURM_ARRAY_TASK_ID"),
    "pbs": (("PBS_JOBID",), "PBS_ARRAY_INDEX"),
    "lsf": (("LSB_JOBID",), "LSB_JOBINDEX"),
}


def this_job(environment: Mapping[str, str] = os.environ) -> str:
    """Return the batch job of this process, such as "slurm 123_4"; empty if there is none."""
    for system, (names, part) in JOBS.items():
        job = next((environment[name] for name in names if environment.get(name)), None)
        if job is not None:
            index = environment.get(part, "")
            return f"{system} {job}{f'_{index}' if index.isdecimal() else ''}"
    return ""
