import sys
from functools import partial

import pytest

import worker_functions
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
