"""A painted slide for the tests of predict."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "one.tif")
