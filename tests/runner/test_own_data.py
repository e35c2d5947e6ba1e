"""The first own folder of pictures, through the command: read as what it is, or refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runner.evaluate
import runner.train
from tests.support.commands import weights_digest, write_experiment
from tests.support.pictures import pair_picture, satellite_and_map, smooth_picture

Capture = pytest.CaptureFixture[str]
COUNTS = {"train": 4, "val": 2}
FIRST = {"train": 0, "val": 100}  # so that no picture is in both


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for split, count in COUNTS.items():
        (tmp_path / "pairs" / split).mkdir(parents=True)
        for number in range(count):
            pair_picture(FIRST[split] + number).save(tmp_path / "pairs" / split / f"{split}{number}.png")
    return tmp_path / "pairs"


def train(tmp_path: Path, source: Path, *options: str, epochs: int = 1, **data: Any) -> int:
    data = {"source": str(source), "patch_size": 64, **data}
    path = write_experiment(tmp_path, data=data, training={"epochs": epochs, "batch_size": 2})
    return runner.train.main([str(path), "--in-process", "--storage", str(tmp_path / "results"), *options])


def trial(tmp_path: Path) -> Path:
    return tmp_path / "results/small/trials/trial"


def test_a_and_b_in_folders_of_their_own_train_to_the_weights_of_pairs(tmp_path: Path, pairs: Path) -> None:
    apart = tmp_path / "apart"
    for split, count in COUNTS.items():
        for side, index in (("A", 0), ("B", 1)):
            (apart / split / side).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(satellite_and_map(FIRST[split] + number)[index])
                image.save(apart / split / side / f"{split}{number}.png")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert train(tmp_path / "1", pairs) == 0
    assert train(tmp_path / "2", apart) == 0
    assert weights_digest(trial(tmp_path / "1")) == weights_digest(trial(tmp_path / "2"))


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_single_pictures_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: Capture, options: list[str]
) -> None:
    for split in COUNTS:
        (tmp_path / "pairs" / split).mkdir(parents=True)
        Image.fromarray(smooth_picture(140, 140)).save(tmp_path / "pairs" / split / "photo.png")
    assert train(tmp_path, tmp_path / "pairs", *options) == 2
    message = capsys.readouterr().err
    assert "its pictures do not look like pairs" in message
    assert len(message.splitlines()) <= 25
    assert not (tmp_path / "results").exists()


def test_a_dry_run_looks_at_a_sample_of_the_pictures(tmp_path: Path, pairs: Path, capsys: Capture) -> None:
    assert train(tmp_path, pairs, "--dry-run") == 0
    assert "need attention" not in capsys.readouterr().out
    (pairs / "val/copy.png").write_bytes((pairs / "train/train0.png").read_bytes())
    assert train(tmp_path, pairs, "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"of 7 pictures that were looked at, some need attention (all: python -m runner.data check {pairs})" in said
    assert "duplicates: 1 picture is there a second time; 1 of val is in train, too" in said


def test_what_is_not_used_may_come_between_two_runs(tmp_path: Path, pairs: Path, capsys: Capture) -> None:
    assert train(tmp_path, pairs) == 0
    (pairs / "train/Thumbs.db").write_bytes(b"of a file manager")
    (pairs / "val/half_copied.jpg").write_bytes(b"")
    assert train(tmp_path, pairs, epochs=2) == 0
    assert "1 file that is no picture (Thumbs.db)" in capsys.readouterr().out
    assert runner.evaluate.main([str(trial(tmp_path))]) == 0


def test_a_picture_that_would_be_used_is_named_where_a_run_cannot_go_on(
    tmp_path: Path, pairs: Path, capsys: Capture
) -> None:
    assert train(tmp_path, pairs) == 0
    pair_picture(9).save(pairs / "train/more.png")
    assert train(tmp_path, pairs, epochs=2) == 2
    assert "train/more.png is new" in capsys.readouterr().err


def test_a_share_of_the_pictures_may_validate(tmp_path: Path, pairs: Path) -> None:
    for path in (pairs / "val").iterdir():
        path.rename(pairs / "train" / path.name)
    (pairs / "val").rmdir()
    assert train(tmp_path, pairs) == 2
    assert train(tmp_path, pairs, val_fraction=0.3) == 0
    meta = json.loads(next((tmp_path / "results/patches").glob("*/meta.json")).read_text())
    assert {split: entry["pictures"] for split, entry in meta["splits"].items()} == {"train": 4, "val": 2}


def test_real_pairs_apart_give_the_patches_of_the_pairs(tmp_path: Path, maps: Path) -> None:
    paths = {split: sorted((maps / split).glob("*.jpg"))[:2] for split in COUNTS}
    for split, names in paths.items():
        for name in names:
            whole = np.asarray(Image.open(name))
            for folder, picture in (("pairs", whole), ("A", whole[:, :600]), ("B", whole[:, 600:])):
                root = tmp_path / ("pairs" if folder == "pairs" else f"apart/{folder}") / split
                root.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(root / f"{name.stem}.png")
    stores = []
    for source in ("pairs", "apart"):
        (tmp_path / f"of {source}").mkdir()
        assert train(tmp_path / f"of {source}", tmp_path / source, patch_size=256) == 0
        (meta,) = (tmp_path / f"of {source}/results/patches").glob("*/meta.json")
        stores.append({key: value for key, value in json.loads(meta.read_text()).items() if key != "fingerprint"})
    assert stores[0] == stores[1], "checksums of the shards included"
