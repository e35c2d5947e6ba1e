"""Trials that fail for reasons of their own are results."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gan.training.state import TrainState
from gan.training.step import train_step
from runner.records.starts import count_oom_kills
from runner.trial.loop import NoPlatform
from tests.support.commands import assert_same_end
from tests.support.kill_points import KillPoint, tiny_trial, train_tiny

pytestmark = pytest.mark.slow
POISONED_STEP = 9  # an epoch's last, whose state is to be saved


def poisoning_step(state: TrainState, *arguments: Any) -> torch.Tensor:
    """A training step after which, at one step, a weight is not finite any more."""
    losses = train_step(state, *arguments)
    if state.step == POISONED_STEP - 1:  # counted once the step is over
        with torch.no_grad():
            next(state.generator.parameters())[0, 0, 0, 0] = torch.inf
    return losses


def test_a_diverged_trial_keeps_its_last_finite_state_and_is_not_run_again_unless_asked(
    tmp_path: Path, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    ended = train_tiny(tmp_path, settings={"gan.training.computation.train_step": poisoning_step})
    assert ended.code == 1, ended.output
    assert "diverged: the losses at step 10 are not finite" in ended.output
    (row,) = json.loads((tmp_path / "results" / "tiny" / "results.json").read_text())
    assert (row["status"], row["steps"]) == ("diverged", 10)
    kept = sorted(path.name for path in (tiny_trial(tmp_path) / "checkpoints").iterdir())
    assert kept == ["step_00000003", "step_00000006"]
    for path in (tiny_trial(tmp_path) / "checkpoints").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in safetensors.torch.load_file(path).values())
    assert "step 9 is not saved: its state is not finite" in (tiny_trial(tmp_path) / "log.txt").read_text()

    again = train_tiny(tmp_path)
    assert again.code == 1, again.output
    assert "diverged before, not run again: 1 of 1 trials (--retry-diverged does)" in again.output
    assert sorted(path.name for path in (tiny_trial(tmp_path) / "checkpoints").iterdir()) == kept
    retried = train_tiny(tmp_path, "--retry-diverged")
    assert retried.code == 0, retried.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))


def test_weights_that_are_not_finite_at_the_end_are_not_handed_out(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    ended = train_tiny(
        tmp_path,
        settings={
            "gan.training.computation.train_step": poisoning_step,
            "tests.end_to_end.test_outcomes.POISONED_STEP": 18,
        },
    )
    assert ended.code == 1, ended.output
    assert "diverged: the weights are not finite after the last step" in ended.output
    assert not (tiny_trial(tmp_path) / "weights/generator.safetensors").exists()


@pytest.mark.parametrize("how", ["copied", "moved, with the patches left out"])
def test_storage_taken_elsewhere_goes_on_to_the_same_bits_and_holds_no_absolute_path(
    tmp_path: Path, undisturbed: Path, how: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shutil.copytree(undisturbed / "results" / "patches", first / "results" / "patches")
    assert train_tiny(first, kill_points=[KillPoint("runner.trial.async_checkpointer.write_checkpoint", 4)]).code == -9
    shutil.copytree(first / "results", second / "results")
    if how != "copied":
        shutil.rmtree(first)
        shutil.rmtree(second / "results" / "patches")
    ended = train_tiny(second)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(second), tiny_trial(undisturbed))
    for path in (second / "results").rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_what_saving_costs_is_logged(undisturbed: Path) -> None:
    log = (tiny_trial(undisturbed) / "log.txt").read_text()
    pattern = (
        r"checkpoint at step \d+: [\d.]+ MB, training waited [\d.]+ s, written in [\d.]+ s beside it; saving has cost"
    )
    assert len(re.findall(pattern + r" [\d.]+ % of the time", log)) == 6


class PreemptedPlatform(NoPlatform):
    """A machine that is about to be taken away."""

    def has_preemption_notice(self) -> bool:
        return True


def test_once_a_machine_is_about_to_be_taken_away_checkpoints_come_at_once(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    ended = train_tiny(
        tmp_path,
        changes={"checkpoint": {"every_n_epochs": 100, "keep": 9}},
        settings={
            "runner.trial.loop.NoPlatform": PreemptedPlatform,
            "runner.trial.loop.PREEMPTION_CHECK_INTERVAL_S": -1.0,
            "runner.trial.async_checkpointer.PREEMPTION_INTERVAL_S": -1.0,
        },
        kill_points=[KillPoint("gan.training.loop._take_step", 17)],
    )
    assert ended.code == -9, ended.output
    assert "about to be taken away" in (tiny_trial(tmp_path) / "log.txt").read_text()
    assert len(list((tiny_trial(tmp_path) / "checkpoints").glob("step_*"))) >= 2


def test_a_trial_whose_workers_the_system_keeps_ending_for_lack_of_memory_is_given_up(tmp_path: Path) -> None:
    now = count_oom_kills()
    earlier = [
        {"attempt": 1, "token": "", "from_step": 0, "lost_steps": 0, "host": socket.gethostname(), "oom_kills": now - n}
        for n in (2, 1)
    ]
    tiny_trial(tmp_path).mkdir(parents=True)
    (tiny_trial(tmp_path) / "starts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in earlier))
    ended = train_tiny(tmp_path)
    assert ended.code == 1, ended.output
    assert "out_of_memory: OutOfMemory: the system has ended its workers for lack of memory 2 times" in ended.output
    assert train_tiny(tmp_path).code == 0
