"""W&B away, broken or full: no trial notices, one line says it, and all is kept to be sent later."""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.training.state import TrainState
from gan.training.step import train_step
from runner.process.lease import Superseded
from runner.records.trial_file import read_outcome
from runner.storage.run_folder import METRICS_LOG
from runner.storage.storage import Storage, Unreachable
from runner.tracking.tracker import Tracker
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_session import upload_failure
from runner.tracking.wandb_trial import WandbTrial, run_id
from tests.support.commands import assert_same_end, read_metrics, reopen_log
from tests.support.kill_points import Run, tiny_trial, train_tiny
from tests.support.wandb_log import LocalServer
from tests.support.wandb_trials import (
    CONFIG,
    KEY,
    a_row,
    files_of,
    log_steps,
    offline_run,
    track,
    tracking_of,
    wandb_processes,
)

pytestmark = pytest.mark.usefixtures("wandb_unconfigured")
FAULTS = ("hangs", "refuses", "answers 500", "answers 403")
WAIT_S = "runner.tracking.wandb_session.NETWORK_WAIT_S"
STEP_THAT_WAITS = 9


@pytest.fixture
def key(wandb_unconfigured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(WAIT_S, 1.0)


def break_server(server: LocalServer, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "hangs":
        server.answers.clear()
    elif fault == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    else:
        server.faults = {"": int(fault.removeprefix("answers "))}


def mend_server(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers.set()
    server.faults = {}
    monkeypatch.setenv("WANDB_BASE_URL", server.url)


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("fault", FAULTS)
def test_where_a_server_fails_from_the_start_all_runs_are_kept_offline_and_sent_by_a_later_start(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    break_server(server, fault, monkeypatch)
    second = Storage.open(f"{trial.root}0")
    second.make_folder()
    said: list[str] = []
    destination = WandbDestination("online", said.append)
    trackings = [WandbTrial(place, "sweep", CONFIG, destination) for place in (trial, second)]
    for place, tracking in zip((trial, second), trackings, strict=True):
        log_steps(place, range(3))
        tracking.update()
    asked = len(server.received)
    for place, tracking in zip((trial, second), trackings, strict=True):
        log_steps(place, range(3, 5), after=2)
        tracking.finish({"status": "finished"})
        assert offline_run(place).steps == [0, 1, 2, 3, 4]
        assert offline_run(place).exit_code == 0
    assert len(said) == 1 and "kept offline" in said[0] and "\n" not in said[0]
    assert len(server.received) == asked
    assert not wandb_processes()

    mend_server(server, monkeypatch)
    monkeypatch.setattr(WAIT_S, 600.0)  # a sound server is waited for, however busy the machine is
    track(trial, "finished", mode="online")
    assert server.runs[run_id("sweep", trial.name)].steps == [0, 1, 2, 3, 4]
    assert not list(trial.local_path.glob("wandb/offline-run-*"))


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("part", "fault"),
    [("", "hangs"), ("/file_stream", "answers 403"), ("/upload/", "answers 403"), ("", "answers 500")],
)
def test_what_a_server_has_refused_in_the_middle_is_kept_offline_whole(
    trial: Storage, server: LocalServer, part: str, fault: str
) -> None:
    said: list[str] = []
    log_steps(trial, range(3))
    tracking = tracking_of(trial, "online", notify=said.append)
    tracking.update()
    if fault == "hangs":
        server.answers.clear()
    else:
        server.faults = {part: int(fault.removeprefix("answers "))}
    log_steps(trial, range(3, 6), after=2)
    tracking.finish({"status": "finished"})
    assert offline_run(trial).steps == [0, 1, 2, 3, 4, 5]
    assert len(said) == 1 and "kept offline" in said[0]
    assert not wandb_processes()


@pytest.mark.usefixtures("key")
def test_what_a_server_has_whole_is_not_kept_offline_when_it_fails_later(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(trial, range(3))
    track(trial, "finished", mode="online")
    before = files_of(trial)
    second = Storage.open(f"{trial.root}0")
    second.make_folder()
    log_steps(second, range(3))
    destination = WandbDestination("online", lambda line: None)
    trackings = [WandbTrial(place, "sweep", CONFIG, destination) for place in (second, trial)]
    break_server(server, "refuses", monkeypatch)
    trackings[0].finish({"status": "finished"})
    mend_server(server, monkeypatch)
    trackings[1].finish({"status": "finished"})
    assert destination.mode == "offline" and offline_run(second).steps == [0, 1, 2]
    assert files_of(trial) == before


def test_the_reason_of_a_refusal_is_said_without_the_signatures_of_addresses() -> None:
    message = 'file transfer: upload: failed to upload: Put "https://bucket/a.png?X-Signature=abc": no such host'
    line = json.dumps({"level": "ERROR", "msg": message})
    assert upload_failure(line) == 'Put "https://bucket/a.png": no such host'
    assert upload_failure(line.replace("failed to upload", "done")) == ""


@pytest.mark.usefixtures("key")
def test_nobody_who_listens_is_no_reason_to_stop(trial: Storage, server: LocalServer) -> None:
    def notify(line: str) -> None:
        raise BrokenPipeError

    server.faults = {"": 403}
    log_steps(trial, range(3))
    track(trial, "finished", mode="online", notify=notify)
    assert offline_run(trial).steps == [0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "environment", "reason"),
    [
        ("online", {}, "no W&B key is configured: run `wandb login`, or set tracking.wandb: offline"),
        ("online", {"WANDB_API_KEY": "short"}, "WANDB_API_KEY invalid"),
    ],
)
def test_without_a_key_that_can_be_used_runs_are_kept_offline(
    trial: Storage, monkeypatch: pytest.MonkeyPatch, mode: str, environment: dict[str, str], reason: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log_steps(trial, range(3))
    said: list[str] = []
    track(trial, "finished", mode, notify=said.append)
    assert len(said) == 1 and reason in said[0]
    assert offline_run(trial).steps == [0, 1, 2]


def test_a_failure_offline_is_said_once_and_ends_that_trials_tracking(
    trial: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "nonsense")
    log_steps(trial, range(3))
    log = trial.read(METRICS_LOG)
    said: list[str] = []
    track(trial, "finished", notify=said.append)
    assert len(said) == 1 and trial.name in said[0] and "validation error" in said[0]
    assert trial.read(METRICS_LOG) == log and not trial.exists("wandb/state.json")
    assert not wandb_processes()


def test_a_picture_that_cannot_be_read_ends_tracking_with_the_log_untouched(trial: Storage) -> None:
    trial.make_folder("images")
    trial.write("images/epoch_0001.png", b"no picture")
    reopen_log(trial, -1).add(a_row(10) | {"epoch_mean/l1_loss": 0.5})
    content = trial.read(METRICS_LOG)
    said: list[str] = []
    track(trial, "finished", notify=said.append)
    assert len(said) == 1 and "W&B tracking of" in said[0]
    assert trial.read(METRICS_LOG) == content
    assert not wandb_processes()


def test_nothing_is_tracked_by_a_start_that_another_has_followed(trial: Storage) -> None:
    def superseded() -> None:
        raise Superseded("attempt 2 has taken over")

    log_steps(trial, range(3))
    tracker = Tracker({trial.name: [tracking_of(trial)]}, None, superseded, pytest.fail)
    tracker.finish([{"trial": trial.name, "status": "finished"}])
    assert trial.names() == [METRICS_LOG]


def test_a_start_that_is_followed_in_the_middle_touches_no_further_trial(trial: Storage) -> None:
    second = Storage.open(f"{trial.root}0")
    second.make_folder()
    places = (trial, second)

    def check_current() -> None:
        if trial.exists("wandb/state.json"):
            raise Superseded("attempt 2 has taken over")

    for place in places:
        log_steps(place, range(3))
    tracker = Tracker({place.name: [tracking_of(place)] for place in places}, None, check_current, pytest.fail)
    tracker.finish([{"trial": place.name, "status": "finished"} for place in places])
    assert offline_run(trial).steps == [0, 1, 2]
    assert second.names() == [METRICS_LOG]


def test_a_store_out_of_reach_for_a_while_ends_no_tracking(trial: Storage) -> None:
    asked, answers = threading.Event(), iter([Unreachable("no answer"), Unreachable("no answer"), None])

    def check_current() -> None:
        if (problem := next(answers, None)) is not None:
            raise problem
        asked.set()

    tracker = Tracker({trial.name: [NoTracking()]}, None, check_current, pytest.fail, interval_s=0.01)
    tracker.begin()
    assert asked.wait(60), "the thread has ended"
    tracker.close()


class NoTracking:
    """In place of a trial's tracking."""

    def update(self) -> None:
        """Does nothing."""

    def finish(self, result: Any) -> None:
        """Does nothing."""


def test_closing_waits_for_what_is_being_done_and_begins_nothing_more(trial: Storage) -> None:
    begun, may_go_on, over = threading.Event(), threading.Event(), threading.Event()

    def check_current() -> None:
        begun.set()
        may_go_on.wait()

    log_steps(trial, range(3))
    unlogged = Storage.open(f"{trial.root}0")
    unlogged.make_folder()
    log_steps(unlogged, range(3))
    trackings = {place.name: [tracking_of(place)] for place in (trial, unlogged)}
    tracker = Tracker(trackings, None, check_current, pytest.fail)
    tracker.begin()
    begun.wait()
    closing = threading.Thread(target=lambda: (tracker.close(), over.set()))
    closing.start()
    assert not over.wait(0.1), "it returned while a trial was being tracked"
    may_go_on.set()
    closing.join()
    assert unlogged.names() == [METRICS_LOG]
    trackings[trial.name][0].finish({"status": "stopped"})


def train_online(folder: Path, undisturbed: Path, server: str, wait_s: float, **how: Any) -> Run:
    """A run of the command that is told of a W&B server."""
    shutil.copytree(undisturbed / "results" / "patches", folder / "results" / "patches")
    settings = {WAIT_S: wait_s, **how.pop("settings", {})}
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server, **how.pop("environment", {})}
    changes = {"tracking": {"wandb": "auto"}}
    return train_tiny(folder, changes=changes, settings=settings, environment=environment, **how)


def assert_ended_as_without_wandb(folder: Path, undisturbed: Path, ended: Run) -> None:
    assert ended.code == 0, ended.output
    trial = tiny_trial(folder)
    assert_same_end(trial, tiny_trial(undisturbed))
    assert offline_run(Storage.open(trial)).steps == [row["step"] for row in read_metrics(trial)]
    assert ended.output.count("W&B fails (") == 1
    assert f"to upload: wandb sync {folder}/results/tiny/trials/*/wandb/offline-run-*" in ended.output
    assert KEY not in ended.output
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS[:3])
def test_a_run_whose_server_fails_ends_as_one_without_wandb(
    tmp_path: Path, undisturbed: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    break_server(server, fault, monkeypatch)
    ended = train_online(tmp_path, undisturbed, os.environ["WANDB_BASE_URL"], wait_s=1.0)
    assert_ended_as_without_wandb(tmp_path, undisturbed, ended)


@pytest.mark.slow
def test_a_server_that_is_still_silent_when_all_is_done_is_given_up(
    tmp_path: Path, undisturbed: Path, server: LocalServer
) -> None:
    server.answers.clear()
    settings = {"runner.tracking.tracker.END_WAIT_S": 10.0}
    ended = train_online(tmp_path, undisturbed, server.url, wait_s=600.0, settings=settings)
    assert_ended_as_without_wandb(tmp_path, undisturbed, ended)
    assert "W&B does not finish: it is given up" in ended.output


@contextlib.contextmanager
def watching(work: Callable[[], None], over: threading.Event) -> Iterator[None]:
    """Works in a thread beside the block."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def step_that_waits(state: TrainState, *arguments: Any) -> torch.Tensor:
    """A training step that, once, is not done before a server has been asked something."""
    while state.step == STEP_THAT_WAITS and not Path(os.environ["SERVER_IS_ASKED"]).exists():
        time.sleep(0.01)  # a poll
    return train_step(state, *arguments)


@pytest.mark.slow
def test_training_goes_on_to_its_end_while_a_server_does_not_answer(
    tmp_path: Path, undisturbed: Path, server: LocalServer
) -> None:
    """The server is silent until all is trained: if training waited for it, neither would come to an end."""
    server.answers.clear()
    asked, over = tmp_path / "asked", threading.Event()
    trained: list[bool] = []

    def answer_once_all_is_trained() -> None:
        while not over.wait(0.01):
            if server.received:
                asked.touch()
            if read_outcome(Storage.open(tiny_trial(tmp_path)))["status"] == "finished":
                trained.append(bool(server.received))
                server.faults = {"": 403}
                server.answers.set()
                return

    with watching(answer_once_all_is_trained, over):
        ended = train_online(
            tmp_path,
            undisturbed,
            server.url,
            wait_s=600.0,
            settings={"gan.training.computation.train_step": step_that_waits},
            environment={"SERVER_IS_ASKED": str(asked)},
        )
    assert trained == [True]
    assert_ended_as_without_wandb(tmp_path, undisturbed, ended)
