"""Commands and Python take the URI of a trial or an experiment in a bucket, and do what they do with its folder."""

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

import runner.train
from gan.data.patches import SHARD_SUFFIX
from runner import DataError, StorageError, load_results, run_experiment
from runner.process.lease import Lease
from runner.records.starts import record_start
from runner.records.trial_file import read_trial_file, write_outcome
from runner.status.command import watch_status
from runner.status.reading import StatusReader
from runner.storage.requests import forget_clients
from runner.storage.storage import Storage, Unreachable
from runner.tracking.sync_hint import sync_hint
from tests.support.commands import TINY, write_experiment
from tests.support.object_proxy import FaultProxy, on
from tests.support.object_server import ObjectServer, client_environment, make_bucket

Capture = pytest.CaptureFixture[str]
COMMANDS = {
    "evaluate": (),
    "translate": ("picture.png", "--out", "out"),
    "export": ("--format", "safetensors", "--out", "generator.safetensors"),
    "reproduce": (),
    "report.__main__": (),
    "status.__main__": (),
}
OF_A_TRIAL = [name for name in COMMANDS if not name.endswith("__main__")]
EPOCHS = 2


class Trained(NamedTuple):
    """One experiment in a bucket, which must stay as it is, and the same in a folder.

    Attributes:
        root, folder: of the storage: a URI, and a path.
    """

    bucket: str
    root: str
    folder: Path

    def uri(self, name: str = "") -> str:
        """Of the experiment or, with a name, of its trial."""
        return f"{self.root}/tiny{name}"


TRIAL = "/trials/trial"

SINGLE_COMMANDS = {name: options for name, options in COMMANDS.items() if name != "report.__main__"}


@pytest.fixture(scope="module")
def trained(s3_server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Trained in this process; its bucket's environment stays for the tests of this file."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "PIX2PIX_"))]:
            patch.delenv(name)
        for name, value in client_environment(s3_server.endpoint).items():
            patch.setenv(name, value)
        patch.setenv("PIX2PIX_CACHE", str(folder / "cache"))

        bucket = make_bucket(s3_server.endpoint)
        root = f"s3://{bucket}/a@lab/results (1)"
        experiment = write_experiment(folder, **{**TINY, "training": {**TINY["training"], "epochs": EPOCHS}})
        assert runner.train.main([str(experiment), "--in-process", "--storage", root]) == 0
        shutil.copytree(Storage.open(root).local_copy(), folder / "results")
        yield Trained(bucket, root, folder / "results")


@pytest.fixture
def own(trained: Trained, tmp_path: Path) -> Trained:
    """A copy in the same bucket, which the test may change."""
    root = f"s3://{trained.bucket}/{tmp_path.name}"
    storage = Storage.open(root)
    for path in sorted(trained.folder.rglob("*")):
        if path.is_file():
            storage.write(path.relative_to(trained.folder).as_posix(), path.read_bytes())
    return trained._replace(root=root)


@pytest.fixture
def proxy(trained: Trained, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between this process and the bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)
    forget_clients()
    yield fault_proxy
    forget_clients()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a picture in it."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)).save("picture.png")


def run(name: str, *arguments: str) -> int:
    """The exit code of a command."""
    try:
        code: int = importlib.import_module(f"runner.{name}").main(list(arguments))
    except SystemExit as ended:  # of argparse
        assert isinstance(ended.code, int)
        code = ended.code
    return code


def written() -> dict[str, bytes]:
    """The files in the working folder."""
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ s\)|<time.*</time>|<code>python -m runner.report[^<]*</code>", "", text)


