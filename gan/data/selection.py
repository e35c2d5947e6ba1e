"""The two halves of the validation pictures: one to choose by, one to report with.

Whatever is chosen by some pictures (an epoch, a setting) looks better on these than it is. So nothing is chosen by the
pictures of the second half.
"""

import hashlib
from collections.abc import Iterable


def selection_half(names: Iterable[str]) -> frozenset[str]:
    """The names of the pictures to choose by: the first ceil(n / 2), sorted by the SHA-256 of their names.

    Args:
        names: of the pictures, as the patch store has them; repeated ones count once.
    """
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return frozenset(ordered[: (len(ordered) + 1) // 2])
