import logging

import pytest


@pytest.fixture(autouse=True)
def _keep_logging():
    """Undo what a worker that runs in this process does to the logging."""
    package = logging.getLogger("parfocal")
    kept = list(package.handlers), package.level, package.propagate
    yield
    package.handlers[:], package.level, package.propagate = kept
