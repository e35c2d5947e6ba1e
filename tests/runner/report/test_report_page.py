"""report.html in a browser: sliders, sorting and charts work by mouse and keyboard, and nothing is asked for."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from runner.records.results import TrialResult
from runner.report.writer import Report
from runner.storage.storage import Storage
from tests.support.browser import chromium, requested
from tests.support.experiment_folder import with_intervals, write_experiment_folder
from tests.support.report_pages import NASTY, SWEEP

STOPPED = "batch_size=8,lambda_l1=10"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests here."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of four trials, one of which has failed in the middle."""
    folder = tmp_path_factory.mktemp("page")
    experiment = write_experiment_folder(folder, source=NASTY, sweep=SWEEP, outcomes={STOPPED: ("failed", NASTY)})
    content = Report([Storage.open(experiment)]).render([with_swd(with_intervals(experiment))])
    (folder / "report.html").write_bytes(content)
    return (folder / "report.html").as_uri()


def with_swd(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The results with a metric that sees blur."""
    return [TrialResult(params, {**row, "swd": 0.1 + 0.01 * index}) for index, (params, row) in enumerate(results)]


@pytest.fixture(autouse=True)
def opened(browser: Chrome, page: str) -> Iterator[None]:
    """The page anew for each test, after which neither the console nor the network may have a word of more."""
    browser.get_log("browser")
    requested(browser)
    browser.get(page)
    yield
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if not url.startswith("chrome")] == [page]


def one(browser: Chrome, selector: str) -> WebElement:
    """The first element."""
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser: Chrome, selector: str) -> list[str]:
    """What all such elements notify, whether they are in view or not."""
    return [str(element.get_property("textContent")) for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_nasty_texts_stay_texts(browser: Chrome) -> None:
    assert browser.title == "sweep – pix2pix trials compared"
    assert any(NASTY in text for text in texts(browser, ".caveats li"))
    assert NASTY in texts(browser, ".settings code")


def test_the_table_is_sorted_by_a_click_and_by_a_key(browser: Chrome) -> None:
    head = one(browser, "table.trials thead th:nth-child(5)")
    button = head.find_element(By.TAG_NAME, "button")
    names = texts(browser, "table.trials tbody th")
    column = "table.trials tbody td:nth-child(5)"
    unsorted = [row.get_attribute("data-sort") for row in browser.find_elements(By.CSS_SELECTOR, column)]
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    rows = [row.get_attribute("data-sort") for row in browser.find_elements(By.CSS_SELECTOR, column)]
    assert rows == sorted(unsorted, key=lambda value: float(value or 0)) != unsorted
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert texts(browser, "table.trials tbody th") != names
    assert [row.get_attribute("data-sort") for row in browser.find_elements(By.CSS_SELECTOR, column)] == rows[::-1]


def test_the_epoch_slider_changes_the_pictures_of_all_trials(browser: Chrome) -> None:
    slider = one(browser, ".epoch")
    shown = [image.get_attribute("src") for image in browser.find_elements(By.CSS_SELECTOR, ".generated")]
    assert texts(browser, ".at-epoch") == ["epoch 6", "epoch 6", "epoch 3", "epoch 6"]
    slider.send_keys(Keys.HOME)
    assert one(browser, ".epoch-shown").text == "1"
    assert texts(browser, ".at-epoch") == ["epoch 1"] * 4
    now = [image.get_attribute("src") for image in browser.find_elements(By.CSS_SELECTOR, ".generated")]
    assert all(before != after for before, after in zip(shown, now, strict=True))
    slider.send_keys(Keys.END)
    assert [i.get_attribute("src") for i in browser.find_elements(By.CSS_SELECTOR, ".generated")] == shown


def test_one_tile_fills_each_frame_and_the_wipe_uncovers_the_target(browser: Chrome) -> None:
    frame = "document.querySelector('.wiped')"
    ratio = browser.execute_script(f"return {frame}.clientWidth / {frame}.clientHeight")
    assert ratio == pytest.approx(1, abs=0.02)
    place = "return document.querySelector('.generated').getBoundingClientRect().top - "
    place += f"{frame}.getBoundingClientRect().top"
    browser.execute_script("document.querySelector('.tile-choice input[value=\"2\"]').click()")
    height = browser.execute_script(f"return {frame}.clientHeight")
    assert browser.execute_script(place) == pytest.approx(-2 * height, abs=2)
    one(browser, ".wipe").send_keys(Keys.END)
    clip = "return getComputedStyle(document.querySelector('.generated')).clipPath"
    assert browser.execute_script(clip) == "inset(0px 0px 0px 100%)"
    under = one(browser, ".wiped .under").get_attribute("src")
    assert under == one(browser, "img.target").get_attribute("src")


def test_a_trial_is_taken_out_of_all_charts_by_the_keyboard(browser: Chrome) -> None:
    box = one(browser, ".legend li:nth-child(2) input")
    box.send_keys(Keys.SPACE)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot .off")) == len(
        browser.find_elements(By.CSS_SELECTOR, ".plot [data-trial='1']")
    )
    assert len(browser.find_elements(By.CSS_SELECTOR, "#losses .off[data-trial='1']")) >= 6
    assert len(browser.find_elements(By.CSS_SELECTOR, "#by-epoch .off[data-trial='1']")) == 2 * 4  # line and mark
    assert browser.find_elements(By.CSS_SELECTOR, ".plot .lit[data-trial='1']")
    box.send_keys(Keys.SPACE)
    assert not browser.find_elements(By.CSS_SELECTOR, ".plot .off")


def test_the_axis_of_the_charts_can_be_steps(browser: Chrome) -> None:
    lines = "return [...document.querySelectorAll('.chart:first-child svg .line')].map("
    lines += "line => getComputedStyle(line).transform)"
    browser.execute_script("document.querySelector('.unit-choice input[value=steps]').click()")
    assert browser.execute_script("return document.getAnimations().length") == 0  # as asked for: no motion
    assert set(browser.execute_script(lines)) >= {"matrix(1, 0, 0, 1, 0, 0)", "matrix(0.25, 0, 0, 1, 0, 0)"}
    assert set(texts(browser, ".curves .x-title")) == {"training, in steps"}
    moved = "return [...document.querySelectorAll('#by-epoch {}')].map(path => getComputedStyle(path).transform)"
    assert browser.execute_script(moved.format(".best-point")) == browser.execute_script(moved.format(".line"))


def test_both_axes_of_each_chart_have_a_title_with_a_unit_that_covers_nothing(browser: Chrome) -> None:
    charts = browser.find_elements(By.CSS_SELECTOR, ".chart .plot")
    assert len(charts) == 6 + 4 + 1
    for chart in charts:
        up, across = (chart.find_element(By.CSS_SELECTOR, title) for title in (".y-title", ".x-title"))
        assert up.is_displayed() and across.is_displayed()
        assert re.search(r", (no unit|in dB)", up.text)
        assert re.search(r", (no unit|in dB|in epochs)", across.text)
        label = str(chart.find_element(By.TAG_NAME, "svg").get_attribute("aria-label"))
        assert up.text.removesuffix(", logarithmic") in label
        ticks = chart.find_elements(By.CSS_SELECTOR, ".y-axis span, .x-axis span")
        caption = chart.find_element(By.XPATH, "../figcaption")
        for other in (*(tick for tick in ticks if tick.is_displayed()), caption):
            for title in (up, across):
                assert not overlap(title.rect, other.rect), (title.text, other.text)


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """True where two rectangles share more than an edge."""
    return all(
        one[start] + 1 < other[start] + other[size] and other[start] + 1 < one[start] + one[size]
        for start, size in (("x", "width"), ("y", "height"))
    )


def test_pointing_at_a_chart_names_the_line_and_its_value_and_not_its_mark(browser: Chrome) -> None:
    chart = one(browser, "#by-epoch .chart")
    svg = chart.find_element(By.TAG_NAME, "svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    # Near the left end, where no trial has its best epoch.
    ActionChains(browser).move_to_element_with_offset(svg, -svg.size["width"] // 2 + 4, 0).perform()
    name, _, value = chart.find_element(By.CSS_SELECTOR, ".readout").text.partition(": ")
    assert name in texts(browser, ".legend .name")
    first = browser.execute_script(
        "const line = arguments[0].querySelector('.line.lit'), {low, high} = arguments[0].dataset;"
        "const y = Number(line.getAttribute('d').match(/-?[\\d.]+/g)[1]);"
        "return Number((Number(low) + (1 - y / 100) * (high - low)).toPrecision(3))",
        chart,
    )
    assert float(value) == first


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_no_part_of_the_page_is_wider_than_the_window(browser: Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_of_it_can_be_read_without_scripts(browser: Chrome, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
        assert not one(browser, ".controls").is_displayed()
        assert one(browser, ".verdict").is_displayed()
        frame = one(browser, ".wiped").size  # all four tiles
        assert frame["height"] == pytest.approx(4 * frame["width"], abs=4)
        assert len(browser.find_elements(By.CSS_SELECTOR, "table.trials tbody tr")) == 4
        requested(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.get(page)


def test_what_was_drawn_is_shown_as_points_over_its_range(browser: Chrome, page: str, tmp_path: Path) -> None:
    sweep = {"lambda_l1": {"log_uniform": [10, 1000]}, "samples": 3, "batch_size": [2, 8], "seeds": 2}
    folder = write_experiment_folder(tmp_path, sweep=sweep)
    (tmp_path / "search.html").write_bytes(Report([Storage.open(folder)]).render([with_intervals(folder)]))
    address = (tmp_path / "search.html").as_uri()
    try:
        requested(browser)
        browser.get(address)
        colours = "return [...document.querySelectorAll('.scatter .point')].map(p => getComputedStyle(p).stroke)"
        strokes = browser.execute_script(colours)
        assert (len(strokes), len(set(strokes))) == (4 * 6, 2)
        assert one(browser, ".scatter .x-axis span").is_displayed()
        assert len(browser.find_elements(By.CSS_SELECTOR, ".scatter .ring")) == 4
        assert len(browser.find_elements(By.CSS_SELECTOR, "#seeds tbody tr")) == 6
        size = {"width": 320, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
        assert [url for url in requested(browser) if not url.startswith("chrome")] == [address]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.get(page)
