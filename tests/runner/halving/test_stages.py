import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runner.config.fingerprint import Fingerprints
from runner.config.halving import Halving
from runner.config.schema import Experiment
from runner.errors import ConfigError, StorageError
from runner.halving.rungs import read_rungs, write_rungs
from runner.halving.stages import Stage, check_recorded, describe_rung, next_stage, reason_halted
from runner.records.metrics_log import encode_row
from runner.records.trial_file import write_outcome
from runner.records.trial_folders import Trial
from runner.storage.run_folder import METRICS_LOG, RUNGS, WEIGHTS_RECORD, trial_path
from runner.storage.storage import Storage

BY_SWD = Halving("swd", 2, 2)
EPOCHS = 12  # rungs at 2, 4 and 8
FINGERPRINTS = Fingerprints("settings", "data")
CONFIG = Experiment(name="sweep", training={"epochs": EPOCHS})


def sweep_of(lambdas: Sequence[int], seeds: Sequence[int] = (0,)) -> list[Trial]:
    return [
        Trial(f"lambda_l1={value},seed={seed}", {"lambda_l1": value, "seed": seed}, CONFIG, FINGERPRINTS, False, False)
        for value, seed in product(lambdas, seeds)
    ]


def leave(
    experiment: Storage, trial: Trial, epochs: int, swd: Mapping[int, float | None], status: str = "paused"
) -> None:
    """The folder of a trial whose weights are of the end of an epoch."""
    folder = experiment.at(trial_path(trial.name))
    folder.make_folder("weights")
    rows = [
        {"step": epoch, "epoch": epoch, "epoch_mean/l1_loss": 1.0}
        | ({"selection/swd": swd[epoch], "selection/ssim": -swd[epoch] if swd[epoch] else 0.0} if epoch in swd else {})
        for epoch in range(1, epochs + 1)
    ]
    folder.write(METRICS_LOG, b"".join(map(encode_row, rows)))
    record = {"epochs": epochs, "step": epochs, "config_fingerprint": "settings", "data_fingerprint": "data"}
    folder.write(WEIGHTS_RECORD, json.dumps(record).encode())
    write_outcome(folder, status)


def at_first_rung(experiment: Storage, trials: Sequence[Trial], swd: Sequence[float | None]) -> None:
    for trial, value in zip(trials, swd, strict=True):
        leave(experiment, trial, 2, {2: value})


def kept(stage: Stage) -> list[list[str]]:
    return [[cell.name for cell in rung.kept] for rung in stage.rungs]


@pytest.fixture
def experiment(tmp_path: Path) -> Storage:
    folder = Storage.open(tmp_path / "sweep")
    folder.make_folder()
    return folder


def test_at_first_all_trials_are_trained_to_the_first_rung(experiment: Storage) -> None:
    trials = sweep_of([1, 10, 100])
    stage = next_stage(experiment, trials, BY_SWD)
    assert (stage.epochs, list(stage.to_train), list(stage.rungs)) == (2, [trial.name for trial in trials], [])


def test_a_rung_waits_for_its_last_trial_and_then_the_best_part_goes_on(experiment: Storage) -> None:
    trials = sweep_of([1, 10, 100])
    at_first_rung(experiment, trials[:2], [0.3, 0.1])
    assert list(next_stage(experiment, trials, BY_SWD).to_train) == ["lambda_l1=100,seed=0"]
    at_first_rung(experiment, trials[2:], [0.2])
    stage = next_stage(experiment, trials, BY_SWD)
    assert kept(stage) == [["lambda_l1=10", "lambda_l1=100"]]
    assert (stage.epochs, list(stage.to_train)) == (4, ["lambda_l1=10,seed=0", "lambda_l1=100,seed=0"])
    assert list(stage.halted) == ["lambda_l1=1,seed=0"]
    assert reason_halted("lambda_l1=1,seed=0", stage.rungs[0], BY_SWD) == (
        "rank 3 of 3 by swd at epoch 2; the best 2 go on"
    )


def test_a_rung_that_keeps_one_cell_says_so_in_the_singular(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.3, 0.1])
    (rung,) = next_stage(experiment, trials, BY_SWD).rungs
    assert describe_rung(rung, BY_SWD) == "rung at epoch 2, by SWD: 1 of 2 cells goes on: lambda_l1=10 (0.1000)"
    assert reason_halted(trials[0].name, rung, BY_SWD) == "rank 2 of 2 by swd at epoch 2; the best goes on"


