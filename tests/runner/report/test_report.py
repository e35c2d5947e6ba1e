"""report.html: what it says of an experiment's folder, and that it stays small, whole and harmless."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from markupsafe import escape

from gan.evaluation.bootstrap import NUM_DRAWS
from gan.evaluation.grids import comparison_png
from runner.api import load_results
from runner.process.lease import Lease
from runner.records.commands import record_command
from runner.report.__main__ import main
from runner.report.charts.curves import draw_curves
from runner.report.charts.heatmaps import heat_maps
from runner.report.charts.lines import MAX_POINTS, downsample
from runner.report.charts.pictures import BUDGET_BYTES, PictureCache, hang_galleries, latest, read_strips, spaced
from runner.report.figures import STUDY_METRICS
from runner.report.live import LiveReport
from runner.report.reading import read_results
from runner.report.trials import PageTrial
from runner.report.writer import Report
from runner.storage.storage import Storage
from tests.support.experiment_folder import as_image, grid_png, with_intervals, write_experiment_folder
from tests.support.report_pages import NASTY, SWEEP, page_of, trial, undated

Capture = pytest.CaptureFixture[str]


def test_a_heat_map_has_two_axes_and_a_table_for_each_value_of_a_third() -> None:
    trials = [
        trial(f"{b},{w},{s}", params={"channels": s, "batch_size": b, "lambda_l1": w}, ssim=b + w / 1000 + s)
        for b in (1, 4, 10)
        for w in (10, 100)
        for s in (0, 1)
        if (b, w, s) != (4, 100, 1)
    ]
    (heat_map,) = heat_maps(trials, STUDY_METRICS)
    assert (heat_map.row_name, heat_map.column_name, heat_map.columns) == ("batch_size", "channels", ["0", "1"])
    assert [facet.caption for facet in heat_map.facets] == ["lambda_l1 10", "lambda_l1 100"]
    cells = {(f.caption, name): cells for f in heat_map.facets for name, cells in f.rows}
    assert cells["lambda_l1 100", "4"][1].note == "not run"
    assert [cell.best for row in cells.values() for cell in row].count(True) == 1
    assert cells["lambda_l1 100", "10"][1].best
    assert cells["lambda_l1 10", "1"][0].strength == 0.0


def test_thinning_a_curve_keeps_its_spikes() -> None:
    values = np.sin(np.arange(10_000) / 500)
    values[[1234, 8765]] = 50, -50
    kept = downsample(np.column_stack((np.arange(10_000), values)))
    assert len(kept) <= MAX_POINTS
    assert {(1234.0, 50.0), (8765.0, -50.0)} <= set(map(tuple, kept.tolist()))
    assert (np.diff(kept[:, 0]) > 0).all()


def test_lines_of_other_batch_sizes_end_where_they_do_on_each_axis(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    experiment, results = read_results(str(folder))
    rendered = Report([experiment]).render([results]).decode()
    shares = re.findall(r"--epochs: ([\d.]+); --steps: ([\d.]+); --images: ([\d.]+)", rendered)
    assert [tuple(map(float, share)) for share in shares] == [(1, 1, 1), (1, 0.25, 1)]


def test_losses_that_span_decades_get_a_logarithmic_axis() -> None:
    log = [{"step": i + 1, "epoch": 1, "l1_loss": 0.5, "total_gen_loss": 1000 / (i + 1)} for i in range(500)]
    record = PageTrial("sweep", "a", "a", {}, {"status": "running"}, Storage.open("nowhere"), log=log)
    charts = {chart.name: chart for chart in draw_curves([record]).charts}
    assert charts["total_gen_loss"].log
    assert [tick.label for tick in charts["total_gen_loss"].ticks][-2:] == ["100", "200"]
    assert not charts["l1_loss"].log


@pytest.mark.parametrize("largest", [1e300, 1.7e308, -1.7e308])
def test_a_loss_that_diverges_to_the_end_of_all_numbers_is_drawn(largest: float) -> None:
    log = [{"step": i + 1, "epoch": 1, "l1_loss": largest if i > 50 else 0.5} for i in range(100)]
    record = PageTrial("sweep", "a", "a", {}, {"status": "diverged"}, Storage.open("nowhere"), log=log)
    (chart,) = draw_curves([record]).charts
    assert "nan" not in chart.lines[0].raw
    assert abs(chart.high) < 1e101


def test_epochs_are_spaced_by_their_logarithm_with_first_and_last() -> None:
    assert spaced([1, 2, 3]) == [1, 2, 3]
    assert spaced(list(range(1, 201))) == [1, 2, 3, 4, 7, 11, 18, 29, 47, 76, 124, 200]
    assert spaced(list(range(10, 410, 10)))[:2] == [10, 20]
    assert latest([2, 4, 6], 5) == 4
    assert latest([2, 4, 6], 1) is None


@pytest.mark.parametrize(("size", "num_tiles"), [(64, 4), (128, 2), (256, 1)])
def test_tiles_are_cut_as_they_were_laid(tmp_path: Path, size: int, num_tiles: int) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (num_tiles, 3, size, size, 3), dtype=np.uint8)
    rows = [(as_image(generated), as_image(source), as_image(target)) for source, target, generated in tiles]
    folder = Storage.open(tmp_path)
    folder.make_folder("images")
    folder.write("images/epoch_0007.png", comparison_png(rows))
    strips = read_strips(folder, 7)
    assert all(np.array_equal(strip, np.concatenate(tiles[:, kind])) for kind, strip in enumerate(strips))


def test_a_picture_that_is_none_is_left_out(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    for name in ("epoch_0003.png", "epoch_0006.png"):
        (folder / "trials" / "batch_size=2" / "images" / name).write_bytes(b"\x89PNG torn")
    records = [trial("x"), trial("y")]
    folders = [Storage.open(folder / "trials" / name) for name in ("batch_size=2", "batch_size=8")]
    records = [PageTrial("s", "t", "t", {}, {"status": "finished"}, place) for place in folders]
    (gallery,) = hang_galleries(records, PictureCache())
    assert [frames.epochs for frames in gallery.frames] == [[1, 2, 4, 5], [1, 2, 3, 4, 5, 6]]
    assert gallery.frames[0].places == [0, 1, None, 2, 3, None]


def test_trials_on_other_tiles_hang_apart_and_only_once(tmp_path: Path) -> None:
    tiles = write_experiment_folder(tmp_path, "tiles", sweep=SWEEP)
    resize = write_experiment_folder(
        tmp_path, "resize", patching="resize", grid=lambda params, epoch: grid_png(params, epoch, index=1)
    )
    rendered = page_of(tiles, resize)
    assert rendered.count('class="gallery"') == 2
    assert rendered.count('<img class="source"') == 2
    assert "These trials were validated on different patches, so they are not ranked." in rendered
    assert "tiles/batch_size=2," in rendered.replace("<wbr>", "")
    assert re.search(r"data\.patching <small.*?resize/trial", rendered, re.DOTALL)


def test_a_page_of_nine_trials_and_200_epochs_is_under_6_mb(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    grids: dict[str, bytes] = {}

    def noisy_grid(params: Mapping[str, Any], epoch: int) -> bytes:
        # Half noise: harder to compress than any picture of a place. One a trial: they are read once an epoch shown.
        if str(params) not in grids:
            tiles = [torch.from_numpy(noise.uniform(-0.5, 0.5, (1, 3, 256, 256))).float() for _ in range(4)]
            grids[str(params)] = comparison_png((tile, tile, tile) for tile in tiles)
        return grids[str(params)]

    sweep = {"batch_size": [1, 4, 10], "lambda_l1": [1, 10, 100]}
    folder = write_experiment_folder(tmp_path, sweep=sweep, epochs=200, rows_per_epoch=4, grid=noisy_grid)
    rendered = page_of(folder)
    assert rendered.count('class="frame wiped"') == 9
    assert 0.4 * BUDGET_BYTES < len(rendered.encode()) < 6e6


def test_what_an_experiment_says_is_shown_as_text(tmp_path: Path) -> None:
    folder = write_experiment_folder(
        tmp_path, source=NASTY, sweep=SWEEP, outcomes={"batch_size=2,lambda_l1=10": ("failed", NASTY)}
    )
    record_command(Storage.open(folder), 1, NASTY)
    rendered = page_of(folder)
    assert f"<code>{escape(NASTY)}</code>" in rendered.partition("<footer>")[2]
    assert rendered.count("&lt;/script&gt;&lt;script&gt;document.title=&#34;taken over&#34;&lt;/script&gt;") >= 2
    assert rendered.count("<script") == rendered.count("</script>") == 2
    assert "onerror='" not in rendered
    assert "{{ 7*7 }}" in rendered


def test_nothing_in_a_page_leads_outside(tmp_path: Path) -> None:
    rendered = page_of(write_experiment_folder(tmp_path, sweep=SWEEP))
    links = re.findall(r"""(?:src|href|srcset|action|poster|data)=["']?([^"'\s>]*)""", rendered)
    assert {re.match(r"#|data:", link) is not None for link in links} == {True}
    assert not re.search(r"https?://|//[a-z]+\.|url\(|@import", rendered)
    assert "default-src 'none'; img-src data:;" in rendered


@pytest.mark.parametrize("waiting", [False, True])
def test_an_experiment_that_has_barely_begun_has_a_page(tmp_path: Path, waiting: bool) -> None:
    state = ("waiting", "") if waiting else ("stopped", "")
    folder = write_experiment_folder(tmp_path, epochs=1, outcomes={"trial": state})
    rendered = page_of(folder)
    assert "No trial has been evaluated yet." in rendered
    assert "No trial has left a picture yet." in rendered
    assert "Nothing is logged yet." in rendered
    assert ">stopped<" in rendered


def test_a_trial_waits_for_its_turn_only_while_a_command_has_the_experiment(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, outcomes={"trial": ("stopped", "Ctrl-C")})
    lease = Lease.acquire(Storage.open(folder))
    assert ">waiting<" in page_of(folder)
    lease.announce_stop("Ctrl-C")
    assert ">stopped<" in page_of(folder)
    assert ">waiting<" not in page_of(folder)
    lease.release()
    assert ">stopped<" in page_of(folder)


def test_a_trial_that_is_not_in_the_sweep_any_more_waits_for_nothing(tmp_path: Path) -> None:
    outcomes = {"lambda_l1=10": ("stopped", "Ctrl-C"), "lambda_l1=100": ("stopped", "Ctrl-C")}
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [10, 100]}, outcomes=outcomes)
    content = yaml.safe_load((folder / "experiment.yaml").read_text())
    (folder / "experiment.yaml").write_text(yaml.safe_dump(content | {"sweep": {"lambda_l1": [10.0]}}))
    lease = Lease.acquire(Storage.open(folder))
    _, results = read_results(str(folder))
    lease.release()
    assert {result.row["trial"]: result.row["status"] for result in results} == {
        "lambda_l1=10": "waiting",
        "lambda_l1=100": "stopped",
    }
    assert {result.row["trial"]: result.row["in_sweep"] for result in results} == {
        "lambda_l1=10": True,
        "lambda_l1=100": False,
    }
    rendered = page_of(folder)
    assert "1 trial of an earlier start, not in the sweep any more" in rendered
    assert rendered.count("<small>not in the sweep</small>") == 1
    assert {trial.name: trial.in_sweep for trial in load_results(folder)} == {
        "lambda_l1=10": True,
        "lambda_l1=100": False,
    }


