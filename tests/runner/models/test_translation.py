"""Translation of picture files by the command: what it reads, what it leaves, what it refuses."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rich.console
import torch
from numpy.typing import NDArray
from PIL import Image

import runner.translate
from gan.data.pictures import PictureError
from gan.evaluation.translate import Tiling, translate
from gan.networks.generator import Generator
from runner.console import Console
from runner.data.synthesis import draw_pair
from runner.models import translation
from runner.models.picture_files import PictureFile
from runner.models.png import PngWriter
from runner.models.trained import open_trained_model
from runner.models.translation import TranslationJob, read_source, translate_files
from runner.storage.storage import Storage
from runner.trial.runtime import torch_settings_kept
from tests.support.kill_points import tiny_trial
from tests.support.pictures import smooth_picture

Capture = pytest.CaptureFixture[str]
Picture = NDArray[np.uint8]
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def trial(undisturbed: Path) -> Path:
    """A finished trial with tiles of 64 pixels; no test may change it."""
    return tiny_trial(undisturbed)


@pytest.fixture(scope="module")
def generator(trial: Path) -> Generator:
    return open_trained_model(trial).generator


def run_translate(trial: Path, *arguments: object) -> int:
    return runner.translate.main([str(trial), *map(str, arguments)])


def refused(code: int, capture: Capture) -> str:
    error = capture.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) <= 25
    return error


def pixels(path: Path) -> Picture:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def a_picture_of_every_kind() -> dict[str, tuple[Image.Image, Picture]]:
    """Pictures by their file's name, each with the RGB values that it stands for (JPEGs excepted: near those)."""
    colour = Image.fromarray(smooth_picture(70, 90))
    grey, rgb = np.asarray(colour.convert("L")), np.asarray(colour)
    as_grey = np.repeat(grey[..., None], 3, axis=2)
    opacity = smooth_picture(70, 90, 1)[..., 0]
    on_white = rgb * (opacity[..., None] / 255) + 255 * (1 - opacity[..., None] / 255)
    grey_on_white = as_grey * (opacity[..., None] / 255) + 255 * (1 - opacity[..., None] / 255)
    clear = Image.fromarray(opacity)
    with_alpha, grey_with_alpha = colour.copy(), Image.fromarray(grey)
    with_alpha.putalpha(clear)
    grey_with_alpha.putalpha(clear)
    palette, bits = colour.quantize(16), colour.convert("1")
    cmyk, deep = colour.convert("CMYK"), Image.fromarray(grey.astype(np.uint16) * 256 + 200)
    found = {
        "colour.png": (colour, rgb),
        "grey.png": (Image.fromarray(grey), as_grey),
        "deep.png": (deep, as_grey),
        "bits.png": (bits, np.asarray(bits.convert("RGB"))),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "alpha.png": (with_alpha, on_white),
        "grey_alpha.png": (grey_with_alpha, grey_on_white),
        "colour.jpg": (colour, rgb),
        "grey.JPEG": (Image.fromarray(grey), as_grey),
        "cmyk.jpg": (cmyk, np.asarray(cmyk.convert("RGB"))),
        "colour.tif": (colour, rgb),
        "grey.tiff": (Image.fromarray(grey), as_grey),
        "deep.tif": (deep, as_grey),
        "cmyk.tif": (cmyk, np.asarray(cmyk.convert("RGB"))),
        "palette.tif": (palette, np.asarray(palette.convert("RGB"))),
        "alpha.tif": (with_alpha, on_white),
    }
    return {f"{number:02d}_{name}": each for number, (name, each) in enumerate(found.items())}


