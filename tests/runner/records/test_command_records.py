"""commands.jsonl: which command ran an experiment, and which code, without what is nobody else's business."""

import subprocess
from pathlib import Path

import pytest

import runner.train
from runner.records.commands import (
    Command,
    Revision,
    command_text,
    find_revision,
    read_commands,
    record_command,
)
from runner.storage.storage import Storage
from tests.support import inline_sweep
from tests.support.commands import write_experiment

HOME = Path("/home/ada")


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        (["e.yaml", "--set", "training.epochs=2"], "e.yaml --set training.epochs=2"),
        (["/home/ada/e.yaml", "--storage=/home/ada", "/home/ada/"], "~/e.yaml --storage=~ ~/"),
        (["--set", "data.source=/home/ada/maps"], "--set data.source=~/maps"),
        (["/home/adam/e.yaml", "/data/home/ada/e.yaml"], ".../e.yaml .../e.yaml"),
        (["--storage=/data/x", "data={source: /data/y/z}", "/tmp"], "--storage=.../x 'data={source: .../z}' /tmp"),
        (["a b.yaml", "x;y"], "'a b.yaml' 'x;y'"),
        (["--storage", "s3://key:secret@bucket/results"], "--storage s3://...@bucket/results"),
        (["--storage", "s3://bucket/results?token=1&x=2"], "--storage 's3://bucket/results?...'"),
        (["--storage", "s3://bucket/a@lab/b (1)/c"], "--storage 's3://bucket/a@lab/b (1)/c'"),
        (["--storage=gs://home/ada", "az://keys/token=1/x"], "--storage=gs://home/ada az://keys/token=1/x"),
        (["--set", "data.source=s3://b/home/ada/é/x"], "--set data.source=s3://b/home/ada/é/x"),
        (["--password=s3://bucket/1234", "s3://key:sec/ret@b/x"], "--password=... s3://...@b/x"),
        (["--set", "tracking.API_KEY=1234"], "--set tracking.API_KEY=..."),
        (["--password=1234", "--set", "a.token_count=5"], "--password=... --set a.token_count=..."),
        (["--storage", "//home//ada/x", "{a: '/home/ada'}"], "--storage ~/x '{a: '\"'\"'~'\"'\"'}'"),
        (["--address", "ray://u:a/b@head:1"], "--address ray://...@head:1"),
        (["--set", "data={token: abc}", "wandb_key=zzz"], "--set 'data={token:...' wandb_key=..."),
        (["--address", "ray://head:10001"], "--address ray://head:10001"),
    ],
)
def test_a_command_is_recorded_without_the_home_folder_and_without_secrets(typed: list[str], recorded: str) -> None:
    assert command_text("python -m runner.tune", typed, HOME) == f"python -m runner.tune {recorded}"


def test_a_home_folder_that_is_the_root_stands_for_nothing() -> None:
    assert command_text("x", ["/data/e.yaml", "s3://bucket/x"], Path("/")) == "x .../e.yaml s3://bucket/x"


def test_a_user_without_a_home_folder_has_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # whom the system does not know
    assert command_text("x", ["/data/e.yaml", "~/e.yaml"]) == "x .../e.yaml ~/e.yaml"


def test_rows_are_added_and_damaged_ones_left_out(tmp_path: Path) -> None:
    experiment = Storage.open(tmp_path)
    assert read_commands(experiment) == []
    record_command(experiment, 1, "python -m runner.tune e.yaml")
    for damaged in (b'{"attempt": 2}\n', b"[1]\n", b"\xff\n", b'{"attempt": 2, "ti\n'):
        experiment.append("commands.jsonl", damaged)
    record_command(experiment, 3, "")
    first, second = read_commands(experiment)
    assert (first.attempt, first.text, second.attempt, second.text) == (1, "python -m runner.tune e.yaml", 3, "")
    assert first.revision == find_revision()
    assert first.time.endswith("Z")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_is_that_of_the_checkout_and_says_whether_its_code_has_changed(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "gan").mkdir()
    (tmp_path / "runner" / "code.py").write_text("1")
    (tmp_path / "gan" / "code.py").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    version = find_revision(tmp_path).version
    assert find_revision(tmp_path) == Revision(version, commit, is_changed=False)
    (tmp_path / "notes.txt").write_text("2")
    assert not find_revision(tmp_path).is_changed
    (tmp_path / "runner" / "code.py").write_text("2")
    assert find_revision(tmp_path) == Revision(version, commit, is_changed=True)


def test_code_that_lies_in_another_repository_or_where_git_is_not_there_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "of something else")
    packages = tmp_path / "venv" / "site-packages"
    packages.mkdir(parents=True)
    assert find_revision(packages).commit == ""
    monkeypatch.setenv("PATH", "")
    assert find_revision(tmp_path) == Revision(find_revision(packages).version)


def test_each_start_of_a_command_is_recorded(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, training={"epochs": 1})
    arguments = [str(path), "--storage", str(tmp_path / "results"), "--in-process"]
    assert runner.train.main(arguments) == 0
    assert inline_sweep.main(arguments[:-1]) == 0
    experiment = Storage.open(tmp_path / "results" / "small")
    commands = read_commands(experiment)
    assert [(command.attempt, command.text) for command in commands] == [
        (1, "python -m runner.train .../experiment.yaml --storage .../results --in-process"),
        (2, ""),
    ]
    assert commands[0].revision == find_revision()
    assert isinstance(commands[0], Command)
