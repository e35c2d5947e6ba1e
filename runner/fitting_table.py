"""A table for screens of any width: it leaves out columns before a number loses a digit."""

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

_GAP = 2  # between two columns


class FittingTable:
    """Rows under columns, fitted to the screen each time that they are shown.

    Where not all columns fit, those in `drop` are left out one by one. The texts of the first column are folded where
    they take more than half of the screen. No other cell is folded or cut, unless the screen is too narrow for the
    columns that can't be dropped.
    """

    def __init__(self, columns: Sequence[str], *, left: Collection[str], drop: Sequence[str]) -> None:
        """A table without rows.

        Args:
            left: columns that are justified left.
            drop: columns that can be left out, the least important first.
        """
        self._columns, self._left, self._drop = columns, left, drop
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Adds a row; cells that are missing at its end stay empty."""
        missing = len(self._columns) - len(cells)
        self._rows.append(cells + ("",) * missing)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich, with the present width of the screen."""
        shown = self._columns_that_fit(options.max_width)
        table = Table(box=None, pad_edge=False)
        for index in shown:
            name = self._columns[index]
            table.add_column(name, justify="left" if name in self._left else "right", no_wrap=index > 0)
            table.columns[-1].overflow = "fold"
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        yield table

    def _columns_that_fit(self, width: int) -> list[int]:
        """The indices of the columns that are shown."""
        widths = [
            max(cell_len(line) for cell in (name, *(row[index] for row in self._rows)) for line in cell.split("\n"))
            for index, name in enumerate(self._columns)
        ]
        widths[0] = min(widths[0], width // 2)

        shown = list(range(len(self._columns)))
        for name in self._drop:
            if sum(widths[index] for index in shown) + _GAP * (len(shown) - 1) <= width:
                break
            shown.remove(self._columns.index(name))
        return shown
