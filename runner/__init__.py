"""Sweeps of pix2pix trainings that survive every kind of failure. The library is described in docs/python.md.

    from runner import load_results, run_experiment

Importing this package is cheap: the functions are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, DataError, ResourceError, StorageError, UserError

if TYPE_CHECKING:
    from runner.api import Results, TrialResults, load_results, run_experiment

__all__ = [
    "ConfigError",
    "DataError",
    "ResourceError",
    "Results",
    "StorageError",
    "TrialResults",
    "UserError",
    "load_results",
    "run_experiment",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import runner.api

    return getattr(runner.api, name)