@pytest.mark.parametrize(
    ("name", "options", "slash"),
    [
        *[(name, arguments, slash) for name, arguments in SINGLE_COMMANDS.items() for slash in ("", "/")],
        ("evaluate", ("--json", "e.json", "--csv", "e.csv"), ""),
        ("evaluate", ("--checkpoint", "best"), ""),
        ("evaluate", ("--checkpoint", str(EPOCHS)), ""),
        ("evaluate", ("--checkpoint", "9"), ""),
        ("evaluate", ("--data", "pairs", "--json", "e.json"), ""),
        ("export", ("--format", "onnx", "--out", "generator.onnx"), ""),
        ("export", ("--format", "pytorch-cyclegan", "--out", "generator.pth"), ""),
    ],
)
def test_a_command_says_and_writes_the_same_of_a_uri_as_of_a_folder(
    trained: Trained, capsys: Capture, name: str, options: tuple[str, ...], slash: str
) -> None:
    if "onnx" in options:
        pytest.importorskip("onnxruntime")
    if "--data" in options:
        pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 128, 3), np.uint8)
        Path("pairs/val").mkdir(parents=True)
        for number, pair in enumerate(pixels):
            Image.fromarray(pair).save(f"pairs/val/{number}.png")

    inside = TRIAL if name in OF_A_TRIAL else ""
    seen = []
    for place in (f"{trained.folder}/tiny{inside}", trained.uri(inside) + slash):
        shutil.rmtree("out", ignore_errors=True)
        for path in Path().glob("*generator*"):
            path.unlink()
        code = run(name, place, *options)
        ended = capsys.readouterr()
        text = without_times(ended.out + ended.err)
        seen.append((code, text.replace(str(trained.folder), "STORAGE").replace(trained.root, "STORAGE"), written()))
    assert seen[0] == seen[1]
    assert seen[0][0] == (2 if "9" in options else 0)
    assert seen[0][1]


def test_a_report_is_written_again_in_the_bucket(trained: Trained, own: Trained, capsys: Capture) -> None:
    names = ("results.csv", "results.json", "report.html")
    experiment = Storage.open(own.uri())
    for name in names:
        experiment.remove(name)
    assert run("report.__main__", own.uri() + "/") == 0
    out = capsys.readouterr().out
    assert f"{own.uri()}/results.csv and results.json" in out
    assert re.search(rf"^{re.escape(own.uri())}/report.html: 1 trial, ", out, re.MULTILINE)

    folder = Storage.open(shutil.copytree(trained.folder, Path("copy")) / "tiny")
    assert run("report.__main__", "copy/tiny") == 0
    for name in names:
        assert without_times(experiment.read_text(name)) == without_times(folder.read_text(name)), name


def test_the_foot_of_the_page_has_commands_that_work_when_pasted(own: Trained, capsys: Capture) -> None:
    assert run("report.__main__", own.uri()) == 0
    page = Storage.open(own.uri()).read_text("report.html")
    again, trained_by = (text.replace("&#39;", "'") for text in re.findall(r"<code>(python -m .*?)</code>", page)[-2:])
    Storage.open(own.uri()).remove("report.html")
    assert run("report.__main__", *shlex.split(again)[3:]) == 0
    assert Storage.open(own.uri()).exists("report.html")
    # The command as it was typed: the experiment's file is no part of the storage.
    *_, option, storage = shlex.split(trained_by)
    assert (option, storage.rpartition("/")[2]) == ("--storage", "results (1)")
    capsys.readouterr()


