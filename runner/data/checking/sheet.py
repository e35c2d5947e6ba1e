"""A contact sheet: small pictures of a data set on one JPEG, those that need attention first and in red."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gan.data.pictures import PictureError
from runner.data.checking.facts import Facts, halves_of
from runner.data.checking.findings import Report

MAX_PICTURES = 60
_COLUMNS, _SIDE, _TEXT, _GAP = 5, 128, 32, 12
_RED, _GREY, _BLACK, _WHITE = (190, 20, 20), (200, 200, 200), (20, 20, 20), (255, 255, 255)
_FONT_SIZE = 11


def draw_sheet(report: Report) -> bytes:
    """The sheet as the bytes of a JPEG, for at most 60 pictures: flagged ones, then others evenly spread."""
    reasons: dict[str, str] = {}
    for finding in report.findings:
        for name, note in finding.files.items():
            reason = note or finding.kind
            reasons[name] = f"{reasons[name]}; {reason}" if name in reasons else reason
    chosen = _choose(report.facts, reasons)

    width, height = 2 * _SIDE + _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, max(rows, 1) * height + _GAP), _WHITE)
    for index, fact in enumerate(chosen):
        row, column = divmod(index, _COLUMNS)
        cell = _draw_cell(fact, reasons.get(fact.name))
        sheet.paste(cell, (_GAP + column * width, _GAP + row * height))

    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _choose(facts: Sequence[Facts], reasons: dict[str, str]) -> list[Facts]:
    flagged = [fact for fact in facts if fact.name in reasons][:MAX_PICTURES]
    others = [fact for fact in facts if fact.name not in reasons]
    num_others = min(MAX_PICTURES - len(flagged), len(others))
    return flagged + [others[index * len(others) // num_others] for index in range(num_others)]


def _draw_cell(fact: Facts, reason: str | None) -> Image.Image:
    """A and B side by side, with a frame, the name, and what is wrong."""
    cell = Image.new("RGB", (2 * _SIDE, _SIDE + _TEXT), _WHITE)
    try:
        halves = halves_of(fact.picture)
    except (OSError, PictureError):
        halves = (np.empty((0, 0, 3), np.uint8),) * 2
    for side, half in enumerate(halves):
        # A picture of another shape keeps it, on grey.
        place = Image.new("RGB", (_SIDE - 2, _SIDE - 2), _GREY)
        if half.size:
            small = Image.fromarray(half)
            small.thumbnail(place.size)
            place.paste(small, ((place.width - small.width) // 2, (place.height - small.height) // 2))
        cell.paste(place, (side * _SIDE + 1, 1))

    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(_FONT_SIZE)
    if reason:
        draw.rectangle((0, 0, 2 * _SIDE - 1, _SIDE - 1), outline=_RED, width=2)
    draw.text((1, _SIDE + 2), _cut(fact.name, font), _BLACK, font)
    draw.text((1, _SIDE + 2 + _FONT_SIZE + 2), _cut(reason or "", font), _RED, font)
    return cell


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text as far as it fits under a cell."""
    while font.getlength(text) > 2 * _SIDE:
        text = text.removesuffix("...")[:-1] + "..."
    return text
