"""Read the config.yaml of a task of Patho-Bench."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from parfocal.dataset.errors import CohortError


@dataclass(frozen=True)
class TaskConfig:
    """A task of Patho-Bench.

    Args:
        source: the file.
        column: column of the label.
        names: names of the classes by the number in the table.
        time: column of times, for a task of survival; else None.
        event: column of events, for a task of survival; else None.
    """

    source: Path
    column: str
    names: Mapping[str, str]
    time: str | None = None
    event: str | None = None


def read_task_config(path: Path) -> TaskConfig:
    """Read a config.yaml.

    Raises:
        CohortError: the file cannot be read, or names no column of the task.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        column = content["task_col"]
        names = content.get("label_dict") or {}
        extra = [str(each) for each in content.get("extra_cols") or []]
        labels = {str(key): str(name) for key, name in names.items()}
    except OSError as error:
        raise CohortError(f"{path}: {error.strerror}; check the path.") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        raise CohortError(
            f"{path.name}: not the config.yaml of a task of Patho-Bench, which has `task_col` and "
            "`label_dict`; leave it out, and name the label with --label COLUMN."
        ) from None
    survival = content.get("task_type") == "survival"
    event = next((name for name in extra if name.lower().endswith("event")), None)
    time = next((name for name in extra if name != event), None)
    return TaskConfig(
        path,
        str(column),
        labels,
        time if survival else None,
        event if survival else None,
    )
