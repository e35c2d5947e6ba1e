import pickle
from pathlib import Path

import pytest
import torch

from runner.checkpoints import (
    DamagedCheckpoint,
    checkpoint_steps,
    newest_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    tensor_bytes,
    write_checkpoint,
)
from runner.lease import Superseded
from runner.records import Fingerprints
from runner.storage import Storage

IDS = Fingerprints("config", "data")
MANIFEST = "manifest.json"


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "generator": {"weight": torch.full((4, 3), float(step)), "bias": torch.arange(3)},
        "progress": {"place": torch.tensor([step, 1, 0])},
    }


@pytest.fixture
def trial(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path)
    for step in (5, 10):
        write_checkpoint(storage, groups(step), step, IDS)
    return storage


def test_what_was_written_is_read(trial: Storage) -> None:
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    step, tensors = found
    assert step == 10
    for group, expected in groups(10).items():
        assert tensors[group].keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensors[group][name], tensor)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["generator.safetensors", "progress.safetensors", MANIFEST])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_next_older_one_used(
    trial: Storage, tmp_path: Path, name: str, damage: object
) -> None:
    damage(tmp_path / "checkpoints" / "step_00000010" / name)  # type: ignore[operator]
    said: list[str] = []
    found = newest_checkpoint(trial, IDS, said.append)
    assert found is not None
    assert found[0] == 5
    assert len(said) == 1
    assert said[0].startswith("checkpoint step_00000010: ")
    assert checkpoint_steps(trial) == [5]
    assert len([name for name in trial.names("checkpoints") if name.startswith("damaged_step_00000010")]) == 1


@pytest.mark.parametrize("ids", [Fingerprints("other", "data"), Fingerprints("config", "other")])
def test_a_checkpoint_of_another_config_or_other_data_is_not_used(trial: Storage, ids: Fingerprints) -> None:
    with pytest.raises(DamagedCheckpoint, match="is for another"):
        read_checkpoint(trial, 10, ids)


def test_loading_runs_no_code(trial: Storage, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (witness,)  # type: ignore[return-value]

    path = tmp_path / "checkpoints" / "step_00000010" / "generator.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    found = newest_checkpoint(trial, IDS, lambda text: None)
    assert found is not None
    assert found[0] == 5
    assert not witness.exists()


def test_nothing_is_committed_once_another_attempt_has_taken_over(trial: Storage) -> None:
    def superseded() -> None:
        raise Superseded

    with pytest.raises(Superseded):
        write_checkpoint(trial, groups(15), 15, IDS, superseded)
    assert checkpoint_steps(trial) == [10, 5]
    assert trial.temporary_names("checkpoints") == []


def test_the_newest_ones_stay(trial: Storage) -> None:
    write_checkpoint(trial, groups(15), 15, IDS)
    trial.at("checkpoints").make_folder(".tmp-step_00000020-broken-off")
    remove_old_checkpoints(trial, keep=2)
    assert checkpoint_steps(trial) == [15, 10]
    assert trial.temporary_names("checkpoints") == []


def test_bytes_depend_on_the_tensors_alone() -> None:
    tensors = groups(3)["generator"]
    assert tensor_bytes(tensors) == tensor_bytes(dict(reversed(tensors.items())))
    assert tensor_bytes(tensors) != tensor_bytes(groups(4)["generator"])
