"""The page: what its parts show, printed by the templates in `templates/`."""

import base64
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.comparison.patch_values import PatchValues
from runner.config.search_space import Range
from runner.number_format import DASH, byte_size, counted, duration, finite, significant
from runner.records.goodput import cores_used, total_goodput
from runner.report.charts.by_epoch import draw_by_epoch
from runner.report.charts.curves import UNITS, draw_curves
from runner.report.charts.fidelity import draw_fidelity
from runner.report.charts.heatmaps import heat_maps
from runner.report.charts.pictures import Gallery, PictureCache, hang_galleries
from runner.report.charts.scatters import draw_scatters, is_drawn
from runner.report.details import Origin, compare_machines, compare_settings
from runner.report.figures import EVAL_METRICS, STUDY_METRICS, axis_title, choose, describe_interval, figure, present
from runner.report.rungs import Bracket, replayed
from runner.report.seeds import over_seeds, seed_table
from runner.report.trials import PageTrial, shown, swept, values_of
from runner.report.verdict.decision import decide, join

_TEMPLATES = Path(__file__).parent / "templates"

# The templates of the page's parts, in order.
SECTIONS = ("decision", "pictures", "heatmaps", "rungs", "scatters", "table", "curves", "details")

_MAX_ROWS = 2000  # of a table that has all trials: the page stays of a size that a browser opens
_MAX_VALUES = 12  # of a swept parameter that are named one by one


class _Link(NamedTuple):
    """A link at the top of the page to one of its sections.

    Attributes:
        anchor: the id of the section in its template.
        needs: what the section shows, a name of the templates' context: where that is empty there is no section. A
            section without it is always there.
    """

    anchor: str
    title: str
    needs: str = ""


_LINKS = (
    _Link("pictures", "Pictures"),
    _Link("grid", "Grid", "heat_maps"),
    _Link("rungs", "Rungs", "rungs"),
    _Link("fidelity", "Blur", "fidelity"),
    _Link("drawn", "Drawn parameters", "scatters"),
    _Link("seeds", "Over seeds", "seed_table"),
    _Link("trials", "Trials"),
    _Link("losses", "Losses"),
    _Link("by-epoch", "Metrics by epoch", "by_epoch"),
    _Link("details", "Details"),
)


def render(
    names: Sequence[str],
    trials: Sequence[PageTrial],
    in_full: Sequence[PageTrial],
    drawn: Mapping[str, Range],
    pictures: PictureCache,
    brackets: Sequence[Bracket] = (),
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
    values: Mapping[str, PatchValues] = MappingProxyType({}),
    *,
    origins: Sequence[Origin],
    written_at: datetime,
    command: str,
) -> bytes:
    """The page as UTF-8.

    Args:
        names: of the experiments.
        trials: of all of them, in order.
        in_full: those that are shown in full, in the order of the page.
        drawn: the ranges that parameters were drawn from, by name.
        pictures: what an earlier page has cut already.
        brackets: the rungs of the experiments that are halved.
        logs: the logs of trials, under their folders' paths.
        values: of each patch, under the folders' paths of trials that are compared.
        origins: of the experiments' figures.
        written_at: with a time zone.
        command: that writes the page again.
    """
    galleries = hang_galleries(in_full, pictures)
    # A drawn parameter has too many values for an axis of a heat map.
    cells = over_seeds(trials)
    grid = [cell for cell in cells if not is_drawn(cell, drawn)]

    seeds = seed_table(trials)
    places = {id(cell): index for index, cell in enumerate(cells)}
    best = [places[id(cell)] for cell in choose(cells)]

    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    # The page's security policy allows the script with this digest, and no other.
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    replays = [] if brackets or len(names) > 1 else replayed([trial for trial in trials if trial.in_sweep], logs)
    decision = decide(trials, STUDY_METRICS, values)
    context: dict[str, Any] = {
        "brackets": brackets,
        "replays": replays,
        "rungs": [*brackets, *replays],
        "sections": SECTIONS,
        "title": join(list(names)),
        "several": len(names) > 1,
        "overview": _overview(trials, drawn),
        "trials": trials,
        "in_full": in_full,
        "rows_of_all": trials[:_MAX_ROWS] if len(trials) > len(in_full) else [],
        "running": any(trial.status == "running" for trial in trials),
        "decision": decision,
        "heat_maps": heat_maps(grid, STUDY_METRICS),
        "eval_heat_maps": heat_maps(grid, EVAL_METRICS),
        "fidelity": draw_fidelity(decision.ranked, STUDY_METRICS),
        "scatters": draw_scatters(cells, STUDY_METRICS, drawn),
        "seed_table": seeds,
        "trial_interval": describe_interval(over_seeds=False),
        "interval": describe_interval(over_seeds=bool(seeds)),
        "best_cells": [seeds[index] for index in best] if seeds else [],
        "max_rows": _MAX_ROWS,
        "params": list(dict.fromkeys(name for trial in trials for name in trial.params)),
        "goodput": total_goodput([trial.row for trial in trials]),
        "has_gpu": any(trial.row.get("peak_gpu_memory_bytes") for trial in trials),
        "metrics": present(trials, STUDY_METRICS),
        "eval_metrics": present(trials, EVAL_METRICS),
        "curves": draw_curves(in_full),
        "by_epoch": draw_by_epoch(in_full),
        "units": UNITS,
        "galleries": galleries,
        "pictures": [_picture_data(gallery) for gallery in galleries],
        "settings": compare_settings(in_full),
        "machines": compare_machines(in_full),
        "origins": origins,
        "written_at": written_at,
        "command": command,
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": script_hash,
    }
    links = [link for link in _LINKS if not link.needs or context[link.needs]]
    return _environment().get_template("report.html").render(context, links=links).encode()


