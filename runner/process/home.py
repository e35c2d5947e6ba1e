"""A home folder for a user who has none, as in a container that does not know the user's number, or can't write it."""

import functools
import os
import tempfile
from pathlib import Path

# Where wandb and others keep what can be made again, and where Triton keeps compiled kernels, without which it fails.
_CACHES = {"XDG_CACHE_HOME": "cache", "TRITON_CACHE_DIR": "triton"}


def ensure_home() -> None:
    """Gives this process, and those that it starts, a home folder and caches that can be written, unless it has some.

    A home folder that can only be read keeps its name: it may hold settings and keys.
    """
    try:
        home = Path.home()
    except RuntimeError:
        # Libraries look for it, Ray's when they are loaded.
        os.environ["HOME"] = own_folder().name
        return
    if not os.access(home, os.W_OK | os.X_OK):
        for variable, name in _CACHES.items():
            os.environ.setdefault(variable, str(Path(own_folder().name, name)))


def shown_below_home(path: str) -> str:
    """A path as a person types it: with ~ for the home folder, unless that is one of this process."""
    home = Path.home()
    is_ours = own_folder.cache_info().currsize > 0 and str(home) == own_folder().name
    return path if is_ours or not Path(path).is_relative_to(home) else f"~/{Path(path).relative_to(home)}"


@functools.cache  # what it returns would be removed once nobody holds it
def own_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder of this process, which only its user can enter. It is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="pix2pix-runner-")
