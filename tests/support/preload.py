"""What the fork server imports once for all its forks: all that a training loads, Ray and W&B aside."""

import torch.fx.experimental.symbolic_shapes  # noqa: F401  # torch loads it, and SymPy, at the first gradient

import runner.config.loading
import runner.console
import runner.data.synthesis
import runner.records.initial_weights
import runner.report.writer
import runner.sweep.execute
import runner.sweep.run
import runner.train
import runner.trial.loop  # noqa: F401
