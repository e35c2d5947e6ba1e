"""Random choice with weights."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(rng: np.random.Generator, choices: Sequence[tuple[T, float]]) -> T:
    """Draws one of the choices. Each comes with its probability, and these add up to 1."""
    draw = rng.random()
    for choice, share in choices:
        if draw < share:
            return choice
        draw -= share
    return choices[-1][0]  # the sum of the probabilities may be rounded to less than 1
