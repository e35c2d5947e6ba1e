"""Event files as TensorBoard's own reader finds them."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.process.lease import Lease, Superseded
from runner.records.starts import record_start
from runner.storage.run_folder import IMAGES, TENSORBOARD_EVENTS, TENSORBOARD_NOTE, image_name
from runner.storage.storage import Storage
from runner.tracking.tensorboard_trial import TensorBoardTrial
from runner.trial.job import TrialJob
from tests.support.commands import read_metrics, reopen_log
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial, train_tiny
from tests.support.trial_jobs import job_of
from tests.support.wandb_trials import a_row, log_steps


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    """A trial that this process owns."""
    experiment = Storage.open(tmp_path / "results" / "small")
    lease = Lease.acquire(experiment)
    yield job_of(experiment, lease)
    lease.release()


def track(job: TrialJob) -> None:
    """What one start of the command does, told of nothing but what is on the disk."""
    TensorBoardTrial(job, pytest.fail).finish({"status": "finished"})


def read_events(folder: Path) -> EventAccumulator:
    # Nothing is thinned out, and no step is purged as one that was done again.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}, purge_orphaned_data=False)
    events.Reload()
    return events


def steps_of(folder: Path, tag: str) -> list[int]:
    return [event.step for event in read_events(folder).Scalars(tag)]


def add_picture(job: TrialJob, epoch: int, color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (30, 10), color).save(stream, "PNG")
    job.trial.make_folder(IMAGES)
    job.trial.write(image_name(epoch), stream.getvalue())
    return stream.getvalue()


def test_each_row_is_read_back_under_its_names_with_the_epochs_picture(job: TrialJob) -> None:
    record_start(job.trial, 1, "token", 0, 0)
    picture = add_picture(job, 1, "teal")
    rows = [a_row(4), a_row(8) | {"epoch_mean/l1_loss": 0.25, "val/ssim": 0.158}, a_row(12) | {"l1_loss": math.nan}]
    log = reopen_log(job.trial, -1)
    for row in rows:
        log.add(row)
    track(job)

    events = read_events(job.trial.local_path)
    assert set(events.Tags()["scalars"]) == {name for row in rows for name in row} - {"step"}
    assert [event.value for event in events.Scalars("total_gen_loss")] == [row["total_gen_loss"] for row in rows]
    assert [event.step for event in events.Scalars("val/ssim")] == [8]
    assert events.Scalars("val/ssim")[0].value == pytest.approx(0.158)
    assert [math.isnan(event.value) for event in events.Scalars("l1_loss")] == [False, False, True]
    times = [event.wall_time for event in events.Scalars("total_gen_loss")]
    assert [time - times[0] for time in times] == [0, 1, 2]  # as `seconds` in the rows
    (image,) = events.Images("images")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (8, 30, 10, picture)


def test_the_file_only_grows_and_has_each_step_once_after_a_restart(job: TrialJob) -> None:
    log_steps(job.trial, range(10))
    track(job)
    before = job.trial.read(TENSORBOARD_EVENTS)
    # The worker is killed, and goes on from step 4.
    log_steps(job.trial, range(5, 15), after=4)
    track(job)
    assert job.trial.read(TENSORBOARD_EVENTS).startswith(before)
    assert steps_of(job.trial.local_path, "l1_loss") == list(range(15))


def test_a_start_with_nothing_new_leaves_the_file_as_it_is_and_reads_no_log(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(job.trial, range(3))
    track(job)
    before = {name: (job.trial.local_path / name).stat() for name in (TENSORBOARD_EVENTS, TENSORBOARD_NOTE)}
    monkeypatch.setattr("runner.tracking.tensorboard_trial.MetricsReader", pytest.fail)
    track(job)
    assert {name: (job.trial.local_path / name).stat() for name in before} == before


@pytest.mark.parametrize("damage", ["torn", "longer", "blank end", "gone", "no note"])
def test_a_file_that_is_not_as_noted_is_made_again(job: TrialJob, damage: str) -> None:
    log_steps(job.trial, range(8))
    track(job)
    whole = job.trial.read(TENSORBOARD_EVENTS)
    contents = {"torn": whole[:-5], "longer": whole + b"\0" * 7, "blank end": whole[:-50] + bytes(50)}
    if damage in contents:
        job.trial.write(TENSORBOARD_EVENTS, contents[damage])
    else:
        job.trial.remove(TENSORBOARD_EVENTS if damage == "gone" else TENSORBOARD_NOTE)
    track(job)
    assert job.trial.read(TENSORBOARD_EVENTS) == whole


def test_a_start_that_is_superseded_adds_nothing(job: TrialJob) -> None:
    log_steps(job.trial, range(3))
    tracking = TensorBoardTrial(job, pytest.fail)
    tracking.update()
    before = job.trial.read(TENSORBOARD_EVENTS)
    log_steps(job.trial, range(3, 6), after=2)
    other = Lease.acquire(job.experiment, take_over=True)
    with pytest.raises(Superseded):
        tracking.update()
    other.release()
    assert job.trial.read(TENSORBOARD_EVENTS) == before


def test_an_error_is_told_once_and_ends_nothing_but_the_file(job: TrialJob) -> None:
    log_steps(job.trial, range(3))
    job.trial.make_folder(TENSORBOARD_EVENTS)
    lines: list[str] = []
    tracking = TensorBoardTrial(job, lines.append)
    tracking.update()
    tracking.finish({"status": "finished"})
    assert len(lines) == 1 and "its TensorBoard file ends here (IsADirectoryError" in lines[0]


def test_a_long_log_is_added_in_pieces(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.tracking.tensorboard_trial._CHUNK_BYTES", 1000)
    log_steps(job.trial, range(50))
    track(job)
    assert steps_of(job.trial.local_path, "l1_loss") == list(range(50))


def test_a_picture_is_there_once_after_a_restart_that_makes_it_again(job: TrialJob) -> None:
    ends = [a_row(step, epoch) | {"epoch_mean/l1_loss": 0.25} for epoch, step in ((1, 4), (2, 8), (3, 12))]
    pictures = [add_picture(job, epoch, color) for epoch, color in ((1, "teal"), (2, "navy"))]
    log = reopen_log(job.trial, -1)
    log.add(ends[0])
    log.add(ends[1])
    track(job)

    # The worker is killed, and does epoch 2 again; epoch 3 has no picture.
    add_picture(job, 2, "navy")
    log = reopen_log(job.trial, 4)
    log.add(ends[1])
    track(job)
    log.add(ends[2])
    track(job)
    images = read_events(job.trial.local_path).Images("images")
    assert [(image.step, image.encoded_image_string) for image in images] == list(zip((4, 8), pictures, strict=True))


def test_each_piece_is_noted_so_that_a_start_goes_on_behind_it(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.tracking.tensorboard_trial._CHUNK_BYTES", 1000)
    log_steps(job.trial, range(50))
    tracking = TensorBoardTrial(job, lambda line: None)
    note, appends = TensorBoardTrial._note, iter(range(3))

    def torn_note(self: TensorBoardTrial, last_step: int, content: bytes) -> None:
        if next(appends, None) is None:
            raise OSError("torn")
        note(self, last_step, content)

    # The disk is full after the header and two pieces: what is behind the note is not known to be whole.
    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardTrial, "_note", torn_note)
        tracking.update()
    held = steps_of(job.trial.local_path, "l1_loss")
    assert held == list(range(len(held))) and 0 < len(held) < 50
    track(job)
    assert steps_of(job.trial.local_path, "l1_loss") == list(range(50))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill_point",
    [
        pytest.param(KillPoint("runner.tracking.tensorboard_trial.TensorBoardTrial._note", 1), id="behind the header"),
        pytest.param(KillPoint("runner.tracking.tensorboard_trial.TensorBoardTrial._note", 2), id="behind rows"),
        pytest.param(KillPoint("runner.tracking.tensorboard_trial.TensorBoardTrial._note", 2, "after"), id="noted"),
        pytest.param(KillPoint("runner.storage.folder.Folder.append", 5, "half-way"), id="within a row"),
    ],
)
def test_a_command_that_was_killed_in_its_writing_has_each_row_and_picture_once(
    tmp_path: Path, kill_point: KillPoint
) -> None:
    with_files = {"tracking": {"wandb": "off", "tensorboard": True}}
    at_once = SAVE_ALWAYS | {"runner.tracking.tracker.INTERVAL_S": 0.02}
    assert train_tiny(tmp_path, changes=with_files, kill_points=[kill_point], settings=at_once).code < 0
    assert train_tiny(tmp_path, changes=with_files).code == 0
    rows = read_metrics(tiny_trial(tmp_path))
    events = read_events(tiny_trial(tmp_path))
    assert [event.step for event in events.Scalars("l1_loss")] == [row["step"] for row in rows]
    assert [image.step for image in events.Images("images")] == [3, 6, 9, 12, 15, 18]


@pytest.mark.slow
def test_a_run_that_was_killed_has_each_step_of_its_log_once(tmp_path: Path) -> None:
    with_files = {"tracking": {"wandb": "off", "tensorboard": True}}
    for call in (4, 8):
        killed = KillPoint("runner.trial.recorder.comparison_png", call // 2, "after")
        assert train_tiny(tmp_path, changes=with_files, kill_points=[killed], settings=SAVE_ALWAYS).code < 0
    assert train_tiny(tmp_path, changes=with_files).code == 0
    trial = tiny_trial(tmp_path)
    rows = read_metrics(trial)
    events = read_events(trial)
    for name in ("l1_loss", "epoch", "final/swd", "val/ssim"):
        logged = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == logged
    assert [image.step for image in events.Images("images")] == [3, 6, 9, 12, 15, 18]


@pytest.mark.slow
def test_without_the_setting_there_is_no_file(undisturbed: Path) -> None:
    trial = tiny_trial(undisturbed)
    assert not (trial / TENSORBOARD_EVENTS).exists() and not (trial / TENSORBOARD_NOTE).exists()
