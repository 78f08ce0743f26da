"""Write a report beside results without losing the results if the report fails."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def optional_report(page: Path, *, retry_command: str) -> Iterator[None]:
    """Log any error of a block that writes a report, and continue.

    Args:
        page: the file of the report. If the block fails, a report of earlier results is deleted,
            because it would be mistaken for a report of the new ones.
        retry_command: command that writes the report again, printed in the log.
    """
    try:
        yield
    except Exception as error:  # whatever it is, the results themselves are complete
        page.unlink(missing_ok=True)
        kind = "" if type(error).__module__.startswith("parfocal") else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        logger.warning(
            "%s could not be written (%s%s); all other results are complete. To try again: %s",
            page,
            kind,
            reason,
            retry_command,
        )
        logger.debug("the report failed", exc_info=error)
