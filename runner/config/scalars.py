"""What a single value of a YAML text means, and why one that looks like a number is none.

YAML 1.1, which PyYAML follows, takes 010 for 8, 1:30 for 90, yes for true and 2024-01-15 for a date. Here a number is
what a person reads as one, in decimal: 200, -1, .5, 2e-4, 10_000. Everything else is a text.
"""

import math
import re
from typing import Any

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)")
_NUMBER = re.compile(r"[-+]?((?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_MAX_DIGITS = 100


def plain_value(text: str) -> Any:
    """What a text without quotes means where no text is wanted: None, a boolean, a number, or else the text itself."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) > _MAX_DIGITS:
        return text

    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    number = _NUMBER.fullmatch(text)
    if number is None or not math.isfinite(float(text)):
        return text
    # 1e-999 is not 0.
    is_too_small = float(text) == 0 and number[1].strip("0.")
    return text if is_too_small else float(text)


def is_bare(text: str) -> bool:
    """True for a text that is no number, but would be taken for one: it stands in the file without quotes."""
    return bool(re.match(r"[-+]?\.?[0-9]", text)) and isinstance(plain_value(text), str)


def how_to_write(text: str) -> str:
    """How a text that should be a number is written as one, beginning with a comma; "" where that is not clear."""
    # A number that is a text must have been in quotes: a YAML text without them would have been read as a number.
    if isinstance(plain_value(text), int | float):
        return f", without quotes: {text}"
    if match := re.fullmatch(r"([-+]?)0+([0-9]+(?:\.[0-9]*)?)", text):
        return f", without a zero before it: {match[1]}{match[2]}"
    if re.fullmatch(r"0x[0-9a-f]+|0o[0-7]+|0b[01]+", text.lower()):
        return f", in decimal: {int(text, 0)}"
    if re.fullmatch(r"[-+]?[0-9]+(_[0-9]+)+", text):
        return f", without `_`: {text.replace('_', '')}"
    if re.fullmatch(r"[0-9]+(\.[0-9]+)? ?%", text):
        return f": write {float(text.rstrip('% ')) / 100:g} for {text}"
    if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)? ?[A-Za-zµ]+", text):
        return ", without a unit behind it"
    return ""