def test_each_picture_of_a_folder_becomes_one_png_of_its_stem_and_size(
    trial: Path, generator: Generator, tmp_path: Path, capsys: Capture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trial.rglob("*")}
    folder, out = tmp_path / "in", tmp_path / "far" / "out"
    folder.mkdir()
    kinds = a_picture_of_every_kind()
    for name, (image, _) in kinds.items():
        image.save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    assert run_translate(trial, folder, "--out", out) == 0
    assert names(out) == [f"{Path(name).stem}.png" for name in kinds]
    for name, (_, rgb) in kinds.items():
        is_jpeg = name.lower().endswith(("jpg", "jpeg"))
        translated = pixels(out / f"{Path(name).stem}.png").astype(int)
        expected = translate(generator, np.round(rgb).astype(np.uint8)).astype(int)
        assert translated.shape == (70, 90, 3)
        difference = np.abs(translated - expected)
        assert difference.mean() < (4 if is_jpeg else 0.5), name
    capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in trial.rglob("*")} == before


def test_the_same_input_gives_the_same_bytes(trial: Path, tmp_path: Path) -> None:
    Image.fromarray(smooth_picture(150, 210)).save(tmp_path / "a.jpg")
    for mode in ("eval", "study"):
        for out in ("first", "second"):
            assert run_translate(trial, tmp_path / "a.jpg", "--mode", mode, "--out", tmp_path / mode / out) == 0
        first, second = ((tmp_path / mode / out / "a.png").read_bytes() for out in ("first", "second"))
        assert first == second
    assert (tmp_path / "eval" / "first" / "a.png").read_bytes() != first, "the modes differ"


def test_a_picture_on_its_side_is_turned_upright(trial: Path, generator: Generator, tmp_path: Path) -> None:
    upright = smooth_picture(150, 90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # is to be turned clockwise
    for name in ("a.png", "b.tif", "c.jpg"):
        Image.fromarray(np.rot90(upright).copy()).save(tmp_path / name, exif=exif)
    assert run_translate(trial, tmp_path, "--out", tmp_path / "out") == 0
    expected = translate(generator, upright)
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "out" / name), expected)
    assert np.abs(pixels(tmp_path / "out" / "c.png").astype(int) - expected).mean() < 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 130), (33, 20), (64, 64), (65, 333)])
def test_any_size_comes_out_as_it_went_in(
    trial: Path, generator: Generator, tmp_path: Path, height: int, width: int
) -> None:
    image = smooth_picture(height, width)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert run_translate(trial, tmp_path / "a.png", "--overlap", 7, "--out", tmp_path / "out") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a.png"), translate(generator, image, Tiling(overlap=7)))


def test_of_a_pair_its_source_half_is_translated_where_that_is_asked_for(
    trial: Path, generator: Generator, tmp_path: Path, capsys: Capture
) -> None:
    with Image.open(io.BytesIO(draw_pair(3, "val", 0))) as image:
        pair = np.asarray(image)[:100, 500:700]
    Image.fromarray(pair).save(tmp_path / "pair.png")
    assert run_translate(trial, tmp_path / "pair.png", "--out", tmp_path / "whole") == 0
    assert "pair.png looks like a pair, but is translated as a whole: --pairs" in capsys.readouterr().out
    assert pixels(tmp_path / "whole" / "pair.png").shape == pair.shape
    assert run_translate(trial, tmp_path / "pair.png", "--pairs", "--out", tmp_path / "half") == 0
    assert "looks like" not in capsys.readouterr().out
    np.testing.assert_array_equal(pixels(tmp_path / "half" / "pair.png"), translate(generator, pair[:, 100:]))
    picture = PictureFile(tmp_path / "pair.png", "pair.png")
    np.testing.assert_array_equal(read_source(picture, "satellite_to_map", Console()), pair[:, :100])
    Image.fromarray(pair[:, 1:]).save(tmp_path / "odd.png")
    with pytest.raises(PictureError, match="199 pixels is odd"):
        read_source(PictureFile(tmp_path / "odd.png", "odd.png"), "map_to_satellite", Console())


