"""How fast a training step is: `python -m benchmarks.train_step --batch-size N [--peer DIR] [--json FILE]`.

Our step, as `gan.fit` takes it from reading the patches to the updated weights, against the peer's
`optimize_parameters` (a folder with its train_step.py; it runs in a process of its own, turn by turn with
ours) and against what the machine could do at best: the step's floating-point operations at the rate of a
matrix product, and Adam's traffic at the rate of a copy, both measured in the same turns. Needs no Ray.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import benchmark_parser, publish, ratios, seconds, spread
from gan.data.batches import resident_limit
from gan.data.patches import Patches, PatchOrigin
from gan.gpu.cuda_graph import uses_cuda_graph
from gan.networks.model import ModelSettings
from gan.networks.precision import LOWER_TYPES, resolve_precision
from gan.training.loop import BeforeStep, fit
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.process.allocator import keep_freed_memory

PATCH_SIZE = 256
STEPS_AN_EPOCH = 8
# At 64 channels and 256 pixels, one pass of the discriminator on each of real and fake.
OPERATIONS = 80.5e9
# Adam reads and writes weight and two moments, and reads the gradient: seven fp32 numbers.
BYTES_A_PARAMETER = 28
# Large enough that starting the work does not count.
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
# Where bf16 is emulated the peer's own measurement of its product takes minutes; ours stands for both.
PEER = "import train_step; train_step.matmul_tflops = lambda *_: 0.0; train_step.main()"


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = benchmark_parser(__doc__)
    add_step_arguments(parser)
    parser.add_argument("--steps", type=int, help="timed in a turn (default: 6 on a processor, 200 on a GPU)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--not-deterministic", action="store_true", help="let a GPU take whatever kernels are fastest")
    parser.add_argument("--peer", metavar="DIR", type=Path, help="the folder of the peer's train_step.py")
    arguments = parser.parse_args()
    publish(measure(arguments), arguments.json)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """What a step is taken with."""
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=0, help="processor threads (default: torch's choice)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Turn by turn: what the machine can do, our steps, the peer's steps."""
    device = torch.device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    set_up(arguments, precision, device)
    steps = arguments.steps or (200 if device.type == "cuda" else 6)
    ours = OurSteps(arguments.channels, arguments.batch_size, precision, device)
    times: dict[str, list[float]] = {"ours": [], "peer": [], "limit": []}
    for _ in range(arguments.turns):
        times["ours"].append(ours.seconds_a_step(steps))
        if arguments.peer:
            times["peer"].append(peer_seconds(arguments, min(steps, 50)))
        times["limit"].append(limit_seconds(arguments, ours.num_parameters, precision, device))
    ours_s, limit_s = spread(times["ours"]), spread(times["limit"])
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "batch_size": arguments.batch_size,
        "channels": arguments.channels,
        "precision": precision,
        "deterministic": not arguments.not_deterministic,
        "cuda_graph": uses_cuda_graph(device, ProcessGroup()),
        "ours_s": ours_s.median,
        "ours_s_spread": ours_s,
        "images_per_s": arguments.batch_size / ours_s.median,
        "limit_s": limit_s.median,
        "share_of_limit": limit_s.median / ours_s.median,
        "share_of_limit_spread": ratios(times["limit"], times["ours"]),
    }
    if arguments.peer:
        peer_s = spread(times["peer"])
        figures |= {"peer_s": peer_s.median, "peer_s_spread": peer_s, "ratio": peer_s.median / ours_s.median}
        figures["ratio_spread"] = ratios(times["peer"], times["ours"])
    return figures


def set_up(arguments: argparse.Namespace, precision: str, device: torch.device) -> None:
    """As a trial's worker sets itself up; nothing of it reaches the peer's process."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if device.type == "cuda":
        if not arguments.not_deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = arguments.not_deterministic
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.use_deterministic_algorithms(not arguments.not_deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class NoisePatches:
    """Patches of noise in memory, as many as some steps take."""

    patch_size = PATCH_SIZE

    def __init__(self, num_patches: int) -> None:
        shape = (2, num_patches, 3, PATCH_SIZE, PATCH_SIZE)
        self._pair = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self._pair.shape[1]

    def __getitem__(self, indices: "Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]") -> tuple[Tensor, Tensor]:
        source, target = self._pair[:, torch.as_tensor(indices)]
        return source, target

    def origin(self, index: int) -> PatchOrigin:
        """Each is a picture of its own."""
        return PatchOrigin(str(index), 0, 0)


class OurSteps:
    """A training whose loop is timed a few steps at a time."""

    def __init__(self, channels: int, batch_size: int, precision: str, device: torch.device) -> None:
        self.patches = NoisePatches(STEPS_AN_EPOCH * batch_size)
        self.settings = TrainingSettings(
            epochs=10**9, batch_size=batch_size, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision=precision,
            log_every_n_steps=50,
        )  # fmt: skip
        self.state = TrainState(ModelSettings(channels, patch_size=PATCH_SIZE), self.settings, device)

    @property
    def num_parameters(self) -> int:
        """Of both networks."""
        networks = (self.state.generator, self.state.discriminator)
        return sum(parameter.numel() for network in networks for parameter in network.parameters())

    def seconds_a_step(self, steps: int) -> float:
        """The median over the steps on a processor; on a GPU, which works behind the host, their mean."""
        warm_up = self.state.step + 3
        times: list[float] = []

        resident_bytes = resident_limit(self.state.device, 1.0)
        for event in fit(self.state, cast(Patches, self.patches), self.settings, resident_bytes=resident_bytes):
            if not isinstance(event, BeforeStep) or event.step < warm_up:
                continue
            if self.state.device.type == "cuda" and event.step in (warm_up, warm_up + steps):
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            if event.step == warm_up + steps:
                break

        if self.state.device.type == "cuda":
            return (times[-1] - times[0]) / steps
        return spread(np.diff(times).tolist()).median


def peer_seconds(arguments: argparse.Namespace, steps: int) -> float:
    """Seconds a step of the peer, as it times itself, in a new process that knows nothing of us."""
    command = [sys.executable, "-c", PEER, "--batch-size", str(arguments.batch_size), "--steps", str(steps)]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    environment = {**os.environ, "PYTHONPATH": str(arguments.peer.resolve())}
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds_per_step"])


def limit_seconds(arguments: argparse.Namespace, num_parameters: int, precision: str, device: torch.device) -> float:
    """What a step would take at the machine's rates of a matrix product and of a copy; the operations go
    with the square of the channels."""
    kind = LOWER_TYPES.get(precision, torch.float32)
    size, copied = PRODUCT_SIZE[device.type], COPIED_BYTES[device.type]
    matrix = torch.randn(size, size, device=device).to(kind)
    product_s = device_seconds(lambda: matrix @ matrix, device)
    place = torch.zeros(copied // 4, device=device)
    other = torch.zeros_like(place)
    copy_s = device_seconds(lambda: other.copy_(place), device)
    operations = OPERATIONS * (arguments.channels / 64) ** 2 * arguments.batch_size
    product_rate, copy_rate = 2 * size**3 / product_s, 2 * copied / copy_s
    return operations / product_rate + BYTES_A_PARAMETER * num_parameters / copy_rate


def device_seconds(work: Any, device: torch.device, repeats: int = 7) -> float:
    """The median, after two that do not count."""

    def whole() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return spread([seconds(whole) for _ in range(repeats + 2)][2:]).median


if __name__ == "__main__":
    main()
