"""Weighted choice."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(rng: np.random.Generator, choices: Sequence[tuple[T, float]]) -> T:
    """One of the choices, each as likely as its share says; the shares add up to 1."""
    draw = rng.random()
    for choice, share in choices:
        if draw < share:
            return choice
        draw -= share
    return choices[-1][0]
