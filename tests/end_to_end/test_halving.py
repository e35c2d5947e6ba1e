"""A halved sweep: the same survivors and the same bits after any history of kills."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.errors import Exit
from tests.support.commands import (
    TINY,
    Command,
    assert_same_end,
    descendants,
    finish,
    read_starts,
    run,
    start,
    wait_for_step,
    weights_digest,
    write_experiment,
)
from tests.support.kill_points import KillPoint, Run, train_tiny
from tests.support.ray_endpoints import wait_until
from tests.support.sharing import made_once

pytestmark = pytest.mark.slow

# Rungs at epochs 1, 2 and 4 of three cells: two, one and one go on.
HALVED: dict[str, Any] = {
    "sweep": {"lambda_l1": [1, 10, 100], "halving": {"metric": "swd", "first_epochs": 1, "reduction_factor": 2}},
    "training": {"epochs": 6, "batch_size": 4, "precision": "fp32", "learning_rate": 2e-3},
}
SWEPT = "tests.support.inline_sweep"
DECIDED = "runner.sweep.execute"


def sweep(folder: Path, *kill_points: KillPoint, **changes: Any) -> Run:
    return train_tiny(folder, changes=HALVED | changes, module=SWEPT, kill_points=kill_points)


def results(folder: Path) -> dict[str, str]:
    rows = json.loads((folder / "results/tiny/results.json").read_text())
    return {row["trial"]: row["status"] for row in rows}


def trial(folder: Path, value: int) -> Path:
    return folder / f"results/tiny/trials/lambda_l1={value}"


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a halved sweep that nothing happened to."""

    def make(folder: Path) -> None:
        ended = sweep(folder)
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "halved", make)


@pytest.fixture
def folder(tmp_path: Path, undisturbed: Path) -> Path:
    """A new folder, whose pictures are cut already."""
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    return tmp_path


def assert_same_sweep(folder: Path, undisturbed: Path) -> None:
    """The same decisions, and of each trial the same status, weights, last checkpoint and log."""
    assert (folder / "results/tiny/rungs.json").read_bytes() == (undisturbed / "results/tiny/rungs.json").read_bytes()
    assert results(folder) == results(undisturbed)
    for value in (1, 10, 100):
        assert_same_end(trial(folder, value), trial(undisturbed, value))


def test_one_is_finished_the_others_are_halted_at_their_rungs_with_weights_and_metrics_of_these(halved: Path) -> None:
    statuses = results(halved)
    assert sorted(statuses.values()) == ["finished", "halted", "halted"]
    rows = {row["trial"]: row for row in json.loads((halved / "results/tiny/results.json").read_text())}
    (record,) = [json.loads((halved / "results/tiny/rungs.json").read_text())]
    assert [(rung["epochs"], sum(cell["kept"] for cell in rung["cells"])) for rung in record["rungs"]] == [
        (1, 2),
        (2, 1),
        (4, 1),
    ]
    for rung in record["rungs"]:
        for cell in rung["cells"]:
            if not cell["kept"]:
                row, folder = rows[cell["cell"]], halved / "results/tiny/trials" / cell["cell"]
                assert row["epochs"] == rung["epochs"] and row["ssim_low"] is not None
                assert json.loads((folder / "weights/manifest.json").read_text())["epochs"] == rung["epochs"]
                assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step_{row['steps']:08d}"]
    # A rung is no fault.
    assert all(row["restarts"] == 0 and row["steps_lost"] == 0 for row in rows.values())


def test_done_again_it_trains_nothing_and_changes_no_decision(halved: Path, tmp_path: Path) -> None:
    shutil.copytree(halved, tmp_path, dirs_exist_ok=True)
    before = len(read_starts(trial(tmp_path, 1)))
    again = sweep(tmp_path)
    assert again.code == 0, again.output
    assert "finished before, not run again: 1 of 3 trials" in again.output
    assert "halted before, not run again: 2 of 3 trials" in again.output
    assert len(read_starts(trial(tmp_path, 1))) == before
    assert_same_sweep(tmp_path, halved)