@functools.cache
def _environment() -> Environment:
    """Templates that escape all values; an unknown name is an error."""
    # Names, paths and reasons come from files that anybody may have written: nothing is printed unescaped.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    environment.filters |= {
        "significant": significant,
        "duration": duration,
        "shown": shown,
        "sort_key": _sort_key,
        "breakable": _breakable,
        "share": _share,
        "byte_size": byte_size,
    }
    environment.globals |= {"figure": figure, "finite": finite, "cores_used": cores_used, "axis_title": axis_title}

    return environment


def _overview(trials: Sequence[PageTrial], drawn: Mapping[str, Range]) -> str:
    """How many trials there are, what is swept, and their states: `2 trials · batch_size 2, 8 · all 2 finished`."""
    grid = [f"{name} {_values_text(values_of(trials, name), name in drawn)}" for name in swept(trials)]

    counts = Counter(trial.status.replace("_", " ") for trial in trials)
    if len(trials) == 1:
        states = ", ".join(counts)
    elif counts["finished"] == len(trials):
        states = f"all {len(trials)} finished"
    else:
        states = ", ".join(f"{count} {state}" for state, count in counts.items())

    parts = (counted(len(trials), "trial"), " × ".join(grid), states)
    return " · ".join(part for part in parts if part)


def _values_text(values: Sequence[Any], is_drawn: bool) -> str:
    """The values of a parameter, or the lowest and the highest where they were drawn."""
    if not is_drawn:
        named = list(map(shown, values))
        if len(named) > _MAX_VALUES:
            return f"{', '.join(named[:2])}, ... {named[-1]} ({len(named)} values)"
        return ", ".join(named)
    known = [value for value in values if value is not None]
    return f"{shown(min(known))} to {shown(max(known))}"


def _picture_data(gallery: Gallery) -> dict[str, Any]:
    """What the script needs of a gallery: which strip each trial shows at each epoch."""
    frames = [frame._asdict() for frame in gallery.frames]
    return {"epochs": gallery.epochs, "tiles": gallery.num_tiles, "frames": frames}


def _breakable(name: str) -> Markup:
    """A name or an interval that may be broken after a comma, a slash or a dash."""
    return Markup("<wbr>").join(re.split(r"(?<=[,/–])", name))


def _share(value: Any) -> str:
    """A part of 1 as a percentage; a dash where it is not known."""
    number = finite(value)
    return DASH if number is None else f"{100 * number:.0f} %"


def _sort_key(value: Any) -> str:
    """The key of a table's cell: exact numbers, texts as they are, empty for None."""
    if value is None:
        return ""
    number = finite(value)
    return str(value) if number is None else repr(number)
