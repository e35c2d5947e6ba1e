"""What trials are given of machines that have less than Ray counts, or that they choose by labels; and their memory."""

from typing import Any

import pytest

from gan.networks.model import ModelSettings
from runner.config.loading import validate
from runner.config.schema import Resources
from runner.errors import ConfigError, ResourceError
from runner.process.machine import Machine
from runner.trial.memory import TrainingShape, most_expected, training_shapes, worker_memory
from runner.trial.resources import Node, NoRoom, resolve_resources

GB = 10**9
NO_DRIVER = "torch finds no driver for it"


def node(cpus: float, gpus: float, real: Machine | None = None, **fields: Any) -> Node:
    """A node of a cluster by Ray's count, and by what is there."""
    counted = Node(cpus, gpus, **{"name": "alpha", **fields})
    return counted if real is None else counted.with_machine(real)


def machine(cores: int, gpus: int = 0, memory: float = 64 * GB, swap: float = 0, problem: str = "") -> Machine:
    """What a node has."""
    return Machine(cores, int(memory), int(swap), gpus, bool(gpus or problem), problem)


def test_a_worker_gets_no_more_cores_than_its_node_has_and_the_difference_is_said() -> None:
    given = resolve_resources(Resources(), [node(8, 0, machine(2))], 1)
    assert (given.cpus_per_worker, given.max_concurrent) == (2, 1)
    assert "alpha: Ray counts 8 cores, but its processes may use 2" in given.describe()
    assert resolve_resources(Resources(), [node(8, 0, machine(8))], 1).notes == []
    with pytest.raises(ResourceError, match="room for 0 on alpha with 2 cores"):
        resolve_resources(Resources(cpus_per_worker=4), [node(8, 0, machine(2))], 1)


@pytest.mark.parametrize("gpus", ["auto", 0.5, 1.0])
def test_a_gpu_that_ray_counts_and_torch_can_not_use_is_refused_by_its_nodes_name(gpus: Any) -> None:
    broken = node(8, 1, machine(8, problem=NO_DRIVER))
    sound = node(8, 2, machine(8, 2), name="beta")
    with pytest.raises(ResourceError) as refused:
        resolve_resources(Resources(gpus_per_worker=gpus), [broken, sound], 4)
    assert f"alpha: Ray counts 1 GPU, but torch can use no GPU: {NO_DRIVER}" in str(refused.value)
    assert "GPUs that can be used: 2 GPUs on beta" in str(refused.value)
    assert not isinstance(refused.value, NoRoom)  # to wait does not help

    assert resolve_resources(Resources(gpus_per_worker=gpus), [sound], 4).device == "cuda"
    assert resolve_resources(Resources(gpus_per_worker=0.0), [broken, sound], 4).device == "cpu"


def test_a_broken_gpu_does_not_matter_on_a_node_that_is_not_chosen() -> None:
    broken = node(8, 1, machine(8, problem=NO_DRIVER), labels={"zone": "a"})
    sound = node(8, 1, machine(8, 1), name="beta", labels={"zone": "b"})
    given = resolve_resources(Resources(label_selector={"zone": "!a"}), [broken, sound], 4)
    assert (given.device, given.max_concurrent, given.label_selector) == ("cuda", 1, {"zone": "!a"})


def test_a_gpu_of_this_machine_that_is_not_used_is_said() -> None:
    alone = Node(2, 0).with_machine(machine(2, problem=NO_DRIVER))
    assert f"this machine has a GPU that is not used: {NO_DRIVER}" in resolve_resources(Resources(), [alone], 1).notes
    with pytest.raises(NoRoom, match=NO_DRIVER):
        resolve_resources(Resources(gpus_per_worker=1.0), [alone], 1)


def test_only_nodes_with_the_accelerator_type_count() -> None:
    nodes = [node(8, 1, accelerator_types=["T4"]), node(16, 4, name="beta", accelerator_types=["A100"])]
    given = resolve_resources(Resources(accelerator_type="A100"), nodes, 9)
    assert (given.max_concurrent, given.cpus_per_worker, given.accelerator_type) == (4, 4, "A100")
    with pytest.raises(NoRoom) as refused:
        resolve_resources(Resources(accelerator_type="H100", label_selector={"zone": "a"}), nodes, 9)
    assert "accelerator_type is 'H100' and resources.label_selector is zone=a, but no node" in str(refused.value)
    assert "alpha: accelerator type T4; labels none" in str(refused.value)


def test_a_machine_alone_is_no_choice() -> None:
    for asked in ({"accelerator_type": "A100"}, {"label_selector": {"zone": "a"}}):
        with pytest.raises(ResourceError, match="nothing to choose from"):
            resolve_resources(Resources(**asked), [Node(2, 0)], 1)


