"""How values are read: by the field's type, as a person reads them; and where an error says that they stand."""

from pathlib import Path
from typing import Any

import pytest

from runner.config.loading import load_experiment
from runner.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> Any:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    "text", ["2024_01_15", "2024-01-15", "20240115", "010", "1e-4", "yes", "true", "off", "0x10", "1_000", "3.0"]
)
def test_a_text_is_taken_as_it_is_in_the_file_and_in_set(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, f"name: {text}").name == text
    assert load(tmp_path, f'name: "{text}"').name == text
    assert load(tmp_path, "name: a", f"name={text}").name == text
    assert load(tmp_path, "name: a", f'name="{text}"').name == text


@pytest.mark.parametrize(
    "source", ["@maps", "%maps", "{maps}", "[a", "a: b", "a #b", "*maps", "!maps", "C:\\maps", "~x/.."]
)
def test_a_path_in_set_is_no_yaml(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    if source.startswith("~"):
        assert "begins with a home folder that is unknown" in refusal(tmp_path, "name: a", f"data.source={source}")
    else:
        assert load(tmp_path, "name: a", f"data.source={source}").data.source == source


def test_the_home_folder_is_meant_by_a_tilde_in_every_path_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    experiment = load(tmp_path, "name: a\ndata: {source: ~/maps}\nmodel: {initial_weights: ~/G.pth}")
    assert experiment.data.source == "/home/me/maps"
    assert experiment.model.initial_weights == "/home/me/G.pth"
    assert load(tmp_path, "name: a", "data.source=~").data.source == "/home/me"
    assert load(tmp_path, "name: a", "data.source=./~").data.source == "./~"
    assert load(tmp_path, "name: a\nmodel: {initial_weights: null}").model.initial_weights is None
    assert (
        load(tmp_path, "name: a\nmodel: {initial_weights: G}", "model.initial_weights=null").model.initial_weights
        is None
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200", 200),
        ("+4", 4),
        ("10_000", 10_000),
        ("1e2", 100.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("2.0e-1", 0.2),
        ("1E1", 10.0),
    ],
)
def test_numbers_are_what_a_person_reads(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"name: a\ntraining: {{lambda_l1: {text}}}").training.lambda_l1 == value
    assert load(tmp_path, "name: a", f"training.lambda_l1={text}").training.lambda_l1 == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("010", "is 010: it must be a whole number of epochs, without a zero before it: 10"),
        ("1:30", "is 1:30: it must be a whole number of epochs"),
        ("0x10", "is 0x10: it must be a whole number of epochs, in decimal: 16"),
        ("0b11", "in decimal: 3"),
        ("1_0", "without `_`: 10"),
        ("'10'", "is '10': it must be a whole number of epochs, without quotes: 10"),
        ("10s", "without a unit behind it"),
        ("50%", "write 0.5 for 50%"),
        ("1e3", "is 1000.0: it must be a whole number of epochs"),
        ("2024-01-15", "it must be a whole number"),
        (".inf", "it must be a whole number"),
        ("on", "it must be a whole number"),
        ("true", "is true: it must be a whole number"),
        ("", "is null: it must be a whole number"),
        ("1" * 5000, "it must be a whole number"),
    ],
)
def test_what_yaml_1_1_takes_for_a_number_is_refused(tmp_path: Path, text: str, hint: str) -> None:
    assert f"a.yaml, line 3: training.epochs {'is' if hint.startswith('is') else ''}" in refusal(
        tmp_path, f"name: a\ntraining:\n  epochs: {text}"
    )
    assert hint in refusal(tmp_path, f"name: a\ntraining:\n  epochs: {text}")
    assert refusal(tmp_path, "name: a", f"training.epochs={text}").startswith(f"--set training.epochs={text}: ")


def test_a_number_that_is_too_small_or_too_large_is_not_taken_for_0_or_infinity(tmp_path: Path) -> None:
    for text in ("1e-999", "1e999", "nan", ".nan", "inf"):
        assert "training.lambda_l1 is" in refusal(tmp_path, f"name: a\ntraining: {{lambda_l1: {text}}}")


def test_a_fixed_number_is_neither_true_nor_a_fraction(tmp_path: Path) -> None:
    assert "model.receptive_field is true: it must be a whole number" in refusal(
        tmp_path, "name: a\nmodel: {receptive_field: true}"
    )
    assert "data.patch_size is 64.0: it must be a whole number" in refusal(
        tmp_path, "name: a\ndata: {patch_size: 64.0}"
    )


