"""docs/configuration.md and docs/experiment.schema.json: made of the schema, current, and true of the shipped files."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from runner.config.__main__ import main
from runner.config.fingerprint import fixed_fields
from runner.config.loading import load_experiment
from runner.config.reference import PAGE, SCHEMA, json_schema, reference_page
from runner.config.schema import ALL_FIELDS, Experiment
from runner.errors import ConfigError
from tests.support.commands import ROOT, SMALL

SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


def accepts(values: Any) -> bool:
    """True where the JSON schema has nothing against these fields."""
    return jsonschema.Draft202012Validator(json.loads(json_schema())).is_valid(values)


def test_the_files_in_docs_are_what_the_schema_gives(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    for name in (PAGE, SCHEMA):
        assert (ROOT / "docs" / name).read_text() == (tmp_path / name).read_text(), "run `make docs`"


def test_every_field_is_on_the_page_with_its_meaning_default_and_whether_it_may_change() -> None:
    page = reference_page()
    defaults = Experiment(name="x").model_dump()
    fixed = fixed_fields(defaults).keys()
    for field, info in ALL_FIELDS.items():
        if field == "sweep":
            continue
        section = field.rpartition(".")[0].partition(".")[0]
        name = field.removeprefix(f"{section}.")
        table = page.partition(f"\n## {section or 'At the top'}\n")[2].partition("\n## ")[0]
        row = re.search(rf"\n\| `{re.escape(name)}` \| ([^|]*) \| [^|]+ \| ([^|]*) \| ([^|]*) \|", table)
        assert row is not None, field
        assert info.description, f"{field} has no meaning: write it below the field"
        assert row[1] == " ".join(info.description.split())
        if field != "name":
            assert row[3] == ("fixed" if field in fixed else "may change"), field


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_name_the_editors_schema_and_pass_it(path: Path) -> None:
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert named is not None
    schema = json.loads((path.parent / named[1]).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epoch": 3}},
        {"training": {"epochs": 0}},
        {"training": {"epochs": "3"}},
        {"training": {"deterministic": "yes"}},
        {"training": {"learning_rate": 2}},
        {"data": {"patch_size": 100}},
        {"model": {"receptive_field": 71}},
        {"sweep": {"batch_size": 4}},
        {"sweep": {"batch_size": [0]}},
        {"sweep": {"batch_sise": [1]}},
        {"sweep": {"lambda_l1": {"normal": [1, 2]}, "samples": 2}},
        {"sweep": {"receptive_field": {"uniform": [1, 70]}, "samples": 2}},
        {"sweep": {"lambda_l1": [1, 1]}},
        {"name": "a/b"},
        {"resources": {"gpus_per_worker": "all"}},
        {"resources": {"max_concurrent": 0}},
        {"resources": {"label_selector": {"zone": 1}}},
    ],
    ids=str,
)
def test_the_editors_schema_refuses_what_the_runner_refuses(changes: dict[str, Any]) -> None:
    values = {**SMALL, **changes}
    assert accepts(SMALL)
    assert not accepts(values)
    with pytest.raises(ConfigError):
        load_experiment(values)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": None},
        {"sweep": None},
        {"sweep": {"training.batch_size": [1, 4]}},
        {"sweep": {"lambda_l1": {"log_uniform": [10, 1000]}, "samples": 2, "seeds": 2}},
        {"model": {"initial_weights": None}},
        {"resources": {"gpus_per_worker": 0.5, "hang_timeout": "auto"}},
        {"resources": {"max_concurrent": 3, "label_selector": None, "accelerator_type": "A100"}},
        {"resources": {"max_concurrent": "auto", "label_selector": {"zone": "in(a, b)"}, "accelerator_type": None}},
    ],
    ids=str,
)
def test_the_editors_schema_accepts_what_the_runner_accepts(changes: dict[str, Any]) -> None:
    values = {**SMALL, **changes}
    load_experiment(values)
    assert accepts(values)
