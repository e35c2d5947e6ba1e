"""docs/python.md does what it says."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import runner
from runner.api import Results, TrialResults, run_experiment
from runner.records.results import ENDED
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "python.md"


def test_every_example_of_the_page_on_python_gives_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) > 15
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert not failed, "".join(said)


def code_words() -> set[str]:
    """The names in the page's code: in its examples, and between backticks."""
    parts = re.findall(r"```pycon\n(.*?)```|`([^`\n]+)`", PAGE.read_text(), re.DOTALL)
    return set(re.findall(r"\w+", " ".join(block or span for block, span in parts)))


def public_names(kind: type) -> set[str]:
    """Fields, properties and methods of a class."""
    names = {*vars(kind), *getattr(kind, "__dataclass_fields__", {})}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        pytest.param("runner", set(runner.__all__), id="runner"),
        pytest.param("Results", public_names(Results), id="Results"),
        pytest.param("TrialResults", public_names(TrialResults), id="TrialResults"),
        pytest.param("run_experiment", set(inspect.signature(run_experiment).parameters), id="run_experiment"),
        pytest.param("translate", set(inspect.signature(TrialResults.translate).parameters) - {"self"}, id="translate"),
        pytest.param("status", {"running", "waiting", "stopped", *ENDED}, id="status"),
    ],
)
def test_every_public_name_stands_on_the_page_on_python(what: str, names: set[str]) -> None:
    assert len(names) > 2, what
    assert names - code_words() == set(), what
