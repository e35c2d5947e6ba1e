"""The foot of the page: when it was written, by what its figures were made, and on what they were taken."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runner.records import commands
from runner.records.commands import Revision, record_command
from runner.storage.storage import Storage
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import page_of


def foot(*folders: Path, **options: Any) -> str:
    """The text of the page's foot."""
    text = page_of(*folders, **options).partition("<footer>")[2].partition("</footer>")[0]
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_pages_of_the_same_files_and_the_same_time_are_the_same_to_the_byte(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path)
    at = datetime(2026, 1, 31, 23, 59, 58, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    page = page_of(folder, written_at=at)
    assert page == page_of(folder, written_at=at)
    assert '<time datetime="2026-01-31T23:59:58+05:30">2026-01-31 23:59:58 UTC+05:30</time>' in page
    later = page_of(folder, written_at=at.astimezone(UTC) + timedelta(seconds=1))
    assert (
        later.replace("2026-01-31T18:29:59+00:00", "2026-01-31T23:59:58+05:30").replace(
            "2026-01-31 18:29:59 UTC+00:00", "2026-01-31 23:59:58 UTC+05:30"
        )
        == page
    )


def test_commands_and_revisions_that_differ_are_named_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_experiment_folder(tmp_path)
    experiment = Storage.open(folder)
    assert "run by a release that did not record its command" in foot(folder)
    for attempt, (text, revision) in enumerate(
        [
            ("python -m runner.tune a.yaml", Revision("0.1.0", "abc", False)),
            ("python -m runner.tune a.yaml", Revision("0.1.0", "abc", False)),
            ("python -m runner.tune a.yaml", Revision("0.1.0", "abc", True)),
            ("", Revision("", "", False)),
        ],
        start=1,
    ):
        monkeypatch.setattr(commands, "find_revision", lambda revision=revision: revision)
        record_command(experiment, attempt, text)
    said = foot(folder)
    assert re.findall(r"(run by|before, by) (.*?) (pix2pix.*?|no commit known) start (\d)", said) == [
        ("run by", "runner.run_experiment in Python", "no commit known", "4"),
        (
            "before, by",
            "python -m runner.tune a.yaml",
            "pix2pix-runner 0.1.0, commit abc, with changes that were not committed",
            "3",
        ),
        ("before, by", "python -m runner.tune a.yaml", "pix2pix-runner 0.1.0, commit abc", "2"),
    ]


def test_the_numbers_of_pictures_and_patches_are_the_stores_or_else_those_that_were_evaluated(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    assert "validated on not known" in foot(folder)

    header = "picture,row,column,mode,ssim\n"
    rows = [f"{picture},{row},0,{mode},0.5\n" for picture in "ab" for row in (0, 64, 128) for mode in ("study", "eval")]
    (folder / "trials" / "batch_size=8" / "evaluation.csv").write_text(header + "".join(rows))
    assert "validated on 2 pictures, 6 patches (tiles)" in foot(folder)

    store = tmp_path / "patches" / "data-tiles"
    store.mkdir(parents=True)
    (store / "meta.json").write_text(json.dumps({"splits": {"val": {"pictures": 1, "patches": 81}}}))
    assert "validated on 1 picture, 81 patches (tiles)" in foot(folder)
    (store / "meta.json").write_text("{")
    assert "validated on 2 pictures, 6 patches (tiles)" in foot(folder)


def test_each_experiment_of_a_page_has_its_own(tmp_path: Path) -> None:
    tiles = write_experiment_folder(tmp_path, "tiles")
    resize = write_experiment_folder(tmp_path, "tiles_resized", patching="resize")
    for name, patches in (("data-tiles", 81), ("data-resize", 4)):
        store = tmp_path / "patches" / name
        store.mkdir(parents=True)
        (store / "meta.json").write_text(json.dumps({"splits": {"val": {"pictures": 4, "patches": patches}}}))
    record_command(Storage.open(resize), 1, "python -m runner.tune resize.yaml")
    one, other = foot(tiles, resize).split("experiment tiles")[1:]
    assert "validated on 4 pictures, 81 patches (tiles)" in one
    assert "resize" not in one
    assert "python -m runner.tune resize.yaml" in other
    assert "validated on 4 pictures, 4 patches (resize)" in other
