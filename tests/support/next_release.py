"""The inline sweep of a later release, whose experiments have one more field in each of the sections that a trial's
fingerprint covers: `python -m tests.support.next_release`.
"""

import sys
from dataclasses import dataclass

import runner.config.schema as schema


class Data(schema.Data):
    """With one more field."""

    colours: str = "rgb"


class Model(schema.Model):
    """With one more field."""

    norm: str = "batch"


class Training(schema.Training):
    """With one more field."""

    warmup_steps: int = 0


class Experiment(schema.Experiment):
    """With the sections of the later release."""

    data: Data = Data()
    model: Model = Model()
    training: Training = Training()


def main() -> int:
    """Puts the later release's settings in place, before anything imports them, and runs the sweep."""
    import gan.training.settings

    @dataclass(frozen=True)
    class ModelSettings(schema.ModelSettings):
        norm: str = "batch"

    @dataclass(frozen=True)
    class TrainingSettings(gan.training.settings.TrainingSettings):
        warmup_steps: int = 0

    gan.training.settings.TrainingSettings = TrainingSettings  # type: ignore[misc]
    schema.ModelSettings = ModelSettings  # type: ignore[misc]
    schema.Data, schema.Model, schema.Training, schema.Experiment = Data, Model, Training, Experiment  # type: ignore[misc]

    from tests.support import inline_sweep

    return inline_sweep.main()


if __name__ == "__main__":
    sys.exit(main())
