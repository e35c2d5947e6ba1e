"""What evaluation takes of a training: `python -m benchmarks.evaluation [--batch-size 1] [--json FILE]`.

After each epoch the sample of `evaluation.num_patches` is measured in both modes, and a picture is written; after the
last one all validation patches are, with all metrics. Seconds of both, turn by turn with steps as `gan.fit` takes them,
at the sizes of the study: 4,384 patches an epoch and 4,392 for validation, 200 epochs. Needs no Ray.
"""

import argparse
from typing import Any, cast

import torch

from benchmarks.figures import benchmark_parser, publish, ratios, seconds, spread
from benchmarks.train_step import OurSteps, add_step_arguments, set_up
from gan.data.patches import Patches
from gan.evaluation.evaluate import EPOCH_FUNCTIONS, METRIC_FUNCTIONS, fixed_sample, generate, score
from gan.evaluation.grids import comparison_png
from gan.networks.precision import resolve_precision

NUM_TRAIN, NUM_VAL, EPOCHS = 4384, 4392, 200
SAMPLE, NUM_PICTURES = 64, 4
SELECTED_BY = "swd"


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = benchmark_parser(__doc__)
    add_step_arguments(parser)
    parser.add_argument("--steps", type=int, default=6, help="timed in a turn")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    arguments.not_deterministic = False
    publish(measure(arguments), arguments.json)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Turn by turn: steps, the evaluation of an epoch, its picture, and a part of the last evaluation."""
    device = torch.device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    set_up(arguments, precision, device)
    steps = OurSteps(arguments.channels, arguments.batch_size, precision, device)
    evaluation = Evaluation(steps, device)
    times: dict[str, list[float]] = {"step": [], "sample": [], "picture": [], "all": []}
    for _ in range(arguments.turns):
        times["step"].append(steps.seconds_a_step(arguments.steps))
        times["sample"].append(seconds(evaluation.measure_sample))
        times["picture"].append(seconds(evaluation.draw_picture))
        times["all"].append(seconds(evaluation.measure_all) / SAMPLE)

    epoch_steps = -(-NUM_TRAIN // arguments.batch_size)
    epoch = [sample + picture for sample, picture in zip(times["sample"], times["picture"], strict=True)]
    training = [step * epoch_steps for step in times["step"]]
    last = [patch * NUM_VAL for patch in times["all"]]
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "batch_size": arguments.batch_size,
        "channels": arguments.channels,
        "precision": precision,
        "step_s": spread(times["step"]),
        "sample_s": spread(times["sample"]),
        "picture_s": spread(times["picture"]),
        "last_evaluation_s_a_patch": spread(times["all"]),
        "epoch_evaluation_to_epoch": ratios(epoch, training),
        "last_evaluation_to_training": ratios(last, [seconds * EPOCHS for seconds in training]),
        "evaluation_percent_of_all_computed": spread(
            [
                100 * (EPOCHS * each + at_end) / (EPOCHS * (each + epoch_s) + at_end)
                for each, at_end, epoch_s in zip(epoch, last, training, strict=True)
            ]
        ),
    }


class Evaluation:
    """What a trial does after an epoch, on patches of noise."""

    def __init__(self, steps: OurSteps, device: torch.device) -> None:
        self._generator, self._device = steps.state.compute_generator, device
        self._patches = cast(Patches, steps.patches)
        self._sample = [index % len(steps.patches) for index in fixed_sample(NUM_VAL, SAMPLE).tolist()]

    def measure_sample(self) -> None:
        """Both modes; in the study's mode the metric that the best weights are chosen by, too."""
        chosen = {SELECTED_BY: METRIC_FUNCTIONS[SELECTED_BY]}
        for mode, more in (("study", chosen), ("eval", {})):
            self._score({**EPOCH_FUNCTIONS, **more}, (mode,))

    def measure_all(self) -> None:
        """All metrics of as many patches in both modes, as at the end."""
        self._score(dict(METRIC_FUNCTIONS), ("study", "eval"))

    def draw_picture(self) -> None:
        """The epoch's picture as a file's bytes."""
        comparison_png(generate(self._generator, self._patches, self._sample[:NUM_PICTURES], "study", self._device))

    def _score(self, metrics: dict[str, Any], modes: tuple[str, ...]) -> None:
        score(self._generator, self._patches, self._device, metrics=metrics, indices=self._sample, modes=modes)


if __name__ == "__main__":
    main()
