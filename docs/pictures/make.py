"""Makes the pictures of the README: `make pictures`. It needs tmux and Chromium, and some ten minutes.

It runs `make demo`'s sweep in a terminal of its own, takes what the terminal shows while trials run and at the end,
then the page, and what two of the trials have generated. All of it goes into this folder, as PNG.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rich.console
from PIL import Image, ImageChops
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TRIALS = "results/quickstart/trials"

COLUMNS, LINES = 100, 28
PAGE_SIZE, PAGE_WIDTH = (1280, 1560), 1024  # what of the page is shown, and the width of its picture, in pixels
NUM_COLOURS = 160
MAX_BYTES = 200_000

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TERMINAL_PAGE = """<!doctype html><meta charset="utf-8">
<style>
body {{ margin: 0; padding: 14px 18px; background: {background}; color: {foreground}; width: max-content }}
pre {{ margin: 0; font: 14px/19px "DejaVu Sans Mono", monospace }}
</style>
<pre>{code}</pre>"""


def main() -> None:
    """Makes all pictures."""
    for program in ("tmux", find_browser()):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed, and the pictures are made with it")

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with terminal(work, "python -m runner.tune experiments/quickstart.yaml") as screen:
            running = wait_for(screen, lambda text: "2 running" in text and " 3/4" in text)
            finished = wait_for(screen, lambda text: "to upload: wandb sync" in text and text.rstrip().endswith("$"))
        # The pictures come after the run, so that a browser does not slow it down.
        terminal_picture(running, work).save_as("running")
        terminal_picture(finished, work).save_as("finished")
        page_picture(work / "results/quickstart/report.html", work).save_as("report")
        generated_picture(work / TRIALS).save_as("generated")


class Picture:
    """A picture that is written with few colours, so that it is small."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image.convert("RGB")

    def save_as(self, name: str) -> None:
        """Writes NAME.png; ends the script where it is too large for a README."""
        path = FOLDER / f"{name}.png"
        self._image.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, kmeans=2).save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {self._image.width}x{self._image.height}, {size:,} bytes")
        if size > MAX_BYTES:
            sys.exit(f"{path.name} has more than {MAX_BYTES:,} bytes")


@contextmanager
def terminal(work: Path, command: str) -> Iterator[list[str]]:
    """A terminal of its own in which the command runs; yields how its screen is read, for `wait_for`."""
    (work / "experiments").symlink_to(ROOT / "experiments")
    tmux = ["tmux", "-L", f"pictures-{os.getpid()}", "-f", "/dev/null"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PS1": "$ ",
        "COLORTERM": "truecolor",
    }
    shell = ["bash", "--noprofile", "--norc", "-i"]
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    subprocess.run([*tmux, "new-session", "-d", *size, *shell], cwd=work, env=environment, check=True)
    try:
        subprocess.run([*tmux, "send-keys", command, "Enter"], check=True)
        yield [*tmux, "capture-pane", "-p", "-e"]
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def wait_for(screen: list[str], is_shown: Callable[[str], bool]) -> str:
    """The screen, with its colours, once it shows what is waited for; ends the script after a quarter of an hour."""
    give_up_at = time.monotonic() + 900
    text = ""
    while time.monotonic() < give_up_at:
        coloured = subprocess.run(screen, check=True, capture_output=True, text=True).stdout
        text = Text.from_ansi(coloured).plain
        if is_shown(text):
            return coloured
        time.sleep(0.3)
    sys.exit(f"the terminal does not show what was waited for:\n{text}")


def terminal_picture(coloured: str, work: Path) -> Picture:
    """What a terminal shows, as a picture."""
    console = rich.console.Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.from_ansi(coloured.rstrip()), soft_wrap=True)
    html = console.export_html(inline_styles=True, theme=SVG_EXPORT_THEME, code_format=TERMINAL_PAGE)
    page = work / "terminal.html"
    page.write_text(html)
    return Picture(without_margin(screenshot(page, (1300, LINES * 19 + 60), work)))


def page_picture(page: Path, work: Path) -> Picture:
    """The upper part of report.html."""
    shown = screenshot(page, PAGE_SIZE, work)
    return Picture(shown.resize((PAGE_WIDTH, shown.height * PAGE_WIDTH // shown.width), Image.Resampling.LANCZOS))


def generated_picture(trials: Path) -> Picture:
    """Map, satellite and generated tile, of lambda 10 on the left and of lambda 100 on the right."""
    grids = [
        np.asarray(Image.open(trials / f"batch_size=2,lambda_l1={value}" / "images/epoch_0004.png"))
        for value in (10, 100)
    ]
    height = grids[0].shape[1]  # a grid is three tiles wide, and three tiles high are enough
    gap = np.full((height, 12, 3), 255, np.uint8)
    return Picture(Image.fromarray(np.concatenate([grids[0][:height], gap, grids[1][:height]], axis=1)))


def find_browser() -> str:
    """The name of the first browser that is installed."""
    return next(filter(shutil.which, BROWSERS), BROWSERS[0])


def screenshot(page: Path, size: tuple[int, int], work: Path) -> Image.Image:
    """What a browser shows of a page in a window of this size."""
    shot = work / "shot.png"
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={work}/profile",
    ]
    # A part of the window's height is the browser's own, and comes out blank.
    window = [f"--window-size={size[0]},{size[1] + 200}", "--virtual-time-budget=5000", f"--screenshot={shot}"]
    subprocess.run([find_browser(), *options, *window, page.as_uri()], check=True, capture_output=True)
    return Image.open(shot).convert("RGB").crop((0, 0, *size))


def without_margin(image: Image.Image) -> Image.Image:
    """The picture without what is of its corner's colour at the right and below, but for a narrow margin."""
    background = Image.new("RGB", image.size, image.getpixel((0, 0)))
    box = ImageChops.difference(image, background).getbbox()
    assert box is not None, "the terminal is empty"
    return image.crop((0, 0, box[2] + 18, box[3] + 14))


if __name__ == "__main__":
    main()
