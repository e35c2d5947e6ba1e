"""How Ray Data's tasks share the shards of a patch store."""

import pytest

from runner.on_ray import prepare


@pytest.mark.parametrize(
    ("num_shards", "cores", "num_tasks"),
    [(1, 2, 1), (7, 2, 7), (8, 2, 8), (16, 2, 8), (75, 2, 10), (75, 64, 75), (1000, 2, 125), (5, 0, 5)],
)
def test_each_core_has_some_tasks_and_each_task_few_shards(
    monkeypatch: pytest.MonkeyPatch, num_shards: int, cores: int, num_tasks: int
) -> None:
    monkeypatch.setattr(prepare.ray, "cluster_resources", lambda: {"CPU": float(cores)} if cores else {})
    assert prepare._num_tasks(num_shards) == num_tasks