def test_one_trial_is_told_without_a_ranking(tmp_path: Path) -> None:
    rendered = page_of(write_experiment_folder(tmp_path))
    assert "There is one trial, " in rendered
    assert "leads on" not in rendered
    assert 'id="grid"' not in rendered


def test_the_command_writes_the_page_and_the_results(tmp_path: Path, capsys: Capture) -> None:
    folder = write_experiment_folder(tmp_path, sweep=SWEEP)
    assert main([str(folder)]) == 0
    assert "report.html: 4 trials" in capsys.readouterr().out
    first = undated(folder / "report.html")
    assert (folder / "results.csv").read_text().startswith("batch_size,lambda_l1,trial,status,epochs,steps,ssim")
    assert main([str(folder)]) == 0
    assert undated(folder / "report.html") == first


def test_several_experiments_are_compared_in_one_page(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [write_experiment_folder(tmp_path / place, "one", sweep={"batch_size": [2, 8]}) for place in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    assert main(["a/one", "b/one"]) == 0
    rendered = undated(tmp_path / "report.html").replace("<wbr>", "")
    assert "<h1>a/one and b/one</h1>" in rendered
    assert ">b/one/batch_size=8<" in rendered
    assert "experiment ↓" in rendered or "experiment →" in rendered
    assert not (folders[0] / "results.csv").exists()
    assert main(["a/one", "b/one", "--out", "both.html"]) == 0
    assert undated(tmp_path / "both.html").replace("<wbr>", "") == rendered


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder: give an experiment's folder"),
        (["."], ".: there is no experiment.yaml in it"),
        (["sweep", "./sweep"], "sweep is given twice"),
        (["sweep", "--out", "sweep"], "--out: sweep is a folder"),
        (["sweep", "--out", "no/such/page.html"], "--out: no/such/page.html lies in no folder that exists"),
    ],
)
def test_what_is_no_experiment_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    write_experiment_folder(tmp_path, epochs=2)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr().err
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "sweep" / "report.html").exists()


