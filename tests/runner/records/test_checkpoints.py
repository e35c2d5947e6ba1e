import contextlib
import io
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

import runner.storage.bucket
from runner.config.fingerprint import Fingerprints
from runner.process.lease import Superseded
from runner.records.checkpoints import (
    DamagedCheckpoint,
    NoGoodCheckpoint,
    RunPosition,
    best_in_checkpoints,
    checkpoint_steps,
    newest_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    runtime_in_checkpoints,
    write_checkpoint,
)
from runner.storage.folder import Folder
from runner.storage.requests import RETRY_VARIABLE
from runner.storage.storage import Storage, Unreachable
from runner.storage.tensor_writer import write_tensors
from tests.support.damage import OBJECT_DAMAGES, damage_object, make_unreadable
from tests.support.object_proxy import FaultProxy, on

IDS = Fingerprints("config", "data")
MANIFEST = "manifest.json"


GROUPS = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer", "progress")


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"weight": torch.full((4, 3), float(step)), "number": torch.arange(3)} for name in GROUPS}


LOG = b'{"step": 5}\n'


def write(trial: Storage, step: int, **options: object) -> None:
    place = RunPosition(step, step // 10 if step % 10 == 0 else 0, {"threads": 1, "precision": "fp32"}, 1.5)
    write_checkpoint(trial, groups(step), LOG, place, IDS, **options)  # type: ignore[arg-type]


def with_two_checkpoints(trial: Storage) -> Storage:
    for step in (5, 10):
        write(trial, step)
    return trial


@pytest.fixture
def trial(storage: Storage) -> Storage:
    """Two checkpoints in a folder, and in a bucket."""
    return with_two_checkpoints(storage)


@pytest.fixture
def folder_trial(tmp_path: Path) -> Folder:
    """For what is about files."""
    return with_two_checkpoints(Folder.at_path(tmp_path))  # type: ignore[return-value]


def path_of(trial: Storage, step: int, name: str) -> str:
    """Where a checkpoint's file is: in a bucket under a name of its writer's own."""
    folder = f"checkpoints/step_{step:08d}"
    files = json.loads(trial.read(f"{folder}/{MANIFEST}"))["files"]
    return f"{folder}/{files[name].get('path', name) if name in files else name}"


def test_what_was_written_is_read(trial: Storage) -> None:
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    step, tensors, log, seconds, best = found
    assert (step, log, seconds, best) == (10, LOG, 1.5, None)
    for group, expected in groups(10).items():
        assert tensors[group].keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensors[group][name], tensor)


@pytest.mark.parametrize("how", OBJECT_DAMAGES)
@pytest.mark.parametrize("name", ["generator.safetensors", "progress.safetensors", "metrics.jsonl", MANIFEST])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_next_older_one_used(
    trial: Storage, name: str, how: str
) -> None:
    damage_object(trial, path_of(trial, 10, name), OBJECT_DAMAGES[how])
    said: list[str] = []
    found = newest_checkpoint(trial, IDS, said.append)
    assert found is not None
    assert found[0] == 5
    assert checkpoint_steps(trial) == [5]
    # In a bucket, what has no manifest may be in the works elsewhere.
    if not isinstance(trial, Folder) and (name, how) == (MANIFEST, "missing"):
        assert said == []
        return
    assert len(said) == 1
    assert said[0].startswith("checkpoint step_00000010: ")
    assert len([name for name in trial.names("checkpoints") if name.startswith("damaged_step_00000010")]) == 1


@pytest.mark.parametrize("name", [*(f"{group}.safetensors" for group in GROUPS), "metrics.jsonl"])
def test_a_file_that_cant_be_read_is_as_a_damaged_one(folder_trial: Folder, name: str) -> None:
    make_unreadable(folder_trial.local_path / "checkpoints/step_00000010" / name)
    said: list[str] = []
    found = newest_checkpoint(folder_trial, IDS, said.append)
    assert found is not None
    assert found.step == 5
    assert f"{name} can't be read" in said[0]


@pytest.mark.parametrize("ids", [Fingerprints("other", "data"), Fingerprints("config", "other")])
def test_a_checkpoint_of_another_config_or_other_data_is_not_used(trial: Storage, ids: Fingerprints) -> None:
    with pytest.raises(DamagedCheckpoint, match="is for another"):
        read_checkpoint(trial, 10, ids)


@pytest.mark.parametrize("name", ["generator.safetensors", MANIFEST])
def test_a_file_of_another_checkpoint_is_a_damaged_one(trial: Storage, name: str) -> None:
    trial.write(path_of(trial, 10, name), trial.read(path_of(trial, 5, name)))
    said: list[str] = []
    found = newest_checkpoint(trial, IDS, said.append)
    assert found is not None
    assert found.step == 5
    assert ("does not match its SHA-256" if name != MANIFEST else "is for another step") in said[0]


