"""What the fork server does once for all its forks, Ray and W&B aside: it loads what a training loads, draws the
pictures of the TINY experiment, and compiles the report's templates. Without it a fork takes three times as long."""

import functools
import tempfile
from pathlib import Path

import torch.fx.experimental.symbolic_shapes  # torch loads it, and SymPy, at the first gradient

import runner.config.loading
import runner.console
import runner.data.synthesis
import runner.records.initial_weights
import runner.sweep.execute
import runner.sweep.run
import runner.train
import runner.trial.loop
from runner.report.writer import Report
from runner.storage.storage import Storage
from tests.support.commands import TINY
from tests.support.experiment_folder import with_intervals, write_experiment_folder

# A picture is a function of these three numbers, and most of what it takes to prepare patches.
runner.data.synthesis.draw_pair = functools.cache(runner.data.synthesis.draw_pair)
_counts = dict(TINY["data"]["synthetic"])
_seed = _counts.pop("seed")
for _split, _count in _counts.items():
    for _index in range(_count):
        runner.data.synthesis.draw_pair(_seed, _split, _index)

_threads = torch.get_num_threads()
torch.set_num_threads(1)  # a fork has none of the threads that this process would start
with tempfile.TemporaryDirectory() as _folder:
    _experiment = write_experiment_folder(Path(_folder), epochs=1)
    Report([Storage.open(_experiment)]).render([with_intervals(_experiment)])
torch.set_num_threads(_threads)
