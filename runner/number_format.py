"""How numbers are written: one function for each kind of text. Screen, page, messages and names of trials use them."""

import json
import math
from typing import Any

DASH = "–"


def significant(value: float) -> str:
    """Four significant digits, zeros included, and no exponent for everyday sizes: 0.2100, 16.20, 12346."""
    # `.4g` has an exponent from 10,000 on, and `#` leaves a point after four whole digits.
    if 1e3 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.4g}".rstrip(".") if value else "0"


def significant_or_dash(value: Any) -> str:
    """A cell of a table on the screen: 0.21, 16.2, 12346; whole numbers and texts as they are, - for None.

    Zeros at the end are left out, because a column of the screen may have whole numbers, too.
    """
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    # `.4g` alone writes 12345.6 seconds as 1.235e+04.
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def to_width(value: float, width: float) -> str:
    """A value in as many decimals as show two digits of a range's width: 0.216 in one that is 0.013 wide."""
    decimals = max(1 - math.floor(math.log10(width)), 0)
    return f"{value:.{decimals}f}"


def shortest(value: Any) -> str:
    """A value of an experiment file in its shortest form: 100 for 100.0, 0.0002 for 2e-4, true for True."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value)


def tick(value: float) -> str:
    """A mark on an axis: 12k for 12000, 1.5M for 1500000, 0.05 as it is."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def clock(seconds: float | None) -> str:
    """A time that changes on the screen: 1:02:03, or 2:03 under an hour; - where it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: Any) -> str:
    """A time to read: 2 h 05 min, 3 min 07 s or 12.3 s; a dash where it is no finite number."""
    known = finite(seconds)
    if known is None:
        return DASH
    if known < 60:
        return f"{known:.1f} s"
    # Rounded first: 119.7 s are 2 min 00 s, not 1 min 60 s.
    minutes, rest = divmod(round(known), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def byte_size(num_bytes: float) -> str:
    """Bytes in decimal units: 1.4 GB, 230 MB, 4.8 MB."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    # Just below 10 MB a decimal would round up to 10.0.
    return f"{num_bytes / 1e6:.{0 if num_bytes >= 9.95e6 else 1}f} MB"


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 trial, 2 trials; `plural` for a noun whose plural does not end in s alone."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def finite(value: Any) -> float | None:
    """The value as a float; None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