def test_loading_runs_no_code(trial: Storage, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (witness,)  # type: ignore[return-value]

    trial.write(path_of(trial, 10, "generator.safetensors"), pickle.dumps(Payload()))
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
    assert trial.names("checkpoints") == ["step_00000005", "step_00000010"]
    assert not isinstance(trial, Folder) or trial.temporary_names("checkpoints") == []


def test_where_all_are_damaged_none_is_touched_and_each_is_named(trial: Storage) -> None:
    for step in (5, 10):
        damage_object(trial, path_of(trial, step, "generator.safetensors"), OBJECT_DAMAGES["all but one byte"])
    before = trial.names("checkpoints")
    for _ in range(2):
        with pytest.raises(NoGoodCheckpoint, match=r"(?s)step_00000010: generator.*step_00000005: generator"):
            newest_checkpoint(trial, IDS, pytest.fail)
    assert trial.names("checkpoints") == before


def test_a_checkpoint_takes_the_place_of_an_older_one_of_the_same_step(trial: Storage) -> None:
    before = trial.at("checkpoints/step_00000010").total_bytes()
    write(trial, 10)
    assert trial.names("checkpoints") == ["step_00000005", "step_00000010"]
    assert len(trial.names("checkpoints/step_00000010")) == len(GROUPS) + 2
    assert trial.at("checkpoints/step_00000010").total_bytes() == before
    found = newest_checkpoint(trial, IDS, pytest.fail)
    assert found is not None
    assert found.step == 10


def test_a_checkpoint_that_was_being_replaced_stands_in(folder_trial: Folder) -> None:
    folder_trial.at("checkpoints").rename("step_00000010", "replaced_step_00000010")
    found = newest_checkpoint(folder_trial, IDS, pytest.fail)
    assert found is not None
    assert found.step == 10
    assert folder_trial.names("checkpoints") == ["step_00000005", "step_00000010"]


def test_replacing_a_checkpoint_may_break_off_anywhere(folder_trial: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Folder.rename

    def break_off(storage: Folder, name: str, new_name: str) -> None:
        if new_name == "step_00000010":
            raise KeyboardInterrupt
        rename(storage, name, new_name)

    monkeypatch.setattr(Folder, "rename", break_off)
    with pytest.raises(KeyboardInterrupt):
        write(folder_trial, 10)
    monkeypatch.undo()
    found = newest_checkpoint(folder_trial, IDS, pytest.fail)
    assert found is not None
    assert found.step == 10


class _Killed(BaseException):
    """From here on nothing more is done, as after a kill."""


@pytest.mark.parametrize("step", [10, 15])
def test_a_writer_may_be_killed_before_any_of_its_requests(
    bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """What is left is the older checkpoint or the new one, and what does not count is removed later."""
    trial = with_two_checkpoints(bucket_storage)
    for num_done in itertools.count():
        with monkeypatch.context() as patch:
            patch.setattr(runner.storage.bucket, "request", until(num_done))
            with contextlib.suppress(_Killed):
                write(trial, step)
                break
        found = newest_checkpoint(trial, IDS, pytest.fail)
        assert found is not None
        assert found.step == max(checkpoint_steps(trial))
    assert num_done > len(GROUPS)
    assert newest_checkpoint(trial, IDS, pytest.fail).step == step  # type: ignore[union-attr]
    remove_old_checkpoints(trial, keep=3)
    assert checkpoint_steps(trial) == sorted({5, 10, step}, reverse=True)


def until(num_done: int) -> Callable[..., object]:
    """As `request`, for so many requests."""
    left = iter(range(num_done))

    def request(kind: str, shown: str, work: Callable[[], object]) -> object:
        if next(left, None) is None:
            raise _Killed
        return work()

    return request


def test_a_store_that_cant_be_reached_makes_no_checkpoint_a_damaged_one(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = with_two_checkpoints(troubled)
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    before = trial.names("checkpoints")
    for name in ("generator-*", MANIFEST):
        with fault_proxy.status("SlowDown", on("get", f"*/step_00000010/{name}")), pytest.raises(Unreachable):
            newest_checkpoint(trial, IDS, pytest.fail)
    with fault_proxy.status("SlowDown", on("get", f"*/{MANIFEST}")):
        for read in (best_in_checkpoints, runtime_in_checkpoints):
            with pytest.raises(Unreachable):
                read(trial, IDS)
        with pytest.raises(Unreachable):  # of which epoch the older one is, is not known
            remove_old_checkpoints(trial, 1, lambda epoch: epoch > 0)
    assert trial.names("checkpoints") == before
    assert checkpoint_steps(trial) == [10, 5]


def test_those_of_kept_epochs_stay(trial: Storage) -> None:
    write(trial, 15)
    write(trial, 20)
    remove_old_checkpoints(trial, 1, lambda epoch: epoch > 0)
    assert checkpoint_steps(trial) == [20, 10]


def test_the_newest_ones_stay(trial: Storage) -> None:
    write(trial, 15)
    remove_old_checkpoints(trial, keep=2)
    assert checkpoint_steps(trial) == [15, 10]
    assert trial.names("checkpoints") == ["step_00000010", "step_00000015"]


def test_what_unfinished_writes_have_left_goes_with_the_old_ones(folder_trial: Folder, bucket_storage: Storage) -> None:
    folder_trial.at("checkpoints").make_folder(".tmp-step_00000020-broken-off")
    remove_old_checkpoints(folder_trial, keep=2)
    assert folder_trial.temporary_names("checkpoints") == []

    trial = with_two_checkpoints(bucket_storage)
    trial.write("checkpoints/step_00000020/generator-1a2b.safetensors", b"half")
    assert checkpoint_steps(trial) == [10, 5]
    assert newest_checkpoint(trial, IDS, pytest.fail).step == 10  # type: ignore[union-attr]
    remove_old_checkpoints(trial, keep=2)
    assert trial.names("checkpoints") == ["step_00000005", "step_00000010"]


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
