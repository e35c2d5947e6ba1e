"""pix2pix: networks, losses, the training loop, metrics and patches. Needs torch, no Ray.

The names below are imported when they are first used: what asks for the length of an epoch only, or for
patches as arrays, does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan.discriminator import Discriminator
    from gan.evaluation import evaluate
    from gan.generator import Generator
    from gan.patches import Patches
    from gan.state import ModelSettings, TrainState
    from gan.team import Team
    from gan.training import TrainingSettings, fit
    from gan.translation import translate

HOMES = {
    "Discriminator": "discriminator",
    "Generator": "generator",
    "ModelSettings": "state",
    "Patches": "patches",
    "Team": "team",
    "TrainState": "state",
    "TrainingSettings": "training",
    "evaluate": "evaluation",
    "fit": "training",
    "translate": "translation",
}

__all__ = [
    "Discriminator",
    "Generator",
    "ModelSettings",
    "Patches",
    "Team",
    "TrainState",
    "TrainingSettings",
    "evaluate",
    "fit",
    "translate",
]


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
