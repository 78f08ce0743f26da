"""A report beside results: where it cannot be written, they are worth no less."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def optional_report(page: Path, *, retry_command: str) -> Iterator[None]:
    """Tell that a report could not be written, and go on: what it is about is done and whole.

    Args:
        page: of the report; one that is there of earlier results is taken away, as it would be
            taken for these.
        again: a command that writes it.
    """
    try:
        yield
    except Exception as error:  # any at all: a fault of a page must not cost what it is about
        page.unlink(missing_ok=True)
        kind = "" if type(error).__module__.startswith("parfocal") else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        logger.warning(
            "%s could not be written (%s%s); all else is. Try again: %s", page, kind, reason, again
        )
        logger.debug("the report failed", exc_info=error)
