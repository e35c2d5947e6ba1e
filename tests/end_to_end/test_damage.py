"""Whatever a run has left is damaged, one thing at a time: it goes on from what is good, or says that nothing is."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from runner.records.trial_file import record_digest
from tests.support.commands import TINY, assert_same_end, run, write_experiment
from tests.support.damage import FILE_DAMAGES, cut_to, flip_a_bit, remove
from tests.support.kill_points import KillPoint, tiny_trial, train_tiny

pytestmark = pytest.mark.slow

STATE_FILES = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer", "progress")


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """What a run leaves that is killed as it begins to save its fifth epoch: checkpoints of the third and fourth."""
    folder = tmp_path_factory.mktemp("half_done")
    shutil.copytree(undisturbed / "results" / "patches", folder / "results" / "patches")
    assert train_tiny(folder, kill_points=[KillPoint("runner.trial.async_checkpointer.write_checkpoint", 5)]).code == -9
    assert checkpoints(folder) == ["step_00000009", "step_00000012"]
    return folder


@pytest.fixture
def run_folder(half_done: Path, tmp_path: Path) -> Path:
    shutil.copytree(half_done / "results", tmp_path / "results")
    return tmp_path


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (tiny_trial(folder) / "checkpoints").iterdir())


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def manifest_of_another(**changes: object) -> Callable[[Path], None]:
    """A manifest that is whole, but of something else."""

    def edit(path: Path) -> None:
        manifest = {**json.loads(path.read_text()), **changes}
        del manifest["digest"]
        path.write_text(json.dumps({**manifest, "digest": record_digest(manifest)}))

    return edit


def replace_by(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def empty(path: Path) -> None:
    remove(path)
    path.mkdir()


def tear_everything(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            cut_to(lambda size: size // 2)(file)


NEWEST = "tiny/trials/trial/checkpoints/step_00000012"
TRIAL = "tiny/trials/trial"

# What is damaged, how, and whether the newest checkpoint must then be set aside.
MATRIX: dict[str, tuple[str, Callable[[Path], None], bool]] = {
    # Each file in one way, each way in one file; test_checkpoints.py sees each file damaged in each way.
    **{
        f"{name}: {how}": (f"{NEWEST}/{name}", FILE_DAMAGES[how], True)
        for name, how in zip(
            [*(f"{group}.safetensors" for group in STATE_FILES), "metrics.jsonl", "manifest.json"],
            itertools.cycle(["half", "one bit flipped", "missing", "unreadable", "all but one byte", "empty"]),
            strict=False,
        )
    },
    "manifest: not an object": (f"{NEWEST}/manifest.json", replace_by(b"[]"), True),
    "manifest: other settings": (f"{NEWEST}/manifest.json", edit_manifest(runtime={"threads": 2}), True),
    "manifest: for another config": (f"{NEWEST}/manifest.json", manifest_of_another(config_fingerprint="0"), True),
    "manifest: for other data": (f"{NEWEST}/manifest.json", manifest_of_another(data_fingerprint="0"), True),
    "manifest: for another step": (f"{NEWEST}/manifest.json", manifest_of_another(step=9), True),
    "newest checkpoint: missing": (NEWEST, remove, False),
    "newest checkpoint: empty": (NEWEST, empty, True),
    **{
        f"{name}: {how}": (f"{TRIAL}/{name}", damage, False)
        for name in ("trial.yaml", "metrics.jsonl", "outcome.json", "starts.jsonl", "log.txt")
        for how, damage in FILE_DAMAGES.items()
        if how != "unreadable"
    },
    "trial.yaml: of something else": (f"{TRIAL}/trial.yaml", replace_by(b"- !!python/object:os.system"), False),
    **{
        f"{name}: {how}": (f"tiny/{name}", damage, False)
        for name in ("experiment.yaml", "lock")
        for how, damage in FILE_DAMAGES.items()
        if how != "unreadable"
    },
    ".ray: missing": ("tiny/.ray", remove, False),
    ".ray: empty": ("tiny/.ray", empty, False),
    ".ray: torn": ("tiny/.ray", tear_everything, False),
    "images: missing": (f"{TRIAL}/images", remove, False),
    **{
        f"patch store, {name}: {how}": (f"patches/*/{name}", damage, False)
        for name in ("train-000000.arrow", "val-000000.arrow", "meta.json")
        for how, damage in FILE_DAMAGES.items()
        if how != "unreadable"
    },
    "patch store: missing": ("patches/*", remove, False),
}


@pytest.mark.parametrize("case", MATRIX)
def test_a_run_goes_on_from_what_is_good_to_the_same_end(run_folder: Path, undisturbed: Path, case: str) -> None:
    where, damage, is_set_aside = MATRIX[case]
    (path,) = (run_folder / "results").glob(where)
    damage(path)
    ended = train_tiny(run_folder)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(run_folder), tiny_trial(undisturbed))
    aside = [name for name in checkpoints(run_folder) if name.startswith("damaged_step_00000012_")]
    assert len(aside) == is_set_aside
    if is_set_aside:
        assert "checkpoint step_00000012: " in ended.output
        assert "set aside as" in ended.output
    if where.startswith("patches") and "missing" not in case.split(": ")[1:]:
        assert "set aside as patches/damaged-" in ended.output


@pytest.mark.parametrize("file", ["results.csv", "results.json"])
@pytest.mark.parametrize("how", ["empty", "half", "missing"])
def test_damaged_results_of_a_finished_trial_are_written_again(
    undisturbed: Path, tmp_path: Path, file: str, how: str
) -> None:
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    path = tmp_path / "results" / "tiny" / file
    whole = path.read_bytes()
    FILE_DAMAGES[how](path)
    assert train_tiny(tmp_path).code == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("how", [how for how in FILE_DAMAGES if how != "unreadable"])
def test_damaged_weights_of_a_finished_trial_are_written_again(undisturbed: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    path = tiny_trial(tmp_path) / "weights" / "generator.safetensors"
    FILE_DAMAGES[how](path)
    ended = train_tiny(tmp_path)
    assert ended.code == 0, ended.output
    assert "finished before" not in ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))


@pytest.fixture
def all_damaged(run_folder: Path) -> Iterator[Path]:
    for name in checkpoints(run_folder):
        flip_a_bit(tiny_trial(run_folder) / "checkpoints" / name / "generator.safetensors")
    yield run_folder


def test_where_no_checkpoint_is_good_the_run_stops_says_what_was_tried_and_changes_nothing(all_damaged: Path) -> None:
    for _ in range(2):
        ended = train_tiny(all_damaged)
        assert ended.code == 2, ended.output
        for step in (9, 12):
            assert f"step_{step:08d}: generator.safetensors does not match its SHA-256" in ended.output
        assert "move the folder `checkpoints` away" in ended.output
        assert checkpoints(all_damaged) == ["step_00000009", "step_00000012"]


def test_with_the_damaged_ones_moved_away_it_begins_anew(all_damaged: Path, undisturbed: Path) -> None:
    (tiny_trial(all_damaged) / "checkpoints").rename(all_damaged / "away")
    assert train_tiny(all_damaged).code == 0
    assert_same_end(tiny_trial(all_damaged), tiny_trial(undisturbed))


def test_what_a_broken_off_write_left_is_not_taken_for_a_checkpoint(run_folder: Path, undisturbed: Path) -> None:
    folder = tiny_trial(run_folder) / "checkpoints"
    shutil.copytree(folder / "step_00000012", folder / ".tmp-step_00000015-0123abcd")
    (folder / ".tmp-step_00000015-0123abcd" / "manifest.json").unlink()
    assert train_tiny(run_folder).code == 0
    assert_same_end(tiny_trial(run_folder), tiny_trial(undisturbed))
    assert checkpoints(run_folder) == ["step_00000018"]


@pytest.mark.parametrize("case", ["generator.safetensors: half", ".ray: torn", "trial.yaml: missing"])
def test_the_command_itself_survives_damage(run_folder: Path, undisturbed: Path, case: str) -> None:
    where, damage, _ = MATRIX[case]
    damage(run_folder / "results" / where)
    path = write_experiment(run_folder, **TINY)
    code, output = run("runner.train", path, "--in-process", "--storage", run_folder / "results")
    assert code == 0, output
    assert_same_end(tiny_trial(run_folder), tiny_trial(undisturbed))


def allow_more_threads(path: Path) -> None:
    path.write_text(path.read_text().replace("threads: 1\n", "threads: 3\n"))


@pytest.mark.parametrize("damage", [remove, flip_a_bit, allow_more_threads])
def test_threads_and_precision_stay_what_they_were_though_their_record_is_lost(
    run_folder: Path, undisturbed: Path, damage: Callable[[Path], None]
) -> None:
    damage(tiny_trial(run_folder) / "trial.yaml")
    ended = train_tiny(run_folder, changes={"resources": {"cpus_per_worker": 2}})
    assert ended.code == 0, ended.output
    assert yaml.safe_load((tiny_trial(run_folder) / "trial.yaml").read_text())["threads"] == 1
    assert_same_end(tiny_trial(run_folder), tiny_trial(undisturbed))