@pytest.mark.parametrize(("given", "expected"), [("auto", (1, 8)), (3, (2, 3)), (1, (8, 1)), (99, (1, 8))])
def test_no_more_trials_run_at_once_than_asked_for_and_they_share_the_cores(
    given: Any, expected: tuple[int, int]
) -> None:
    resources = resolve_resources(Resources(max_concurrent=given), [Node(8, 0)], 20)
    assert (resources.cpus_per_worker, resources.max_concurrent) == expected


@pytest.mark.parametrize("number", [0, -1, 1.5, "many"])
def test_a_number_of_trials_that_can_not_be_is_refused(number: Any) -> None:
    with pytest.raises(ConfigError, match=r"resources.max_concurrent is .*: it must"):
        validate({"name": "x", "resources": {"max_concurrent": number}}, "file")


SHAPE = TrainingShape(ModelSettings(64, 70, 256), 1, "fp32")  # 1.7 GB by its tensors, about 2.8 in all


def test_no_more_trials_run_at_once_than_memory_holds_unless_they_are_asked_for() -> None:
    small = Node(8, 0).with_machine(machine(8, memory=7 * GB))
    given = resolve_resources(Resources(), [small], 8, [SHAPE])
    assert (given.max_concurrent, given.cpus_per_worker) == (2, 4)
    assert "memory holds 2 trials at a time: a worker is expected to take 3.2 GB" in given.describe()
    assert resolve_resources(Resources(max_concurrent=5), [small], 8, [SHAPE]).max_concurrent == 5
    large = Node(8, 0).with_machine(machine(8))
    assert resolve_resources(Resources(), [large], 8, [SHAPE]).describe().count("\n") == 0


def test_a_machine_that_may_just_hold_a_trial_gets_one() -> None:
    tight = Node(8, 0).with_machine(machine(8, memory=1.8 * GB))
    assert resolve_resources(Resources(), [tight], 8, [SHAPE]).max_concurrent == 1


def test_a_head_without_cores_takes_no_share() -> None:
    nodes = [node(0, 0, machine(8, memory=1 * GB)), node(8, 0, machine(8), name="beta")]
    given = resolve_resources(Resources(), nodes, 8, [SHAPE])
    assert (given.cpus_per_worker, given.max_concurrent, given.notes) == (1, 8, [])


def test_what_a_machine_may_not_hold_is_said_and_not_refused() -> None:
    large = SHAPE._replace(batch_size=64)  # more than there may be patches, and a batch has no more than these
    given = resolve_resources(Resources(), [Node(2, 0).with_machine(machine(2, memory=4 * GB))], 8, [large])
    assert "memory may not do on this machine" in given.describe()
    assert given.max_concurrent == 1


def test_what_no_machine_can_hold_is_refused_with_both_numbers() -> None:
    small = node(8, 0, machine(8, memory=1 * GB))
    with pytest.raises(NoRoom) as refused:
        resolve_resources(Resources(), [small, node(8, 0, machine(8, memory=1.2 * GB), name="beta")], 8, [SHAPE])
    assert "a worker needs more than 1.7 GB of memory for model.channels 64 and data.patch_size 256" in str(
        refused.value
    )
    assert "beta may use 1.2 GB, and no other node more" in str(refused.value)

    # Swap is slow, and no reason to refuse; a GPU has memory of its own; of a node that came later nothing is known.
    for fits in (
        machine(8, memory=1 * GB, swap=1 * GB),
        machine(8, 1, memory=1 * GB),
    ):
        assert resolve_resources(Resources(), [node(8, fits.gpus, fits)], 8, [SHAPE]).max_concurrent == 1
    assert resolve_resources(Resources(), [small, node(8, 0, name="beta")], 8, [SHAPE]).max_concurrent == 8


@pytest.mark.parametrize(
    ("channels", "receptive_field", "patch_size"), [(1, 1, 64), (64, 1, 64), (1, 16, 64), (8, 70, 128), (8, 286, 128)]
)
def test_arithmetic_gives_more_than_the_tensors(channels: int, receptive_field: int, patch_size: int) -> None:
    shape = TrainingShape(ModelSettings(channels, receptive_field, patch_size), 8, "fp32")
    memory = worker_memory([shape])
    assert memory.least < memory.expected <= most_expected([shape])


def test_a_sweep_takes_what_its_largest_trial_takes() -> None:
    experiment = {"name": "x", "resources": {"workers": 2}, "model": {"channels": 4}}
    shapes = training_shapes(validate({**experiment, "training": {"batch_size": size}}, "x") for size in (2, 8, 8))
    assert sorted(shape.batch_size for shape in shapes) == [1, 4]
    assert worker_memory(shapes).shape.batch_size == 4