def test_a_row_without_the_weights_of_its_epoch_does_not_count(experiment: Storage) -> None:
    """A run that was killed between the two writes them both again."""
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.3, 0.1])
    folder = experiment.at(trial_path(trials[0].name))
    folder.remove(WEIGHTS_RECORD)
    assert list(next_stage(experiment, trials, BY_SWD).to_train) == [trials[0].name]


@pytest.mark.parametrize(("metric", "best"), [("swd", "lambda_l1=1"), ("ssim", "lambda_l1=1")])
def test_each_metric_ranks_in_its_own_direction(experiment: Storage, metric: str, best: str) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])  # and an SSIM of -0.1 and -0.2
    assert kept(next_stage(experiment, trials, Halving(metric, 2, 2))) == [[best]]


def test_cells_are_ranked_by_the_mean_over_their_seeds_and_ties_by_name(experiment: Storage) -> None:
    trials = sweep_of([1, 10, 100, 1000], seeds=[0, 1])
    at_first_rung(experiment, trials, [0.1, 0.5, 0.2, 0.3, 0.3, 0.2, 0.9, 0.0])
    (rung,) = next_stage(experiment, trials, BY_SWD).rungs
    assert [(cell.name, cell.mean) for cell in rung.cells] == [
        ("lambda_l1=10", 0.25),
        ("lambda_l1=100", 0.25),
        ("lambda_l1=1", 0.3),
        ("lambda_l1=1000", 0.45),
    ]


@pytest.mark.parametrize("status", ["diverged", "out_of_memory"])
def test_a_cell_of_which_a_seed_has_no_metric_ranks_last(experiment: Storage, status: str) -> None:
    trials = sweep_of([1, 10, 100], seeds=[0, 1])
    at_first_rung(experiment, trials, [0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    leave(experiment, trials[0], 1, {}, status)
    stage = next_stage(experiment, trials, BY_SWD)
    assert kept(stage) == [["lambda_l1=10", "lambda_l1=100"]]
    (last,) = stage.rungs[0].halted
    assert {name: trial.ended for name, trial in last.trials.items()} == {
        "lambda_l1=1,seed=0": status,
        "lambda_l1=1,seed=1": "",
    }
    assert last.mean is None


def test_a_metric_that_is_not_finite_ranks_last(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [None, 0.9])  # JSON has null for it
    assert kept(next_stage(experiment, trials, BY_SWD)) == [["lambda_l1=10"]]


def test_where_no_cell_has_a_metric_the_first_by_name_go_on_and_nothing_diverged_is_trained(
    experiment: Storage,
) -> None:
    trials = sweep_of([1, 10])
    for trial in trials:
        leave(experiment, trial, 1, {}, "diverged")
    stage = next_stage(experiment, trials, BY_SWD)
    assert kept(stage) == [["lambda_l1=1"]] * 3
    assert list(stage.to_train) == []


def test_a_failed_trial_blocks_the_rung_and_is_tried_again(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])
    leave(experiment, trials[1], 1, {}, "failed")
    stage = next_stage(experiment, trials, BY_SWD)
    assert (list(stage.rungs), list(stage.to_train)) == ([], [trials[1].name])
    assert stage.pending == {trial.name for trial in trials}


def test_with_retry_diverged_a_diverged_trial_is_trained_to_the_rung(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])
    leave(experiment, trials[1], 1, {}, "diverged")
    assert list(next_stage(experiment, trials, BY_SWD).rungs) != []
    assert list(next_stage(experiment, trials, BY_SWD, ["diverged"]).to_train) == [trials[1].name]


def test_one_cell_is_trained_to_its_end(experiment: Storage) -> None:
    (trial,) = sweep_of([1])
    leave(experiment, trial, 8, {2: 0.3, 4: 0.3, 6: 0.2, 8: 0.2})
    stage = next_stage(experiment, [trial], BY_SWD)
    assert (stage.epochs, list(stage.to_train), stage.halted) == (EPOCHS, [trial.name], {})
    leave(experiment, trial, EPOCHS, {2: 0.3, 4: 0.3, 6: 0.2, 8: 0.2}, "finished")
    assert list(next_stage(experiment, [trial], BY_SWD).to_train) == []