def test_merged_fields_count_where_a_field_is_not_given_itself(tmp_path: Path) -> None:
    text = """
name: a
training: &base {epochs: 3, batch_size: 2}
evaluation: {every_n_epochs: &n 5}
checkpoint:
  <<: [{keep: 4}, {keep: 5, every_n_epochs: *n}]
model:
  <<: {channels: 8, receptive_field: 1}
  receptive_field: 16
"""
    experiment = load(tmp_path, text)
    assert (experiment.checkpoint.keep, experiment.checkpoint.every_n_epochs) == (4, 5)
    assert (experiment.model.channels, experiment.model.receptive_field) == (8, 16)
    wrong = text.replace("channels: 8", "channels: 0")
    assert "a.yaml, line 8: model.channels is 0: it must be 1 or more" in refusal(tmp_path, wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\n\ndata:\n  patch_size: 65", "line 4: data.patch_size is 65"),
        ("name: a\ndata: {synthetic: {trein: 3}}", "line 2: `data.synthetic.trein` is not a field"),
        ("name: a\nsweep:\n  batch_size:\n    - 1\n    - 0", "line 5: sweep.batch_size[1] is 0: it must be 1 or more"),
        ("name: a\nsweep:\n  lambda_l1: {uniform: [1, 2]}", "line 2: sweep.samples is missing"),
        ("name: a\ntraining:\n  decay_end_epoch: 3", "line 3: training.decay_start_epoch is None and"),
        ("name: a\ntraining:\n  epochs: 3\n  epochs: 4", "line 4: the field `epochs` is given twice, first in line 3"),
        ("training: {}", "a.yaml: `name` is missing"),
        ("name: a\nepochs: 3", "line 2: `epochs` is not a field of an experiment; did you mean `training.epochs`?"),
        ("name: a\nsweep: {seedx: 3}", "`sweep.seedx` is not a field that can be swept; did you mean `seed` or"),
        ("name: a\nkeep: 3", "did you mean `checkpoint.keep`?"),
        ("name: a\ntraining.epochs: 3", "write `epochs:` in the section `training:`"),
        ("name: a\nTraining: {}", "did you mean `training`?"),
        ("name: a\ntr\u0430ining: {}", "its U+0430 only looks like a usual character; did you mean `training`?"),
        ("name: a\ntraining:\n\tepochs: 3", "line 3: it is not valid YAML"),
        ("name: a\ntraining:\n\tepochs: 3", "Indent with spaces instead of tabs."),
        ("name: a\ntraining: {epochs: 3\nmodel: {channels: 3}", "(while parsing a mapping in { } of line 2)"),
        ("name: a\ntraining: &t [*t]", "nested too deeply"),
        ("name: a\nresources:\n  workers: 2", "line 3: training.batch_size is 1, but resources.workers is 2, and"),
        ("name: a\ntraining: {epochs: 3}\nresources: {workers: 2}", "line 3: training.batch_size is 1, but resources"),
        ("name: a\ntraining: {batch_size: 3}\nresources: {workers: 2}", "line 2: training.batch_size is 3, but"),
        ("name: patches", "line 1: name is 'patches': it can't be the name of the folder"),
        ("name: Patches", "line 1: name is 'Patches': it can't be the name of the folder"),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_what_set_overrides_is_not_looked_for_in_the_file(tmp_path: Path) -> None:
    text = "name: a\nsweep:\n  batch_size: [1, 0]\n"
    assert refusal(tmp_path, text).startswith("a.yaml, line 3: sweep.batch_size[1] is 0")
    assert refusal(tmp_path, text, "sweep.batch_size=[1, 2, 0]").startswith(
        "--set sweep.batch_size=[1, 2, 0]: sweep.batch_size[2] is 0"
    )
    assert refusal(tmp_path, text, "sweep=", "trainig.epochs=3").startswith("--set trainig.epochs=3: `trainig` is not")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_files_of_other_systems_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: a\r\ntraining:\r\n  epochs: 3\r\n".encode(encoding))
    assert load_experiment(tmp_path / "a.yaml").training.epochs == 3


def test_an_alias_bomb_and_a_huge_file_are_refused_at_once(tmp_path: Path) -> None:
    laughs = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
    assert "more than 50,000 values" in refusal(tmp_path, f"name: a\nl0: &l0 [lol]\n{laughs}")
    assert "more than 500,000 bytes" in refusal(tmp_path, "name: a\n" + "# \n" * 200_000)