def test_what_can_not_be_read_is_named_and_the_others_go_on(trial: Path, tmp_path: Path, capsys: Capture) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    whole = tmp_path / "whole.png"
    Image.fromarray(smooth_picture(70, 90)).save(whole)
    for name in ("a.png", "z.png"):
        (folder / name).write_bytes(whole.read_bytes())
    (folder / "cut_off.png").write_bytes(whole.read_bytes()[:-500])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.tif").write_text("no picture")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "fractions.tif")
    Image.fromarray(np.full((4, 4), -9999, np.int32)).save(folder / "heights.tif")
    assert run_translate(trial, folder, "--out", out) == 1
    errors = capsys.readouterr().err
    assert names(out) == ["a.png", "z.png"]
    for name, reason in {
        "cut_off.png": "it can't be decoded",
        "empty.jpg": "the file is empty",
        "text.tif": "it is not a JPEG, PNG, TIFF or WebP picture",
        "fractions.tif": "fractions of no known range",
        "heights.tif": "outside 0 to 65535",
    }.items():
        assert f"error: {folder / name}: " in errors and reason in errors
    assert len(errors.splitlines()) == 5
    assert "it can't be decoded" in refused(run_translate(trial, folder / "cut_off.png", "--out", out), capsys)


def test_inputs_of_one_stem_are_refused_before_anything_is_written(
    trial: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("b/map.png", "c/map.jpg", "c/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(smooth_picture(70, 90)).save(tmp_path / name)
    error = refused(run_translate(trial, tmp_path / "b", tmp_path / "c", "--out", tmp_path / "out"), capsys)
    assert f"map.png would come from {tmp_path}/b/map.png, {tmp_path}/c/map.jpg" in error and "other" not in error
    assert not (tmp_path / "out").exists()
    assert run_translate(trial, tmp_path / "b", tmp_path / "b/map.png", "--out", tmp_path / "out") == 0


def test_a_folder_for_results_inside_the_folder_of_inputs_adds_no_input(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(smooth_picture(70, 90)).save("a.png")
    for _ in range(2):
        assert run_translate(trial, ".", "--out", "out") == 0
        assert names(tmp_path / "out") == ["a.png"] and names(tmp_path) == ["a.png", "out"]


def test_neither_an_input_nor_what_stands_beside_it_is_overwritten(
    trial: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a.png", "b.png", "b.jpg"):
        Image.fromarray(smooth_picture(70, 90)).save(tmp_path / name)
    (tmp_path / "links").mkdir()
    os.link(tmp_path / "a.png", tmp_path / "links" / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for source, out in (("a.png", "."), ("a.png", "links"), ("b.jpg", ".")):
        error = refused(run_translate(trial, tmp_path / source, "--out", tmp_path / out), capsys)
        assert f"the translation of {tmp_path / source} would overwrite it: give another folder" in error
    (tmp_path / "far").mkdir()
    Image.fromarray(smooth_picture(40, 90)).save(tmp_path / "far" / "b.tif")
    code = run_translate(trial, tmp_path / "a.png", tmp_path / "far" / "b.tif", "--out", tmp_path)
    assert "would overwrite it: give another folder" in refused(code, capsys)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() == before


def test_any_name_that_a_file_can_have_is_one_that_its_result_can_have(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    stems = ["[b]", "a[", "\u65e5\u672c" * 41, "x" * 251, "%s", os.fsdecode(b"\xff")]
    for stem in stems:
        Image.fromarray(smooth_picture(5, 5)).save(tmp_path / "picture.png")
        (tmp_path / "picture.png").rename(folder / f"{stem}.png")
    with open(tmp_path / "said.txt", "w", encoding="ascii") as stream:  # as strict as a terminal can be
        for name in ("sys.stdout", "sys.__stdout__"):
            monkeypatch.setattr(name, stream)
        assert run_translate(trial, folder, "--out", out) == 0
    assert names(out) == sorted(f"{stem}.png" for stem in stems)
    assert r"\udcff.png" in (tmp_path / "said.txt").read_text()


def test_bad_arguments_are_refused_at_once(trial: Path, tmp_path: Path, capsys: Capture) -> None:
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(smooth_picture(70, 90)).save(picture)
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((trial, picture, tmp_path / "no.png"), "no.png: there is no such picture or folder"),
        ((trial, picture, tmp_path / "empty"), "empty: there is no picture directly in that folder"),
        ((tmp_path, picture), "STORAGE/EXPERIMENT/trials/TRIAL"),
        ((trial, picture, "--overlap", 33), "--overlap is 33: tiles of this trial have 64 pixels"),
        ((trial, picture, "--checkpoint", 99), "epochs with one: 6 (checkpoint.keep_epochs keeps more)"),
    ):
        assert message in refused(run_translate(*arguments, "--out", out), capsys)
        assert not out.exists()
    assert "--out is" in refused(run_translate(trial, picture, "--out", picture), capsys)
    with pytest.raises(SystemExit) as caught:
        run_translate(trial, picture, "--overlap", "-1", "--out", out)
    assert caught.value.code == 2


def test_what_can_not_be_written_ends_the_command_and_leaves_nothing_half_done(
    trial: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.fromarray(smooth_picture(70, 90)).save(tmp_path / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    assert "a.png can't be written" in refused(
        run_translate(trial, tmp_path / "a.png", "--out", tmp_path / "out"), capsys
    )
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a.png"]


def test_a_command_that_is_told_to_end_leaves_only_whole_pictures(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(smooth_picture(100, 90)).save(tmp_path / "first.png")
    Image.fromarray(smooth_picture(100, 90)).save(tmp_path / "second.png")
    finish, calls = PngWriter.finish, []

    def told_to_end(png: PngWriter) -> None:
        calls.append(png)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        finish(png)

    monkeypatch.setattr(PngWriter, "finish", told_to_end)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        run_translate(trial, tmp_path / "first.png", tmp_path / "second.png", "--out", out)
    assert ended.value.code == 75
    assert names(out) == ["first.png"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_progress_on_a_terminal_has_a_bar_with_the_picture_and_its_number(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.screen.progress_bar._QUICK_S", 0.0)
    pictures = []
    for name in ("a[b].png", "c.png"):
        Image.fromarray(smooth_picture(400, 90)).save(tmp_path / name)
        pictures.append(PictureFile(tmp_path / name, name))
    with open(tmp_path / "console.txt", "w") as stream:
        console = Console(rich.console.Console(file=stream, force_terminal=True, width=120))
        job = TranslationJob(generator, None, Tiling())
        assert translate_files(job, pictures, Storage.open(tmp_path / "out"), console) == 2
    shown = (tmp_path / "console.txt").read_text()
    assert "a[b].png (1 of 2)" in shown and "c.png (2 of 2)" in shown and "100%" in shown


@pytest.mark.parametrize(("precision", "is_native", "used"), [
    ("bf16", True, torch.bfloat16), ("bf16", False, torch.float32), ("fp32", True, torch.float32)
])  # fmt: skip
def test_a_trial_of_bf16_translates_in_it_where_that_is_native(
    trial: Path, monkeypatch: pytest.MonkeyPatch, precision: str, is_native: bool, used: torch.dtype
) -> None:
    monkeypatch.setattr(translation, "has_native_bf16", lambda device: is_native)
    image = smooth_picture(150, 200)
    with torch_settings_kept():
        expected = translate(open_trained_model(trial).generator, image)
        generator = translation.translating_generator(open_trained_model(trial)._replace(precision=precision))
        translation.set_up_translation(generator)
        translated = translate(generator, image)
    assert generator.last.weight.dtype == used
    difference = np.abs(translated.astype(int) - expected)
    assert difference.max() <= (8 if used == torch.bfloat16 else 1)
    assert (difference.max() > 0) == (used == torch.bfloat16)