def test_folders_and_buckets_are_compared_in_one_page(trained: Trained, capsys: Capture) -> None:
    shutil.copytree(trained.folder / "tiny", "other")
    assert run("report.__main__", trained.uri(), "other", "--out", "both.html") == 0
    assert "both.html: 2 trials" in capsys.readouterr().out
    assert run("report.__main__", trained.uri(), trained.uri() + "/", "--out", "both.html") == 2
    assert f"{trained.uri()} is given twice" in capsys.readouterr().err
    assert run("report.__main__", trained.uri(), "--out", "s3://bucket/both.html") == 2
    assert "must be a path on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_what_a_command_reads_is_refused_in_words(trained: Trained, capsys: Capture, name: str) -> None:
    (kind, other) = ("a trial's", "") if name in OF_A_TRIAL else ("an experiment's", TRIAL)
    missing = "trial.yaml" if name in OF_A_TRIAL else "experiment.yaml"

    assert run(name, trained.uri(other), *COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert trained.uri(other) in error and missing in error and f"give {kind} folder, STORAGE/EXPERIMENT" in error

    assert run(name, trained.uri("/nowhere"), *COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert f"the bucket {trained.bucket} has nothing below a@lab/results (1)/tiny/nowhere/: give {kind}" in error


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://tiny/trials/trial", "there is no bucket tiny: a URI begins with the bucket, s3://BUCKET/PREFIX"),
        ("s3:///tiny", "s3:///tiny: it names no bucket; give s3://BUCKET/PREFIX"),
        ("s3:/bucket/tiny", "s3:/bucket/tiny: a bucket's URI has two slashes after the colon: give s3://bucket/tiny"),
        ("s3:bucket", "give s3://bucket, "),
        ("ftp://bucket/tiny", "its scheme is unknown; give a folder, or a bucket by one of s3://, gs://, az://"),
        ("s3://key:secret@bucket/tiny", "credentials and options belong into the environment"),
    ],
)
def test_a_uri_that_is_none_is_answered_by_what_to_write(
    trained: Trained, capsys: Capture, name: str, place: str, message: str
) -> None:
    assert run(name, place, *COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert message in error and "secret" not in error.replace("SECRET", "")
    assert written().keys() == {"picture.png"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_refuses_is_told_from_results_that_are_not_there(
    trained: Trained, proxy: FaultProxy, capsys: Capture, name: str
) -> None:
    place = trained.uri(TRIAL if name in OF_A_TRIAL else "")
    with proxy.status("InvalidAccessKeyId"):
        assert run(name, place, *COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert place in error and "403 Forbidden, InvalidAccessKeyId" in error and "AWS_ACCESS_KEY_ID" in error

    # The first question is answered, and a later one is not.
    with proxy.status("AccessDenied", on("get", "*.yaml")):
        assert run(name, place, *COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"error: .*the object store can't be used: get of s3://.*\.yaml failed \(403 .*AccessDenied", error
    )
    assert "unexpected" not in error


def test_without_credentials_a_command_says_where_it_looked_for_them(
    trained: Trained, proxy: FaultProxy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # Where a machine of the cloud would get them.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxy.endpoint)
    with proxy.status("AccessDenied"):
        assert run("evaluate", trained.uri(TRIAL)) == 2
    assert "credentials (for s3:// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID" in capsys.readouterr().err


def test_damaged_weights_are_told_from_weights_that_cannot_be_read(
    own: Trained, proxy: FaultProxy, capsys: Capture
) -> None:
    with proxy.status("AccessDenied", on("get", "*/weights/*")):
        assert run("evaluate", own.uri(TRIAL)) == 2
    assert "weights/manifest.json failed (403 Forbidden, AccessDenied)" in capsys.readouterr().err
    # The checkpoint takes the place of weights that are gone.
    Storage.open(own.uri(TRIAL)).remove("weights")
    assert run("evaluate", own.uri(TRIAL)) == 0
    with proxy.status("AccessDenied", on("get", "*/checkpoints/*.safetensors")):
        assert run("evaluate", own.uri(TRIAL)) == 2
    assert "the object store can't be used" in capsys.readouterr().err


def test_a_trial_that_was_copied_alone_is_used_without_its_experiment(trained: Trained, capsys: Capture) -> None:
    bucket = make_bucket(os.environ["AWS_ENDPOINT_URL"])
    copy = Storage.open(f"s3://{bucket}/copy")
    for path in (trained.folder / "tiny/trials/trial").rglob("*"):
        if path.is_file():
            copy.write(path.relative_to(trained.folder / "tiny/trials/trial").as_posix(), path.read_bytes())
    assert run("translate", copy.root, "picture.png", "--out", "out") == 0
    # There the patches are sought in the bucket itself; drawn ones are made again.
    assert run("evaluate", copy.root) == 0
    assert Storage.open(f"s3://{bucket}").names() == ["copy", "patches"]
    capsys.readouterr()


def test_reading_fetches_no_weights_and_asks_for_nothing_twice(trained: Trained, proxy: FaultProxy) -> None:
    load_results(trained.uri())
    assert proxy.count(on("get", "*.safetensors")) == 0
    assert [seen.key.rpartition("/")[2] for seen in proxy.requests if seen.kind == "head"] == ["held.jsonl"]
    seen = [seen.path for seen in proxy.requests if seen.kind == "get" and not seen.path.endswith("trial.yaml")]
    assert len(seen) == len(set(seen))
    # Once for the data's fingerprint, and once to find the trial's folder.
    assert proxy.count(on("get", "*/trial.yaml")) <= 2
    proxy.clear()

    run("status.__main__", trained.uri())
    assert proxy.count(on("get", "*.safetensors")) == 0
    assert proxy.count(on("head")) <= 3, proxy.requests
    proxy.clear()

    run("evaluate", trained.uri(TRIAL))
    (weights,) = [seen for seen in proxy.requests if seen.key.endswith(".safetensors")]
    assert weights.kind == "get"


def write_sweep(own: Trained, num_trials: int, num_begun: int, num_running: int) -> str:
    """An experiment of that many trials; its URI."""
    from runner.config.fingerprint import fingerprint_trial
    from runner.config.loading import load_experiment, plan_trials
    from runner.records.trial_file import write_trial_file

    sweep = Storage.open(f"{own.root}/sweep")
    values: dict[str, Any] = yaml.safe_load(Storage.open(own.uri()).read("experiment.yaml"))
    values |= {"name": "sweep", "sweep": {"lambda_l1": [float(number) for number in range(1, num_trials + 1)]}}
    sweep.write("experiment.yaml", yaml.safe_dump(values).encode())
    recorded = read_trial_file(Storage.open(own.uri(TRIAL))) or {}
    for number, trial in enumerate(plan_trials(load_experiment(values), "it")[:num_begun]):
        folder = sweep.at(f"trials/{trial.name}")
        fingerprints = fingerprint_trial(trial.config, recorded["data_fingerprint"], "")
        runtime = {name: recorded[name] for name in ("threads", "precision", "kernels")}
        write_trial_file(folder, trial.config, fingerprints, trial.params, runtime)
        record_start(folder, 1, "token", 0, 0)
        write_outcome(folder, "running" if number < num_running else "cut_off")
        folder.append("metrics.jsonl", b'{"step": 1, "epoch": 1}\n')
    return sweep.root


def test_watching_a_bucket_asks_little_however_many_trials_there_are(own: Trained, proxy: FaultProxy) -> None:
    uri = write_sweep(own, num_trials=40, num_begun=35, num_running=2)
    lease = Lease.acquire(Storage.open(uri))
    try:
        reader = StatusReader(uri)
        reader.read()
        for _ in range(3):
            proxy.clear()
            reader.read()
            # But for the lease's own.
            seen = Counter(seen.kind for seen in proxy.requests if not seen.key.endswith("/lock"))
            # experiment.yaml, and one listing; all of the two that run; of 22 that rest, whether they do.
            assert seen["list"] == 1
            assert seen.total() <= 2 + 2 * 6 + 22 * 2, proxy.requests
    finally:
        lease.release()


def test_what_begins_while_a_bucket_is_watched_is_seen(own: Trained) -> None:
    uri = write_sweep(own, num_trials=3, num_begun=2, num_running=1)
    lease = Lease.acquire(Storage.open(uri))
    try:
        reader = StatusReader(uri)
        assert [trial.status for trial in reader.read().trials] == ["running", "waiting", "waiting"]
        # It ran, and is at rest again, with the same outcome: only its start and its log tell.
        second = Storage.open(f"{uri}/trials/lambda_l1=2")
        record_start(second, 2, "other", 0, 0)
        second.append("metrics.jsonl", b'{"step": 2, "epoch": 1}\n')
        # The third begins.
        third = Storage.open(f"{uri}/trials/lambda_l1=3")
        for name in ("trial.yaml", "starts.jsonl"):
            third.write(name, b"")
        write_outcome(third, "running")
        trials = reader.read().trials
        assert [trial.status for trial in trials] == ["running", "waiting", "running"]
        assert [trial.step for trial in trials] == [1, 2, 0]
    finally:
        lease.release()


def test_a_bucket_is_watched_no_more_often_than_it_wants(
    own: Trained, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.console import Console

    lease = Lease.acquire(Storage.open(own.uri()))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            lease.release()

    monkeypatch.setattr("runner.status.command.time.sleep", sleep)
    with contextlib.ExitStack() as stack:
        stack.callback(lease.release)
        watch_status(own.uri(), Console())
    assert slept == [Storage.open(own.uri()).poll_interval_s] * 2 and slept[0] > 5
    assert f"to look at it: {own.uri()}/report.html" in capsys.readouterr().out


def test_the_next_step_that_status_names_works_when_pasted(own: Trained, capsys: Capture) -> None:
    experiment = Storage.open(own.uri())
    experiment.write("experiment.yaml", experiment.read("experiment.yaml").replace(b"epochs: 2", b"epochs: 3"))
    write_outcome(experiment.at("trials/trial"), "stopped", "Ctrl-C")
    assert run("status.__main__", own.uri()) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("to go on: python -m runner.tune ")
    _, _, module, *arguments = shlex.split(last.partition("to go on: ")[2])
    assert run(module.removeprefix("runner."), *arguments, "--dry-run") == 0
    assert "trial: 3 epochs of 12 patches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.yaml", "gone.yaml: it can't be read (No such file or directory)"), ("", "/tiny/: it can't be read")],
)
def test_an_experiment_file_that_is_not_in_the_bucket_is_named(
    trained: Trained, capsys: Capture, name: str, message: str
) -> None:
    assert run("train", f"{trained.uri()}/{name}", "--in-process", "--storage", trained.root) == 2
    assert message in capsys.readouterr().err


def test_the_command_is_recorded_with_its_uri(trained: Trained) -> None:
    row = json.loads((trained.folder / "tiny" / "commands.jsonl").read_text())
    assert row["command"].endswith(f" --in-process --storage {shlex.quote(trained.root)}")


def test_the_hint_for_wandb_fetches_what_lies_in_the_bucket(own: Trained) -> None:
    run_file = "trials/trial/wandb/offline-run-1/run-1.wandb"
    Storage.open(own.uri()).write(run_file, b"1")
    fetch, upload = (shlex.split(part) for part in sync_hint(Storage.open(own.uri())).split(" && "))
    assert fetch[:6] == ["aws", "s3", "cp", "--recursive", own.uri(), "COPY_OF_tiny"]
    assert upload == ["wandb", "sync", "COPY_OF_tiny/trials/*/wandb/offline-run-*"]


def test_python_reads_results_by_their_uri(trained: Trained, proxy: FaultProxy) -> None:
    results, local = load_results(trained.uri() + "/"), load_results(trained.folder / "tiny")
    assert proxy.count(on("get", "*.safetensors")) == proxy.count(on("get", "*.png")) == 0
    assert (results.location, results.name, results.is_finished) == (trained.uri(), "tiny", True)
    assert results.table.equals(local.table)
    (trial,), (same,) = results, local
    assert trial.location == trained.uri(TRIAL) and trained.uri(TRIAL) in repr(trial)
    assert same.location == str(same.folder)
    assert (trial.name, trial.status, trial.reason, trial.row) == (same.name, same.status, same.reason, same.row)
    assert trial.metrics.equals(same.metrics)

    # Paths are of this machine, and what they lead to is fetched when it is asked for.
    assert trial.images.keys() == same.images.keys() == {1, EPOCHS}
    assert [path.read_bytes() for path in trial.images.values()] == [path.read_bytes() for path in same.images.values()]
    assert proxy.count(on("get", "*.safetensors")) == 0
    picture = np.asarray(Image.open("picture.png"))
    assert np.array_equal(trial.translate(picture), same.translate(picture))
    assert proxy.count(on("get", "*.safetensors")) == 1
    assert {path.relative_to(trial.folder) for path in trial.folder.rglob("*") if path.is_file()} == {
        path.relative_to(same.folder) for path in same.folder.rglob("*") if path.is_file()
    }
    assert (results.folder / "trials/trial/weights/generator.safetensors").exists()
    proxy.clear()
    assert trial.folder.is_dir() and not proxy.requests


def test_python_goes_on_with_a_run_in_a_bucket(own: Trained, tmp_path: Path) -> None:
    assert run_experiment(f"{own.uri()}/experiment.yaml", storage=own.root, in_process=True, quiet=True).is_finished
    results = run_experiment(
        f"{own.uri()}/experiment.yaml",
        overrides={"training.epochs": EPOCHS + 1},
        storage=own.root,
        cache=tmp_path / "cache",
        in_process=True,
        quiet=True,
    )
    assert (results.location, results[0].row["epochs"]) == (own.uri(), EPOCHS + 1)
    assert list((tmp_path / "cache").rglob(f"train*{SHARD_SUFFIX}"))  # it trained with these
    assert results[0].images[EPOCHS + 1].is_relative_to(tmp_path / "cache")
    assert load_results(own.uri(), cache=tmp_path / "other")[0].folder.is_relative_to(tmp_path / "other")


def test_python_is_told_in_a_few_seconds_what_is_wrong_with_a_uri(
    trained: Trained, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DataError, match=rf"the bucket {trained.bucket} has nothing below x/tiny/: give an experiment's"
    ):
        load_results(f"s3://{trained.bucket}/x/tiny")
    with pytest.raises(StorageError, match="give s3://bucket/x/tiny, in Python as a text, for pathlib's Path"):
        load_results(Path("s3://bucket/x/tiny"))
    with pytest.raises(StorageError, match="give s3://bucket/x, in Python as a text"):
        run_experiment(TINY, storage=Path("s3://bucket/x"), in_process=True, quiet=True)
    monkeypatch.setattr("runner.storage.bucket._PATIENCE_AT_START_S", 0.1)
    with proxy.status("SlowDown"), pytest.raises(StorageError, match="can't be used"):
        load_results(trained.uri())
    assert proxy.count(on("list")) < 12  # it was asked a few times, and not for a minute
    trial = load_results(trained.uri())[0]
    with proxy.status("AccessDenied"), pytest.raises(Unreachable):
        trial.metrics  # noqa: B018
