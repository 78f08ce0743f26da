"""Services on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.encoders.service.services import ScriptedService, scripted, served


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedService]:
    """A scripted service, and an empty netrc file."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with scripted() as running:
        yield running


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of the reference server with the encoder `tiny`."""
    with served() as running:
        yield running
