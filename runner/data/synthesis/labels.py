"""The labels of the map: invented names of streets, parks and rivers, house numbers, small signs."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runner.data.synthesis.canvas import SIDE_PX, Colour
from runner.data.synthesis.plane import area, contains, length, middle, unit
from runner.data.synthesis.scene import Land, Road, RoadKind, Scene

_ONSETS = (*"bdfgklmnprstvz", "br", "dr", "st", "tr", "gr", "sh")
_VOWELS = tuple("aeiouaeo")
_ENDINGS = ("", "n", "r", "l", "s", "va", "no", "ra", "sk", "m")
_STREETS = ("street", "lane", "road", "row", "avenue", "passage")
_KINDS = ("Bakery", "Pharmacy", "Museum", "Bank", "Clinic", "Theatre", "Books", "Hotel")
_SIGNS: tuple[Colour, ...] = ((199, 74, 0), (172, 57, 172), (191, 0, 0), (115, 74, 8), (0, 109, 168))
_INK: Colour = (60, 56, 54)
_NUMBER: Colour = (112, 103, 97)
_WATER_INK: Colour = (78, 124, 168)
_PARKING_INK: Colour = (0, 124, 200)
_PARK_INK: Colour = (58, 112, 58)
_HALO: Colour = (255, 255, 255)


class _Writer:
    """Writes on a picture, but never over another label."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self._draw = ImageDraw.Draw(picture)
        self._written: set[tuple[int, int]] = set()

    def write(self, text: str, at: complex, size: int, ink: Colour, along: complex = 1 + 0j, halo: bool = True) -> bool:
        """Writes text, centred at a point, along a direction. Returns False where there is no space for it.

        Args:
            size: the height in pixels.
            halo: draw a white border around the letters.
        """
        font = _font(size)
        half = font.getlength(text) / 2
        # Never upside down.
        if along.real < 0:
            along = -along
        count = max(1, round(half / 5))
        if not self._claim([at + along * (half * i / count) for i in range(-count, count + 1)]):
            return False

        # Pillow writes only horizontal text.
        if along.imag == 0:
            place = round(at.real), round(at.imag)
            self._draw.text(place, text, ink, font, anchor="mm", stroke_width=2 * halo, stroke_fill=_HALO)
        else:
            self._stamp(text, at, font, ink, along, halo)
        return True

    def mark(self, at: complex, ink: Colour) -> bool:
        """Draws a small round sign. Returns False where there is no space for it."""
        if not self._claim([at]):
            return False
        for radius, colour in ((6, _HALO), (5, ink)):
            x, y = round(at.real), round(at.imag)
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        return True

    def _claim(self, spots: list[complex]) -> bool:
        """Reserves cells of 11 pixels for a label. Returns False where one of them, or a neighbour, is taken."""
        # Neighbours count too, so that there is space between labels.
        cells = {(int(spot.real) // 11, int(spot.imag) // 11) for spot in spots}
        if not all(6 < spot.real < SIDE_PX - 6 and 8 < spot.imag < SIDE_PX - 8 for spot in spots):
            return False
        if any((x + dx, y + dy) in self._written for x, y in cells for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            return False
        self._written |= cells
        return True

    def _stamp(
        self, text: str, at: complex, font: ImageFont.FreeTypeFont, ink: Colour, along: complex, halo: bool
    ) -> None:
        """Pastes text that is turned in the direction `along`."""
        left, top, right, bottom = font.getbbox(text, stroke_width=2, anchor="mm")
        half_width, half_height = (right - left) / 2 + 2, (bottom - top) / 2 + 3
        flat = round(2 * half_width), round(2 * half_height)
        turned = (
            round(2 * (half_width * along.real + half_height * abs(along.imag))),
            round(2 * (half_width * abs(along.imag) + half_height * along.real)),
        )

        # The halo first, with a wide stroke, and the letters over it.
        for colour, stroke in ((_HALO, 2), (ink, 0)) if halo else ((ink, 0),):
            mask = Image.new("L", flat, 0)
            place = flat[0] / 2, flat[1] / 2
            ImageDraw.Draw(mask).text(place, text, 255, font, anchor="mm", stroke_width=stroke)
            corner = round(at.real) - turned[0] // 2, round(at.imag) - turned[1] // 2
            self._picture.paste(colour, corner, _turned(mask, turned, along))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font, with the basic layout. The other layout depends on libraries of the machine."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which the labels need: install its wheel from PyPI.")
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _turned(mask: Image.Image, size: tuple[int, int], along: complex) -> Image.Image:
    """The mask, turned around its centre, in a picture of another size."""
    cosine, sine = along.real, along.imag
    x, y = size[0] / 2, size[1] / 2
    matrix = (
        *(cosine, sine, mask.width / 2 - cosine * x - sine * y),
        *(-sine, cosine, mask.height / 2 + sine * x - cosine * y),
    )
    return mask.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _word(rng: np.random.Generator, syllables: int) -> str:
    parts = [_ONSETS[rng.integers(len(_ONSETS))] + _VOWELS[rng.integers(len(_VOWELS))] for _ in range(syllables)]
    return ("".join(parts) + _ENDINGS[rng.integers(len(_ENDINGS))]).capitalize()


def write_labels(rng: np.random.Generator, picture: Image.Image, scene: Scene) -> None:
    """Writes names of streets, then of rivers and parks, then signs, and house numbers where space is left."""
    writer = _Writer(picture)

    # Wide roads first: what is written first gets the space.
    for road in reversed(scene.roads):
        if road.kind is not None and road.kind > RoadKind.SERVICE:
            _name_street(rng, writer, road)
    _name_areas(rng, writer, scene)
    _signs(rng, writer, scene)

    for building in scene.buildings:
        part = max(building.parts, key=area)
        if area(part) > 800:
            number = str(rng.integers(1, 80)) + (f" b{rng.integers(1, 9)}" if rng.random() < 0.3 else "")
            writer.write(number, middle(part), 14, _NUMBER, halo=False)


def _name_street(rng: np.random.Generator, writer: _Writer, road: Road) -> None:
    name = f"{_word(rng, int(rng.integers(1, 4)))} {_STREETS[rng.integers(len(_STREETS))]}"
    size = 18 if road.kind is not RoadKind.RESIDENTIAL else 15
    # Other parts of the street are tried where the middle is taken.
    for share in (rng.uniform(0.4, 0.6), 0.3, 0.75):
        spot = _spot(road.line, share)
        if spot is not None and writer.write(name, spot[0], size, _INK, spot[1], road.kind is not RoadKind.RESIDENTIAL):
            return


def _spot(line: Sequence[complex], share: float) -> tuple[complex, complex] | None:
    """A point on the visible part of a line, and the line's direction there. None where too little is visible."""
    # Near an end, the direction could not be taken from points on both sides.
    seen = [point for point in line if 0 < point.real < SIDE_PX and 0 < point.imag < SIDE_PX]
    if len(seen) < 4:
        return None
    index = min(len(seen) - 2, max(1, int(len(seen) * share)))
    before, after = seen[index - 1], seen[index + 1]
    if length(after - before) < 1:
        return None
    return seen[index], unit(after - before)


def _name_areas(rng: np.random.Generator, writer: _Writer, scene: Scene) -> None:
    course = _spot(scene.river, rng.uniform(0.3, 0.7)) if scene.river else None
    if course is not None:
        writer.write(_word(rng, 2), course[0], 17, _WATER_INK, course[1])
    for ground in scene.areas:
        size, spot = area(ground.outline), middle(ground.outline)
        if ground.land is Land.PARKING and size > 700:
            writer.write("P", spot, 19, _PARKING_INK)
        elif ground.land is Land.PARK and size > 9_000 and not _is_wet(scene, spot + 34j):
            writer.write(f"{_word(rng, 2)} park", spot + 34j, 16, _PARK_INK)


def _is_wet(scene: Scene, spot: complex) -> bool:
    return any(ground.land is Land.WATER and contains(ground.outline, spot) for ground in scene.areas)


def _signs(rng: np.random.Generator, writer: _Writer, scene: Scene) -> None:
    for building in scene.buildings:
        if rng.random() < 0.13:
            ink = _SIGNS[rng.integers(len(_SIGNS))]
            part = building.parts[0]
            at = part[0] + (part[1] - part[0]) * rng.uniform(0.3, 0.7) + (part[3] - part[0]) * 0.2
            if writer.mark(at, ink) and rng.random() < 0.6:
                name = _KINDS[rng.integers(len(_KINDS))] if rng.random() < 0.5 else _word(rng, 2)
                writer.write(name, at + 18j, 13, ink)