def test_a_run_ends_with_its_page(undisturbed: Path) -> None:
    (page,) = undisturbed.rglob("report.html")
    rendered = page.read_text()
    assert "There is one trial, " in rendered
    assert rendered.count('class="frame wiped"') == 1
    losses, _, by_epoch = rendered.partition('id="by-epoch"')
    assert losses.count('<figure class="chart"') == 6
    assert by_epoch.count('<figure class="chart"') >= 4


def test_a_live_page_is_written_seldom_and_at_the_end(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    experiment, results = read_results(str(folder))
    told: list[str] = []
    live = LiveReport(experiment, told.append)
    live.update(results)
    assert not (folder / "report.html").exists()
    live.write(results)
    first = undated(folder / "report.html")
    (folder / "report.html").unlink()
    live.update(results)
    assert not (folder / "report.html").exists()
    live.write(results)
    assert undated(folder / "report.html") == first
    assert not told


def test_a_page_that_fails_is_told_and_ends_nothing(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path)
    experiment, results = read_results(str(folder))
    told: list[str] = []
    live = LiveReport(experiment, told.append)
    (folder / "report.html").mkdir()
    live.write(results)
    (line,) = told
    assert line.startswith("report.html could not be written (IsADirectoryError")


def test_intervals_are_written_as_fine_as_they_are_wide(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep=SWEEP)
    rendered = Report([Storage.open(folder)]).render([with_intervals(folder)]).decode()
    (value,) = {row["psnr"] for _, row in with_intervals(folder) if row["trial"] == "batch_size=2,lambda_l1=10"}
    assert f"<small>{0.95 * value:.1f}–{1.05 * value:.1f}</small>" in rendered


def test_captions_say_what_an_interval_is(tmp_path: Path) -> None:
    bootstrap = (
        f"is the 95 % interval of the mean over the validation pictures, by a bootstrap of whole pictures with "
        f"{NUM_DRAWS} draws"
    )
    extremes = "goes from the lowest to the highest value of its seeds"
    single, repeated = (
        page_of(write_experiment_folder(tmp_path, name, sweep={"batch_size": [2, 8], **more}, epochs=2))
        for name, more in (("single", {}), ("repeated", {"seeds": 2}))
    )
    assert (single.count(bootstrap), single.count(extremes)) == (2, 0)  # the grid's, and the table's
    assert (repeated.count(bootstrap), repeated.count(extremes)) == (1, 1)
