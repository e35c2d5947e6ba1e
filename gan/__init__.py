"""pix2pix: networks, losses, the training loop, metrics and patches. Needs torch, no Ray."""

from gan.discriminator import Discriminator
from gan.evaluation import evaluate
from gan.generator import Generator
from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.team import Team
from gan.training import TrainingSettings, fit

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
]
