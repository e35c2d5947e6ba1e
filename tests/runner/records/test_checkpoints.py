import contextlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runner.config.fingerprint import Fingerprints
from runner.process.lease import Superseded
from runner.records.checkpoints import (
    DamagedCheckpoint,
    NoGoodCheckpoint,
    RunPosition,
    checkpoint_steps,
    newest_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from runner.storage.folder import Folder
from runner.storage.storage import Storage
from runner.storage.tensor_writer import write_tensors
from tests.support.damage import FILE_DAMAGES

IDS = Fingerprints("config", "data")
MANIFEST = "manifest.json"


GROUPS = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer", "progress")


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"weight": torch.full((4, 3), float(step)), "number": torch.arange(3)} for name in GROUPS}


LOG = b'{"step": 5}\n'


def write(trial: Storage, step: int, **options: object) -> None:
    place = RunPosition(step, step // 10 if step % 10 == 0 else 0, {"threads": 1, "precision": "fp32"}, 1.5)
    write_checkpoint(trial, groups(step), LOG, place, IDS, **options)  # type: ignore[arg-type]


@pytest.fixture
def trial(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path)
    for step in (5, 10):
        write(storage, step)
    return storage


def test_what_was_written_is_read(trial: Storage) -> None:
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    step, tensors, log, seconds, best = found
    assert (step, log, seconds, best) == (10, LOG, 1.5, None)
    for group, expected in groups(10).items():
        assert tensors[group].keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensors[group][name], tensor)


@pytest.mark.parametrize("how", FILE_DAMAGES)
@pytest.mark.parametrize("name", [*(f"{group}.safetensors" for group in GROUPS), "metrics.jsonl", MANIFEST])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_next_older_one_used(
    trial: Storage, tmp_path: Path, name: str, how: str
) -> None:
    FILE_DAMAGES[how](tmp_path / "checkpoints" / "step_00000010" / name)
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
    @contextlib.contextmanager
    def superseded() -> Iterator[None]:
        raise Superseded
        yield

    with pytest.raises(Superseded):
        write(trial, 15, committing=superseded)
    assert checkpoint_steps(trial) == [10, 5]
    assert trial.temporary_names("checkpoints") == []


def test_where_all_are_damaged_none_is_touched_and_each_is_named(trial: Storage, tmp_path: Path) -> None:
    for step in ("05", "10"):
        FILE_DAMAGES["all but one byte"](tmp_path / "checkpoints" / f"step_000000{step}" / "generator.safetensors")
    before = trial.names("checkpoints")
    for _ in range(2):
        with pytest.raises(NoGoodCheckpoint, match=r"(?s)step_00000010: generator.*step_00000005: generator"):
            newest_checkpoint(trial, IDS, pytest.fail)
    assert trial.names("checkpoints") == before


def test_a_checkpoint_that_was_being_replaced_stands_in(trial: Storage) -> None:
    write(trial, 10)
    assert trial.names("checkpoints") == ["step_00000005", "step_00000010"]
    trial.at("checkpoints").rename("step_00000010", "replaced_step_00000010")
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    assert found.step == 10
    assert trial.names("checkpoints") == ["step_00000005", "step_00000010"]


def test_replacing_a_checkpoint_may_break_off_anywhere(trial: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Folder.rename

    def break_off(storage: Folder, name: str, new_name: str) -> None:
        if new_name == "step_00000010":
            raise KeyboardInterrupt
        rename(storage, name, new_name)

    monkeypatch.setattr(Folder, "rename", break_off)
    with pytest.raises(KeyboardInterrupt):
        write(trial, 10)
    monkeypatch.undo()
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    assert found.step == 10


def test_those_of_kept_epochs_stay(trial: Storage) -> None:
    write(trial, 15)
    write(trial, 20)
    remove_old_checkpoints(trial, 1, lambda epoch: epoch > 0)
    assert checkpoint_steps(trial) == [20, 10]


def test_the_newest_ones_stay(trial: Storage) -> None:
    write(trial, 15)
    trial.at("checkpoints").make_folder(".tmp-step_00000020-broken-off")
    remove_old_checkpoints(trial, keep=2)
    assert checkpoint_steps(trial) == [15, 10]
    assert trial.temporary_names("checkpoints") == []


def file_of(tensors: dict[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    write_tensors(stream, tensors)
    return stream.getvalue()


def test_bytes_depend_on_the_tensors_alone() -> None:
    tensors = groups(3)["generator"]
    assert file_of(tensors) == file_of(dict(reversed(tensors.items())))
    assert file_of(tensors) != file_of(groups(4)["generator"])


@pytest.mark.parametrize("seed", range(5))
def test_the_files_are_those_that_the_safetensors_library_writes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"layer.{number}.wéight": torch.randn(shape, generator=generator).to(kind)
        for number, (shape, kind) in enumerate(
            [
                ((3, 4), torch.float32),
                ((), torch.int64),
                ((5,), torch.float16),
                ((2, 1, 3), torch.float64),
                ((1,), torch.float32),
            ]
        )
    }
    assert file_of(tensors) == safetensors.torch.save(tensors)