def test_a_sweep_that_grows_is_decided_over_all_cells(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    leave(experiment, trials[0], 4, {2: 0.1, 4: 0.1})
    leave(experiment, trials[1], 2, {2: 0.3}, "halted")
    grown = [*trials, *sweep_of([100, 1000])]
    assert list(next_stage(experiment, grown, BY_SWD).to_train) == [trial.name for trial in grown[2:]]
    # Of four cells two go on: the one that had been halted is among them now.
    at_first_rung(experiment, grown[2:], [0.5, 0.6])
    stage = next_stage(experiment, grown, BY_SWD)
    assert kept(stage) == [["lambda_l1=1", "lambda_l1=10"]]
    assert list(stage.to_train) == [trials[1].name]


def test_more_seeds_decide_again(experiment: Storage) -> None:
    trials = sweep_of([1, 10], seeds=[0, 1])
    at_first_rung(experiment, trials, [0.1, 0.9, 0.2, 0.2])
    assert kept(next_stage(experiment, trials[::2], BY_SWD)) == [["lambda_l1=1"]]
    assert kept(next_stage(experiment, trials, BY_SWD)) == [["lambda_l1=10"]]


def test_a_lower_reduction_factor_decides_again_by_what_was_measured_on_the_way(experiment: Storage) -> None:
    by_four = Halving("swd", 2, 4)  # rungs at 2 and 8
    trials = sweep_of([1, 10, 100, 1000])
    leave(experiment, trials[0], 8, {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.2})
    for trial, value in zip(trials[1:], (0.2, 0.3, 0.4), strict=True):
        leave(experiment, trial, 2, {2: value}, "halted")
    assert kept(next_stage(experiment, trials, by_four)) == [["lambda_l1=1"], ["lambda_l1=1"]]

    stage = next_stage(experiment, trials, BY_SWD)
    assert (kept(stage), stage.epochs) == ([["lambda_l1=1", "lambda_l1=10"]], 4)
    leave(experiment, trials[1], 4, {2: 0.2, 4: 0.1})
    assert kept(next_stage(experiment, trials, BY_SWD))[1] == ["lambda_l1=10"]


def test_trials_that_passed_a_rung_before_the_sweep_was_halved_are_refused_in_words(experiment: Storage) -> None:
    (trial,) = sweep_of([1])
    leave(experiment, trial, 3, {}, "stopped")
    with pytest.raises(ConfigError, match=r"rung at epoch 2, but lambda_l1=1,seed=0 was trained to epoch 3 and not"):
        next_stage(experiment, [trial], BY_SWD)


def test_what_was_decided_is_read_back_as_it_was_written(experiment: Storage) -> None:
    trials = sweep_of([1, 10, 100], seeds=[0, 1])
    at_first_rung(experiment, trials, [0.1, 0.7, 1 / 3, 0.2, None, 0.3])
    rungs = next_stage(experiment, trials, BY_SWD).rungs
    write_rungs(experiment, BY_SWD, rungs)
    assert read_rungs(experiment) == (BY_SWD, rungs)
    check_recorded(experiment, trials, BY_SWD)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (Halving("l1", 2, 2), "sweep.halving.metric is l1, but .* was halved with swd"),
        (Halving("swd", 3, 2), "sweep.halving.first_epochs is 3, but .* was halved with 2"),
    ],
)
def test_another_metric_or_first_rung_under_the_same_name_is_refused(
    experiment: Storage, now: Halving, text: str
) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])
    write_rungs(experiment, BY_SWD, next_stage(experiment, trials, BY_SWD).rungs)
    with pytest.raises(ConfigError, match=text):
        check_recorded(experiment, trials, now)
    check_recorded(experiment, trials, Halving("swd", 2, 4))


def test_a_record_at_odds_with_a_log_is_refused_with_both_values(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])
    write_rungs(experiment, BY_SWD, next_stage(experiment, trials, BY_SWD).rungs)
    leave(experiment, trials[1], 2, {2: 0.25})
    with pytest.raises(StorageError, match=r"it has swd 0.2 of lambda_l1=10,seed=0 at epoch 2, but .* has 0.25"):
        check_recorded(experiment, trials, BY_SWD)


@pytest.mark.parametrize("damage", ["{", '{"metric": "swd"}', "[]", ""])
def test_a_damaged_record_is_refused_with_a_remedy(experiment: Storage, damage: str) -> None:
    experiment.write(RUNGS, damage.encode())
    with pytest.raises(StorageError, match=r"rungs.json: it is not as it was written .* Move it away"):
        check_recorded(experiment, sweep_of([1]), BY_SWD)


def test_an_edited_record_is_refused(experiment: Storage) -> None:
    trials = sweep_of([1, 10])
    at_first_rung(experiment, trials, [0.1, 0.2])
    write_rungs(experiment, BY_SWD, next_stage(experiment, trials, BY_SWD).rungs)
    edited: dict[str, Any] = json.loads(experiment.read(RUNGS))
    edited["rungs"][0]["cells"][0]["kept"] = False
    experiment.write(RUNGS, json.dumps(edited).encode())
    with pytest.raises(StorageError, match="its digest is another"):
        check_recorded(experiment, trials, BY_SWD)
