"""A table for screens of any width: it leaves out columns before a number loses a digit."""

import functools
import itertools
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP = 2  # between two columns
_INDENT = 2  # of a row below its name
_EMPTY = ("", "-")
_BEST_STYLE = "bold green"
_STAR = "*"


class _Row(NamedTuple):
    """The row's cells under the columns' names; see `add_row`."""

    cells: Mapping[str, str]
    params: Mapping[str, str]
    styles: Mapping[str, str]
    best: Collection[str]


@dataclass(frozen=True)
class _Column:
    """A column as it is shown, with a text and a style for each row."""

    name: str
    head: str
    cells: Sequence[str]
    styles: Sequence[str]
    is_left: bool

    @functools.cached_property
    def width(self) -> int:
        """Columns of the screen that it takes: all cells are looked at, once and not for each of them."""
        return max(map(_width, (self.head, *self.cells)))


class _Layout(NamedTuple):
    """The columns that are shown at some width; where it is stacked, each name has a line of its own above its row."""

    columns: Sequence[_Column]
    is_stacked: bool = False


class FittingTable:
    """Rows under columns, fitted to the screen each time that they are shown. No number is ever cut or folded.

    The first column is the row's name, such as `batch_size=4,lambda_l1=10`. Where not everything fits, a column for
    each parameter that differs takes its place, and the least important columns are left out. Where that is not enough
    for the important ones, names get lines of their own.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        left: Collection[str] = (),
        drop: Sequence[str] = (),
        keep: Collection[str] = (),
        elsewhere: str = "",
    ) -> None:
        """A table without rows.

        Args:
            left: columns that are justified left.
            drop: columns that can be left out, the least important first.
            keep: those of them for which names get lines of their own, before they are left out.
            elsewhere: where the columns are that were left out, for a line below the table; "" for no such line.
        """
        self._columns, self._left, self._drop, self._keep = columns, left, drop, keep
        self._elsewhere = elsewhere
        self._rows: list[_Row] = []

    def add_row(
        self,
        *cells: str,
        params: Mapping[str, str] | None = None,
        styles: Mapping[str, str] | None = None,
        best: Collection[str] = (),
    ) -> None:
        """Adds a row; cells that are missing at its end stay empty.

        Args:
            params: what the row's name consists of.
            styles: rich's styles of cells, by their columns.
            best: the columns in which this row has the best value.
        """
        filled = dict(itertools.zip_longest(self._columns, cells, fillvalue=""))
        self._rows.append(_Row(filled, params or {}, styles or {}, best))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich, with the present width of the screen."""
        yield from itertools.chain(*self.blocks(console, options.max_width))
        yield from self._notes(console, options.max_width)

    def blocks(self, console: Console, width: int) -> list[list[Text]]:
        """The lines of the head, and then those of each row."""
        layout = self._layout(width, has_colour=_has_colour(console))
        indent = _INDENT if layout.is_stacked else 0
        blocks = [_lines([(column.head, "bold") for column in layout.columns], layout.columns, indent, is_head=True)]
        for index in range(len(self._rows)):
            cells = [(column.cells[index], column.styles[index]) for column in layout.columns]
            blocks.append(_lines(cells, layout.columns, indent))

        if layout.is_stacked:
            names = [[Text(self._columns[0], "bold")], *(_name_lines(name, width) for name in self._short_names())]
            blocks = [[*name, *block] for name, block in zip(names, blocks, strict=True)]
        return blocks

    def _notes(self, console: Console, width: int) -> Iterator[Text]:
        """What the marks mean, and what was left out."""
        has_colour = _has_colour(console)
        shown = {column.name for column in self._layout(width, has_colour=has_colour).columns}
        notes = []
        if any(shown & set(row.best) for row in self._rows):
            notes.append(f"{'bold' if has_colour else _STAR}: the best of a column")
        left_out = [name for name in self._filled() if name not in shown]
        if left_out and self._elsewhere:
            notes.append(f"left out: {', '.join(left_out)} ({self._elsewhere})")

        for note in notes:
            for line in textwrap.wrap(note, width, subsequent_indent="  ", break_on_hyphens=False):
                yield Text(line, "dim")

    def _layout(self, width: int, *, has_colour: bool) -> _Layout:
        """What fits. Important columns are worth more than a name in one piece."""
        name = self._column(self._columns[0], has_colour=has_colour)
        columns = [self._column(column, has_colour=has_colour) for column in self._filled()]
        if _total([name, *columns]) <= width:
            return _Layout([name, *columns])

        important = {column.name for column in columns if column.name not in self._drop or column.name in self._keep}
        for names in ([self._param_column(param) for param in self._differing()], [name]):
            shown = self._fitting(names, columns, width)
            if names and important <= {column.name for column in shown}:
                return _Layout(shown)
        return _Layout(self._fitting([], columns, width - _INDENT), is_stacked=True)

    def _fitting(self, names: Sequence[_Column], columns: Sequence[_Column], width: int) -> list[_Column]:
        """The names' columns, and those of the others for which there is room beside them."""
        shown = [*names, *columns]
        for name in self._drop:
            if _total(shown) <= width:
                break
            shown = [column for column in shown if column.name != name]
        return shown if _total(shown) <= width else list(names)

    def _column(self, name: str, *, has_colour: bool) -> _Column:
        """A column of the table; the best of its values have a style, or a star where there is no colour."""
        cells = [row.cells[name] for row in self._rows]
        is_best = [name in row.best for row in self._rows]
        if any(is_best) and not has_colour:
            cells = [cell + (_STAR if best else " ") for cell, best in zip(cells, is_best, strict=True)]
        styles = [_BEST_STYLE if name in row.best else row.styles.get(name, "") for row in self._rows]
        return _Column(name, name, cells, styles, name in self._left or name == self._columns[0])

    def _param_column(self, param: str) -> _Column:
        """A parameter's values."""
        values = [row.params.get(param, "-") for row in self._rows]
        return _Column("", _broken_head(param, max(map(_width, values))), values, [""] * len(values), is_left=False)

    def _filled(self) -> list[str]:
        """The columns behind the first, without those that can be left out and have nothing in any row."""
        return [
            name
            for name in self._columns[1:]
            if name not in self._drop or any(row.cells[name] not in _EMPTY for row in self._rows)
        ]

    def _short_names(self) -> list[str]:
        """The rows' names, without the parameters that are the same in all rows."""
        if not (differing := self._differing()):
            return [row.cells[self._columns[0]] for row in self._rows]
        return [",".join(f"{name}={row.params.get(name, '-')}" for name in differing) for row in self._rows]

    def _differing(self) -> list[str]:
        """The parameters that tell the rows apart; none where they do not."""
        names = list(dict.fromkeys(name for row in self._rows for name in row.params))
        differing = [name for name in names if len({row.params.get(name) for row in self._rows}) > 1]
        combinations = {tuple(row.params.get(name) for name in differing) for row in self._rows}
        return differing if len(combinations) == len(self._rows) else []


