"""Shipped experiment files, broken as people break them: `--mutations N` tries N ways for each."""

from pathlib import Path

import pytest

from tests.support.mutations import EXPERIMENTS, Mutation, first, shortcomings

SHIPPED = sorted(EXPERIMENTS.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_broken_file_is_refused_with_all_that_is_needed_to_mend_it_or_means_what_it_says(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    wrong = []
    for number, mutation in enumerate(first(path, request.config.getoption("--mutations"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        if lacks := shortcomings(mutation, folder):
            wrong.append(f"{mutation.kind}: {'; '.join(lacks)} ({folder})")
    assert not wrong


def test_what_is_wrong_with_an_answer_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    typo = Mutation("typo", b"name: a\ntraining: {epoch: 3}\n", None, 1, ("`epochs`", "`eras`"))
    assert shortcomings(typo, tmp_path / "a") == ["another line", "no `eras`"]
    sound = Mutation("sound", b"name: a\ntraining: {epochs: 3}\n", None)
    assert shortcomings(sound, tmp_path / "b") == ["accepted"]
    assert shortcomings(sound._replace(meaning={"name": "b"}), tmp_path / "c") == ["accepted with another meaning"]
