"""Drawing in the coordinates of a scene, finer than the picture, which is then averaged down."""

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from runner.data.synthesis.plane import Outline, along_line, middle, offset_line, sides

SIDE_PX = 600
"""Width and height of one half of a pair."""

Colour = tuple[int, int, int]


class Canvas:
    """A picture of SIDE_PX by SIDE_PX pixels, drawn `scale` times as fine. Its mode is "RGB" or "L"."""

    def __init__(self, mode: str, fill: Colour | int, scale: int) -> None:
        self.scale = scale
        self.image = Image.new(mode, (SIDE_PX * scale, SIDE_PX * scale), fill)
        self._draw = ImageDraw.Draw(self.image)

    def _xy(self, points: Iterable[complex]) -> list[tuple[float, float]]:
        # A continuous coordinate x covers pixel floor(x), while ImageDraw counts from pixel centres.
        scale = self.scale
        return [(point.real * scale - 0.5, point.imag * scale - 0.5) for point in points]

    def polygon(self, outline: Outline, fill: Colour | int) -> None:
        """Fills an outline."""
        self._draw.polygon(self._xy(outline), fill=fill)

    def border(self, outline: Outline, fill: Colour | int, width: float) -> None:
        """Draws a closed line along an outline."""
        self.line((*outline, outline[0]), fill, width)

    def line(self, line: Outline, fill: Colour | int, width: float, rounded: bool = False) -> None:
        """Draws a line through points. With `rounded`, its ends and corners are round."""
        # Pillow leaves gaps at the corners of wide lines, so those are drawn as polygons.
        pixels = max(1, round(width * self.scale))
        if pixels < 4 or (len(line) == 2 and not rounded):
            self._draw.line(self._xy(line), fill=fill, width=pixels)
            return
        low, high = (offset_line(line, side * width / 2) for side in (-1, 1))
        self._draw.polygon(self._xy((*low, *reversed(high))), fill=fill)
        if rounded:
            for point in line if len(line) < 5 else (line[0], line[-1]):
                self.disc(point, width / 2, fill)

    def dashes(self, line: Sequence[complex], fill: Colour | int, width: float, dash: float, gap: float) -> None:
        """Draws a dashed line: `dash` pixels drawn, `gap` pixels not."""
        pixels = max(1, round(width * self.scale))
        for start, heading in along_line(line, dash + gap):
            self._draw.line(self._xy((start, start + heading * dash)), fill=fill, width=pixels)

    def disc(self, center: complex, radius: float, fill: Colour | int) -> None:
        """Fills a circle."""
        (x, y), r = self._xy((center,))[0], radius * self.scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def reduced(self) -> Image.Image:
        """The picture at SIDE_PX by SIDE_PX. Each pixel is the mean of those that were drawn."""
        return self.image.reduce(self.scale) if self.scale > 1 else self.image


class Stencil:
    """Remembers which land is taken, in cells of 4 by 4 pixels, on the canvas and in a margin around it."""

    _MARGIN_PX = 100
    _CELL_PX = 4

    def __init__(self) -> None:
        side = (SIDE_PX + 2 * self._MARGIN_PX) // self._CELL_PX
        self._side = side
        self._image = Image.new("L", (side, side), 0)
        self._draw = ImageDraw.Draw(self._image)
        pixels = self._image.load()
        assert pixels is not None  # Only pictures still in a file have none.
        self._pixels = pixels

    def _cell(self, point: complex) -> tuple[float, float]:
        return (point.real + self._MARGIN_PX) / self._CELL_PX, (point.imag + self._MARGIN_PX) / self._CELL_PX

    def add(self, outline: Outline) -> None:
        """Marks the land inside an outline as taken."""
        self._draw.polygon([self._cell(point) for point in outline], fill=1)

    def add_line(self, line: Sequence[complex], width: float) -> None:
        """Marks the land under a line as taken."""
        self._draw.line([self._cell(point) for point in line], fill=1, width=max(1, round(width / self._CELL_PX)))

    def covers(self, point: complex) -> bool:
        """True where the land at the point is taken. Always False outside the margin."""
        x, y = self._cell(point)
        return 0 <= x < self._side and 0 <= y < self._side and self._pixels[int(x), int(y)] != 0

    def touches(self, outline: Outline) -> bool:
        """True where a corner of the outline, the middle of a side, or its centre is taken."""
        return self.covers(middle(outline)) or any(
            self.covers(a) or self.covers((a + b) * 0.5) for a, b in sides(outline)
        )


def on_canvas(points: Iterable[complex], margin: float) -> bool:
    """True where the bounding box of the points is at most `margin` pixels away from the canvas."""
    low, high = -margin, SIDE_PX + margin
    xs, ys = [], []
    for point in points:
        xs.append(point.real)
        ys.append(point.imag)
    return max(xs) > low and min(xs) < high and max(ys) > low and min(ys) < high