def _has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _width(cell: str) -> int:
    """Columns of the screen that a cell takes, which may have several lines."""
    return max(map(cell_len, cell.split("\n")))


def _total(columns: Sequence[_Column]) -> int:
    """Columns of the screen that all of them take together."""
    return sum(column.width for column in columns) + _GAP * max(len(columns) - 1, 0)


def _broken_head(name: str, width: int) -> str:
    """A parameter's name, in lines that are no longer than its values as far as its words allow."""
    lines = [""]
    for word in name.replace("_", "_\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _name_lines(name: str, width: int) -> list[Text]:
    """A row's name, broken behind commas only."""
    lines = [""]
    for part in name.replace(",", ",\n").split("\n"):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return [Text(line) for line in lines]


def _lines(
    cells: Sequence[tuple[str, str]], columns: Sequence[_Column], indent: int, *, is_head: bool = False
) -> list[Text]:
    """A row's lines: as many as its highest cell has. Heads stand at the bottom of their row, other cells at its top.

    Args:
        cells: text and style of each.
    """
    parts = [text.split("\n") for text, _ in cells]
    height = max(map(len, parts), default=0)
    parts = [[""] * (height - len(part)) + part if is_head else part + [""] * (height - len(part)) for part in parts]

    lines = []
    for number in range(height):
        line = Text(" " * indent)
        for index, (part, column, (_, style)) in enumerate(zip(parts, columns, cells, strict=True)):
            pad = " " * (column.width - cell_len(part[number]))
            line.append(" " * _GAP if index else "").append("" if column.is_left else pad)
            line.append(part[number], style).append(pad if column.is_left else "")
        line.rstrip()
        lines.append(line)
    return lines