@pytest.mark.parametrize(
    "kill_points",
    [
        pytest.param([KillPoint(f"{DECIDED}.write_rungs", 1)], id="before the first rung is written"),
        pytest.param([KillPoint("runner.halving.rungs.encode_rungs", 2, "after")], id="in the writing of the second"),
        pytest.param([KillPoint(f"{DECIDED}.write_rungs", 1, "after")], id="after it is written"),
        pytest.param(
            [KillPoint(f"{DECIDED}.reason_halted", 1, "after")], id="before a trial is told that it is halted"
        ),
        pytest.param([KillPoint("gan.training.loop._take_step", 10)], id="in a promoted trial's first step"),
        pytest.param([KillPoint("runner.trial.recorder.selection_row", 2)], id="in a rung's evaluation"),
        pytest.param([KillPoint("runner.trial.loop.write_weights", 2)], id="between a rung's checkpoint and weights"),
        pytest.param(
            [KillPoint("gan.training.loop._take_step", n) for n in (2, 5, 3, 8)]
            + [KillPoint(f"{DECIDED}.write_rungs", 1, "after")],
            id="again and again",
        ),
    ],
)
def test_killed_anywhere_and_started_again_it_has_the_same_survivors_and_bits(
    folder: Path, halved: Path, kill_points: list[KillPoint]
) -> None:
    for kill_point in kill_points:
        assert sweep(folder, kill_point).code == -signal.SIGKILL
    ended = sweep(folder)
    assert ended.code == 0, ended.output
    assert_same_sweep(folder, halved)


def test_stopped_it_exits_with_75_and_goes_on_to_the_same_end(folder: Path, halved: Path) -> None:
    stopped = sweep(folder, KillPoint("gan.training.loop._take_step", 2, "stop"))
    assert stopped.code == Exit.STOPPED, stopped.output
    assert set(results(folder).values()) == {"stopped"}
    assert sweep(folder).code == 0
    assert_same_sweep(folder, halved)


