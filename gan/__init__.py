"""pix2pix: networks, losses, the training loop, metrics and patches. Needs torch, no Ray.

The names below are imported when they are first used: what asks for the length of an epoch only, or for
patches as arrays, does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan.data.patches import Patches
    from gan.evaluation.evaluate import evaluate
    from gan.evaluation.translate import translate
    from gan.networks.discriminator import Discriminator
    from gan.networks.generator import Generator
    from gan.networks.model import ModelSettings
    from gan.training.loop import fit
    from gan.training.process_group import ProcessGroup
    from gan.training.settings import TrainingSettings
    from gan.training.state import TrainState

_HOMES = {
    "Discriminator": "networks.discriminator",
    "Generator": "networks.generator",
    "ModelSettings": "networks.model",
    "Patches": "data.patches",
    "ProcessGroup": "training.process_group",
    "TrainState": "training.state",
    "TrainingSettings": "training.settings",
    "evaluate": "evaluation.evaluate",
    "fit": "training.loop",
    "translate": "evaluation.translate",
}

__all__ = [
    "Discriminator",
    "Generator",
    "ModelSettings",
    "Patches",
    "ProcessGroup",
    "TrainState",
    "TrainingSettings",
    "evaluate",
    "fit",
    "translate",
]


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
