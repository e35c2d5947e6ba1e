"""The page itself: what its parts need to know, printed by the templates beside this file."""

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.config.search_space import Range
from runner.report.charts.curves import UNITS, draw_curves
from runner.report.charts.heatmaps import heat_maps, shown
from runner.report.charts.pictures import PictureCache, hang_galleries
from runner.report.charts.scatters import draw_scatters, is_drawn
from runner.report.decision import decide, join
from runner.report.details import compare_machines, compare_settings
from runner.report.figures import EVAL_METRICS, STUDY_METRICS, digits, duration, figure, finite, present
from runner.report.records import TrialRecord, swept, values_of
from runner.report.seeds import over_seeds, seed_table

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def environment() -> Environment:
    """Templates that escape all they are given; an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "digits": digits,
        "duration": duration,
        "shown": shown,
        "sort_key": sort_key,
        "breakable": breakable,
    }
    made.globals |= {"figure": figure, "finite": finite}
    return made


def render(
    names: Sequence[str], trials: Sequence[TrialRecord], drawn: Mapping[str, Range], pictures: PictureCache
) -> bytes:
    """The page as UTF-8.

    Args:
        names: of the experiments.
        trials: of all of them, in order.
        drawn: what parameters were drawn from, by name.
        pictures: what an earlier page has cut already.
    """
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    galleries = hang_galleries(trials, pictures)
    cells = over_seeds(trials)
    grid = [cell for cell in cells if not is_drawn(cell, drawn)]
    context: dict[str, Any] = {
        "title": join(list(names)),
        "several": len(names) > 1,
        "overview": overview(trials, drawn),
        "trials": trials,
        "running": any(trial.status == "running" for trial in trials),
        "decision": decide(trials, STUDY_METRICS),
        "heat_maps": heat_maps(grid, STUDY_METRICS),
        "eval_heat_maps": heat_maps(grid, EVAL_METRICS),
        "scatters": draw_scatters(cells, STUDY_METRICS, drawn),
        "seed_table": seed_table(trials),
        "params": list(dict.fromkeys(name for trial in trials for name in trial.params)),
        "metrics": present(trials, STUDY_METRICS),
        "eval_metrics": present(trials, EVAL_METRICS),
        "curves": draw_curves(trials),
        "units": UNITS,
        "galleries": galleries,
        "pictures": [picture_data(gallery) for gallery in galleries],
        "settings": compare_settings(trials),
        "machines": compare_machines(trials),
        "style": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment().get_template("report.html").render(context).encode()


def overview(trials: Sequence[TrialRecord], drawn: Mapping[str, Range]) -> str:
    """How many trials there are, what is swept, how far they are."""
    count = f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"
    grid = [f"{name} {list_values(values_of(trials, name), name in drawn)}" for name in swept(trials)]
    states: dict[str, int] = {}
    for trial in trials:
        states[trial.status.replace("_", " ")] = states.get(trial.status.replace("_", " "), 0) + 1
    ends = f"all {len(trials)} finished" if states == {"finished": len(trials)} and len(trials) > 1 else ""
    said = ends or ", ".join(state if len(trials) == 1 else f"{n} {state}" for state, n in states.items())
    return " · ".join(part for part in (count, " × ".join(grid), said) if part)


def list_values(values: Sequence[Any], is_drawn: bool) -> str:
    """The values that a parameter has, or how far those reach that were drawn."""
    if not is_drawn:
        return ", ".join(map(shown, values))
    known = [value for value in values if value is not None]
    return f"{shown(min(known))} to {shown(max(known))}"


def picture_data(gallery: Any) -> dict[str, Any]:
    """What the script needs of a gallery: for each of its epochs, which strip each trial shows."""
    frames = [frame._asdict() for frame in gallery.frames]
    return {"epochs": gallery.epochs, "tiles": gallery.num_tiles, "frames": frames}


def breakable(name: str) -> Markup:
    """A name or an interval that may go on in the next line after a comma, a slash or a dash."""
    return Markup("<wbr>").join(re.split(r"(?<=[,/–])", name))


def sort_key(value: Any) -> str:
    """What a table's column is sorted by: numbers as they are, other texts as texts, nothing for nothing."""
    number = finite(value)
    return "" if value is None else str(value) if number is None else repr(number)