def test_without_halving_each_goes_on_from_its_rung_to_the_bits_of_an_uninterrupted_trial(
    folder: Path, halved: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(halved / "results/tiny", folder / "results/tiny")
    whole = {"sweep": {"lambda_l1": [1, 10, 100]}}
    ended = sweep(folder, **whole)
    assert ended.code == 0, ended.output
    assert set(results(folder).values()) == {"finished"}
    assert not (folder / "results/tiny/rungs.json").exists()

    fresh = tmp_path_factory.mktemp("whole")
    shutil.copytree(folder / "results/patches", fresh / "results/patches")
    assert sweep(fresh, **whole).code == 0
    for value in (1, 10, 100):
        assert weights_digest(trial(folder, value)) == weights_digest(trial(fresh, value))
        assert all(not start["fault"] for start in read_starts(trial(folder, value)))


def test_a_sweep_that_grows_takes_in_whoever_is_kept_now(folder: Path, halved: Path) -> None:
    shutil.copytree(halved / "results/tiny", folder / "results/tiny")
    grown = HALVED["sweep"] | {"lambda_l1": [1, 10, 100, 1000, 10000]}
    ended = sweep(folder, sweep=grown)
    assert ended.code == 0, ended.output

    fresh = folder / "fresh"
    shutil.copytree(folder / "results/patches", fresh / "results/patches")
    assert sweep(fresh, sweep=grown).code == 0
    kept = json.loads((folder / "results/tiny/rungs.json").read_text())
    assert kept == json.loads((fresh / "results/tiny/rungs.json").read_text())
    for name, status in results(fresh).items():
        if status == "finished":
            assert weights_digest(folder / "results/tiny/trials" / name) == weights_digest(
                fresh / "results/tiny/trials" / name
            )


def test_with_one_validation_picture_nothing_is_halved_and_nothing_is_written(tmp_path: Path) -> None:
    one = {"patch_size": 64, "patching": "resize", "synthetic": {"train": 12, "val": 1, "seed": 3}}
    refused = sweep(tmp_path, data=one)
    assert refused.code == Exit.BAD_INPUT, refused.output
    assert "has 1 usable validation picture: add some, or take sweep.halving out" in refused.output
    assert not (tmp_path / "results").exists()


def test_the_page_shows_the_rungs_and_ranks_only_what_was_trained_to_the_end(halved: Path) -> None:
    page = (halved / "results/tiny/report.html").read_text()
    rungs = page[page.index('<section id="rungs"') :].partition("</section>")[0]
    record = json.loads((halved / "results/tiny/rungs.json").read_text())
    assert rungs.count("✓</b></td>") == sum(cell["kept"] for rung in record["rungs"] for cell in rung["cells"])
    assert "is left of the halved sweep; 2 other settings were halted." in page
    assert "2 of 3 trials halted at a rung, before the last epoch: they take no part in the ranking." in page


def test_the_page_of_a_finished_grid_says_whether_halving_would_have_kept_its_winner(folder: Path) -> None:
    assert sweep(folder, sweep={"lambda_l1": [1, 10, 100]}).code == 0
    page = (folder / "results/tiny/report.html").read_text()
    answers = page[page.index('<h2 id="rungs-title">Would halving have kept the winner?') :].partition("</section>")[0]
    # Five metrics that are measured after each epoch; the first rung may be at epoch 1 or 2 of 6.
    assert answers.count('<tr><th scope="row">') == 10
    assert answers.count("<td>yes</td>") + answers.count("<td>no, halted at epoch") == 10


LONGER: dict[str, Any] = {
    "sweep": {"lambda_l1": [1, 10, 100], "halving": {"metric": "swd", "first_epochs": 20, "reduction_factor": 2}},
    "training": {"epochs": 60, "batch_size": 4, "precision": "fp32", "learning_rate": 2e-3},
    "evaluation": {"every_n_epochs": 20},
    "checkpoint": {"every_n_epochs": 5},
    "resources": {"cpus_per_worker": 1, "max_concurrent": 2},
}


@pytest.mark.ray
def test_on_ray_with_worker_driver_and_command_killed_it_has_the_survivors_and_bits_of_one_process(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = tmp_path_factory.mktemp("longer")
    shutil.copytree(folder / "results/patches", undisturbed / "results/patches")
    assert sweep(undisturbed, **LONGER).code == 0

    path = write_experiment(folder, **TINY | LONGER)
    command = ("runner.tune", path, "--storage", folder / "results", "--no-dashboard")
    process = start(*command)
    wait_for_step(process, trial(folder, 1), 8)
    kill_one(process, "ray::RayTrainWorker")
    wait_until(process, (folder / "results/tiny/rungs.json").exists)
    kill_one(process, "ray::ImplicitFunc")
    (name,) = [cell["cell"] for cell in first_rung(folder)["cells"] if cell["rank"] == 1]
    wait_for_step(process, folder / "results/tiny/trials" / name, 63)  # in the first epoch behind the rung
    process.kill()
    finish(process)

    code, output = run(*command)
    assert code == 0, output
    assert_same_sweep(folder, undisturbed)


def kill_one(process: Command, title: str) -> None:
    """Kills the next process of a command that is there, by what Ray calls it: between two stages there may be none."""

    def is_killed() -> bool:
        for pid, found in descendants(process.pid).items():
            if found.startswith(title):
                with contextlib.suppress(ProcessLookupError):  # ended meanwhile: another one will come
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    wait_until(process, is_killed)


def first_rung(folder: Path) -> dict[str, Any]:
    rung: dict[str, Any] = json.loads((folder / "results/tiny/rungs.json").read_text())["rungs"][0]
    return rung
