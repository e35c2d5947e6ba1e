"""A person's own WANDB_* variables do not break, hang, move, fork or merge the runs of an experiment."""

import os
from pathlib import Path

import pytest

from runner.records.metrics_log import MetricsReader
from runner.storage.storage import Storage
from runner.tracking.wandb_runs import resolve_mode
from runner.tracking.wandb_session import KEPT_VARIABLES, without_side_effects
from runner.tracking.wandb_trial import run_id
from tests.support.wandb_log import LocalServer
from tests.support.wandb_trials import KEY, log_steps, offline_run, track

pytestmark = pytest.mark.usefixtures("wandb_unconfigured")

# What shells, agents, schedulers and notebooks leave behind: each had an effect on a run, or might have one.
LEFT_OVER = {
    "WANDB_RUN_ID": "another",
    "WANDB_SWEEP_ID": "abc123",
    "WANDB_SWEEP_PARAM_PATH": "/no/such/file.yaml",
    "WANDB_RESUME": "must",
    "WANDB_NAME": "a name",
    "WANDB_RUN_GROUP": "a group",
    "WANDB_JOB_TYPE": "a job",
    "WANDB_DIR": "/proc/no/such/folder",
    "WANDB_RUN_DIR": "/proc/no/such/folder",
    "WANDB_ROOT_DIR": "/proc/no/such/folder",
    "WANDB_MODE": "shared",
    "WANDB_SILENT": "false",
    "WANDB_QUIET": "false",
    "WANDB_CONSOLE": "wrap",
    "WANDB_SERVICE": "3-1234-unix-/no/such/socket",
    "WANDB_START_METHOD": "fork",
    "WANDB_LAUNCH": "true",
    "WANDB_REINIT": "return_previous",
    "WANDB_INIT_TIMEOUT": "0.001",
    "WANDB_FINISH_TIMEOUT": "0.001",
    "WANDB_ANONYMOUS": "must",
    "WANDB_HOST": "a host",
    "WANDB_PROGRAM": "a program",
    "WANDB_SAVE_CODE": "true",
    "WANDB_SYMLINK": "true",
    "WANDB_CONFIG_PATHS": "/no/such/file.yaml",
    "WANDB_CONFIG": '{"lr": 1}',
    "WANDB_NOTEBOOK_NAME": "a notebook",
    "WANDB_FORK_FROM": "another?_step=1",
    "WANDB_RESUME_FROM": "another?_step=1",
    "WANDB_ERROR_REPORTING": "true",
    "WANDB_DEBUG": "true",
    "WANDB__OFFLINE": "nonsense",
    "WANDB_X_LABEL": "a label",
    "WANDB_X_PRIMARY": "false",
    "WANDB_SETTINGS_SYSTEM": "/no/such/file",
    "WANDB_DISABLED": "false",
    "WANDB_EMPTY": "",
}
EMPTY = dict.fromkeys(("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_HTTP_TIMEOUT"), "")


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [LEFT_OVER, EMPTY], ids=["left over", "empty"])
def test_an_offline_run_is_the_same_whatever_was_left_in_the_environment(
    trial: Storage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    set_all(monkeypatch, variables)
    before = dict(os.environ)
    log_steps(trial, range(3))
    track(trial, "finished")
    track(trial, "finished")  # the next start of the command

    run = offline_run(trial)
    assert run.id == run_id("sweep", trial.name)
    assert (run.name, run.group, run.project) == (trial.name, "sweep", "pix2pix")
    assert (run.job_type, run.host, run.program) == ("train", "", None)
    assert run.steps == [0, 1, 2]
    assert run.exit_code == 0
    assert "lr" not in run.config
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", sorted(LEFT_OVER))
def test_no_single_variable_reaches_wandb(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, LEFT_OVER[name])
    with without_side_effects():
        import wandb

        expected = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.get(name)
        assert os.environ.get(name) == expected
        settings = wandb.Settings()
        settings.update_from_env_vars(dict(os.environ))
    assert settings.run_id is None
    assert settings.sweep_id is None
    assert os.environ[name] == LEFT_OVER[name]


@pytest.mark.parametrize("name", ["WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS", "WANDB_HTTPS_PROXY", "WANDB_API_KEY"])
def test_what_says_who_and_where_has_its_effect(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in KEPT_VARIABLES
    monkeypatch.setenv(name, "mine")
    with without_side_effects():
        assert os.environ[name] == "mine"


def test_each_start_online_goes_on_with_the_one_run_of_a_trial(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {**LEFT_OVER, "WANDB_API_KEY": KEY})
    log_steps(trial, range(3))
    track(trial, "stopped", "online")
    log_steps(trial, range(3, 5), after=2)
    track(trial, "finished", "online")
    (run,) = server.runs.values()
    assert run.id == run_id("sweep", trial.name)
    assert run.steps == [0, 1, 2, 3, 4]
    assert MetricsReader(trial).new_rows()[-1]["step"] == 4


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_API_KEY": ""}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": ""}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "off"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "nonsense"}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, "off"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_SWEEP_ID": "abc"}, "online"),
        ({"WANDB_MODE": "online"}, "offline"),
    ],
)
def test_auto_follows_the_mode_and_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], mode: str
) -> None:
    set_all(monkeypatch, variables)
    assert resolve_mode("auto") == mode
