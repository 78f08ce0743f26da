import logging
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest

import worker_functions
from parfocal.distribute import ray_workers
from parfocal.distribute.pool import run_items
from parfocal.distribute.ray_workers import RayError, RayWorkers
from parfocal.distribute.worker import WorkerPlan


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = WorkerPlan(partial(worker_functions.build, None))
    with pytest.raises(RayError, match=r"pip install 'parfocal\[ray\]'"):
        list(run_items(["a"], plan, RayWorkers(1)))


class TestWithRay:
    pytestmark = pytest.mark.slow

    @pytest.fixture(autouse=True)
    def _needs_ray(self, monkeypatch):
        pytest.importorskip("ray", reason="needs parfocal[ray]")
        # Ray's workers look for modules where this process does.
        monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))

    def test_actors_share_the_items_and_one_that_is_killed_is_replaced(self, tmp_path, caplog):
        items = ["a", "b-warns", "c-kills-once", "d-kills", "e", "f-raises-not"]
        plan = WorkerPlan(partial(worker_functions.build, tmp_path), shared=tmp_path, threads=1)
        rows = {row.item: row for row in run_items(items, plan, RayWorkers(2))}
        assert sorted(rows) == items
        assert rows["c-kills-once"].value == "c-kills-once of 1 1"
        assert rows["d-kills"].died.startswith("3 workers died over it;")
        tries = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
        assert tries == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 1, "f": 1}
        assert "b-warns is odd" in caplog.messages

    def test_a_cluster_that_does_not_answer_is_named(self, tmp_path):
        plan = WorkerPlan(partial(worker_functions.build, tmp_path))
        with pytest.raises(RayError, match="no Ray cluster answers at auto"):
            list(run_items(["a"], plan, RayWorkers(1, address="auto")))

    def test_gpus_that_do_not_exist_are_refused(self, tmp_path):
        plan = WorkerPlan(partial(worker_functions.build, tmp_path))
        with pytest.raises(RayError, match="Ray finds no GPU on this machine"):
            list(run_items(["a"], plan, RayWorkers(1, gpus=0.5)))


class FakeRay(ModuleType):
    """The part of Ray that is used, whose actors work in this process as soon as they are asked."""

    def __init__(self):
        super().__init__("ray")
        names = ("RayActorError", "WorkerCrashedError", "NodeDiedError", "RaySystemError")
        self.exceptions = SimpleNamespace(
            **{name: type(name, (Exception,), {}) for name in (*names, "RayTaskError")}
        )
        self.killed, self.options = 0, {}

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **options):
        self.options = options
        return lambda kind: SimpleNamespace(remote=lambda *arguments: _FakeActor(kind(*arguments)))

    def wait(self, references, num_returns, timeout=None):
        return references, []

    def get(self, reference, timeout=None):
        return reference.value

    def kill(self, actor):
        self.killed += 1


class _FakeActor:
    def __init__(self, actor):
        self._actor = actor

    def __getattr__(self, name):
        method = getattr(self._actor, name)
        return SimpleNamespace(remote=lambda *arguments: _Reference(method(*arguments)))


class _Reference:
    def __init__(self, value):
        self.value = value


@pytest.fixture
def fake_ray(monkeypatch):
    """Let the fake stand for Ray, and undo what a worker does to the log of this process."""
    package = logging.getLogger("parfocal")
    before = package.level, package.propagate, list(package.handlers)
    fake = FakeRay()
    monkeypatch.setattr(ray_workers, "_import_ray", lambda: fake)
    yield fake
    package.level, package.propagate = before[:2]
    package.handlers[:] = before[2]


def test_an_actor_hears_of_items_ahead_and_ends_its_function(fake_ray, tmp_path):
    plan = WorkerPlan(partial(worker_functions.Noting, tmp_path), queued=1)
    rows = {row.value for row in run_items(["a", "b", "c"], plan, RayWorkers(1))}
    assert rows == {"a", "b", "c"}
    assert fake_ray.options["max_concurrency"] == 2  # one in flight, one queued
    assert fake_ray.killed == 1
    lines = (tmp_path / "noted").read_text().split()
    assert sorted(lines) == ["a", "ahead-a", "ahead-b", "ahead-c", "b", "c", "end"]
    assert lines[-1] == "end"
