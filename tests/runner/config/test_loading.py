from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config.loading import load_experiment, plan_trials, to_yaml, trial_name
from runner.errors import ConfigError
from tests.support.commands import ROOT, write_experiment

SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_loads_is_synthetic_and_shows_the_line_for_real_pairs(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.data.source == "synthetic"
    assert "--set data.source=data/maps" in path.read_text()


def test_the_shipped_experiments_are_the_studys() -> None:
    names = {path.stem: plan_trials(load_experiment(path), "") for path in SHIPPED}
    counts = {name: len(trials) for name, trials in names.items()}
    assert counts == {
        "baseline": 1,
        "batch_sweep": 6,
        "interrupted": 1,
        "lambda_sweep": 5,
        "quickstart": 4,
        "halving": 9,
        "norm_and_batch": 24,
        "random_search": 8,
        "receptive_field": 4,
        "resize": 1,
    }
    assert names["resize"][0].config.training.epochs == 400
    assert [trial.name for trial in names["batch_sweep"]][:3] == [
        "batch_size=1,lambda_l1=10",
        "batch_size=1,lambda_l1=100",
        "batch_size=4,lambda_l1=10",
    ]


def test_the_resolved_config_loads_again_to_the_same(tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(tmp_path, sweep={"batch_size": [1, 4]}))
    (tmp_path / "again.yaml").write_bytes(to_yaml(experiment))
    assert load_experiment(tmp_path / "again.yaml") == experiment


def test_overrides_are_dotted_and_typed(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, sweep={"batch_size": [1, 4]})
    overrides = ["training.learning_rate=3e-4", "model.channels=8", "sweep=", "tracking.wandb=off"]
    experiment = load_experiment(path, overrides)
    assert (experiment.training.learning_rate, experiment.model.channels) == (3e-4, 8)
    assert experiment.sweep == {}
    assert experiment.tracking.wandb == "off"


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({}, "trial"),
        ({"lambda_l1": 100.0, "batch_size": 4}, "batch_size=4,lambda_l1=100"),
        ({"learning_rate": 2e-4, "lambda_l1": 0.5}, "lambda_l1=0.5,learning_rate=0.0002"),
        ({"deterministic": True, "patching": "tiles"}, "deterministic=true,patching=tiles"),
    ],
)
def test_a_trials_name_comes_from_its_parameters(params: dict[str, Any], name: str) -> None:
    assert trial_name(params) == name


BAD = [
    ({"training": {"epoch": 3}}, "`training.epoch` is not a field of an experiment; did you mean `epochs`?"),
    ({"trainig": {}}, "`trainig` is not a field of an experiment; did you mean `training`?"),
    ({"training": {"epochs": "ten"}}, "training.epochs is 'ten': it must be a whole number"),
    ({"training": {"epochs": 2.5}}, "training.epochs is 2.5: it must be a whole number"),
    ({"training": {"batch_size": True}}, "training.batch_size is true: it must be a whole number"),
    ({"training": {"batch_size": 0}}, "training.batch_size is 0: it must be 1 or more"),
    ({"training": {"learning_rate": -1}}, "training.learning_rate is -1: it must be more than 0"),
    ({"training": {"precision": "fp64"}}, "training.precision is 'fp64': it must be one of 'auto', 'fp32'"),
    ({"training": {"decay_start_epoch": 5}}, "decay_end_epoch is None: give both, or neither"),
    ({"model": {"receptive_field": 34}}, "model.receptive_field is 34: it must be one of 1, 16, 70, 286"),
    ({"model": {"receptive_field": 286}}, "use a patch_size of 128 or more"),
    ({"data": {"patch_size": 100}}, "data.patch_size is 100: it must be one of 64, 128"),
    ({"data": {"max_bad_fraction": 2}}, "data.max_bad_fraction is 2: it must be 1 or less"),
    ({"resources": {"gpus_per_worker": "all"}}, "resources.gpus_per_worker is 'all': it must be 'auto', or must be"),
    ({"resources": {"workers": 3}}, "training.batch_size is 8, but resources.workers is 3, and workers must share"),
    ({"sweep": {"batch_size": []}}, "sweep.batch_size is an empty list"),
    ({"sweep": {"batch_size": 4}}, "sweep.batch_size is 4: it must be a list of values"),
    ({"sweep": {"batch_size": [1, 4, 1]}}, "trial batch_size=1 is in the sweep twice (sweep.batch_size[2])"),
    ({"sweep": {"lambda_l1": [100, 100.0]}}, "trial lambda_l1=100 is in the sweep twice"),
    ({"sweep": {"batch_size": [1, 0]}}, "sweep.batch_size[1] is 0: it must be 1 or more"),
    ({"sweep": {"batch_sise": [1]}}, "`sweep.batch_sise` is not a field that can be swept; did you mean `batch_size`?"),
    ({"sweep": {"batch_size": [1], "training.batch_size": [4]}}, "sweep names one field twice"),
    ({"name": "a/b"}, "name is 'a/b': it may hold letters"),
    ({"name": ".."}, "name is '..': it may hold letters"),
    ({"name": [7]}, "name is [7]: it must be a text"),
    ({"name": None}, "name is null: it must be a text"),
    ({"checkpoint": {"keep": 0}}, "checkpoint.keep is 0: it must be 1 or more"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:50] for _, message in BAD])
def test_a_broken_rule_names_file_field_value_and_rule(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_experiment(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it must hold fields such as `name:`"),
        ("- a", "it must hold fields"),
        ("name: [", "it is not valid YAML"),
        ("name: a\nname: b", "the field `name` is given twice"),
        ("training: {}", "`name` is missing"),
        (
            "name: a\ndata: !!python/object/apply:os.system ['true']",
            "line 2: the tag !!python/object/apply:os.system has no",
        ),
        ("name: a\nmodel: 3", "model is 3: it must hold fields of its own"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"file\.yaml") as caught:
        load_experiment(path)
    assert message in str(caught.value)


def test_every_field_of_the_documented_file_is_known(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(
        """
name: batch_sweep
data:
  source: synthetic
  synthetic: {train: 200, val: 50, seed: 0}
  patching: tiles
  patch_size: 256
  direction: map_to_satellite
  max_bad_fraction: 0.05
model: {channels: 64, receptive_field: 70}
training: {epochs: 200, batch_size: 1, lambda_l1: 100, learning_rate: 2.0e-4, seed: 0,
           precision: auto, deterministic: true}
evaluation: {every_n_epochs: 1, num_patches: 64}
sweep:
  batch_size: [1, 4, 10]
  lambda_l1: [10, 100]
checkpoint: {every_n_epochs: 10, keep: 2, keep_finished: 1}
log_every_n_steps: 50
resources: {workers: 1, gpus_per_worker: auto, cpus_per_worker: auto, max_failures: 3}
tracking: {wandb: auto}
"""
    )
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text(yaml.safe_dump({"name": "batch_sweep", "sweep": yaml.safe_load(path.read_text())["sweep"]}))
    assert load_experiment(path) == load_experiment(defaults)
