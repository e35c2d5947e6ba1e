"""Threads of the main process that follow the trials: screen, metrics, results, time limit, stop requests."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gan.evaluation.metrics import METRICS
from runner.process.lease import Superseded
from runner.records.metrics_log import MetricsReader
from runner.records.results import TrialResult, trial_row, trial_status
from runner.records.results_files import write_results
from runner.records.starts import read_starts
from runner.records.trial_file import read_outcome
from runner.report.live import LiveReport
from runner.storage.folder import Storage
from runner.sweep.session import Session
from runner.tracking.tracker import Tracker
from runner.trial.heartbeat import Progress
from runner.trial.job import TrialJob
from runner.trial.progress import TrialProgress

INTERVAL_S = 0.5
_RESULTS_INTERVAL_S = 30.0
_STOP_INTERVAL_S = 0.2


@dataclass
class MonitoredTrial:
    """A trial as the monitor follows it.

    Attributes:
        row: the last row of its log.
        metrics: of its last evaluation, by their keys.
        step_s: seconds that a step takes; 0 where that is not known.
    """

    job: TrialJob
    total_steps: int
    finished: bool
    reader: MetricsReader = field(init=False)
    row: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    step_s: float = 0.0
    step: int = 0

    def __post_init__(self) -> None:
        self.reader = MetricsReader(self.job.trial)

    def read(self, progress: Mapping[str, Progress]) -> None:
        """Takes in what is new in the log, and what the worker has reported."""
        for row in self.reader.new_rows():
            self.row = row
            self.step = row["step"]
            # Only the last row has `final/`, over all validation patches. `val/` is over a fixed sample of them.
            evaluated = {m.key: row.get(f"final/{m.key}", row.get(f"val/{m.key}")) for m in METRICS}
            # Most rows are between two evaluations, and the metrics of the last one stay.
            if evaluated["l1"] is not None:
                self.metrics = evaluated
        if self.job.name in progress:
            # Only every few steps have a row: the worker's report is newer.
            self.step, self.step_s, _ = progress[self.job.name]

    def progress(self, status: str) -> TrialProgress:
        """The trial at this moment."""
        return TrialProgress(
            name=self.job.name,
            status=status,
            epochs=self.job.config.training.epochs,
            step=max(self.step, int(self.row.get("step", 0))),
            total_steps=self.total_steps,
            step_s=self.step_s,
            restarts=max(len(read_starts(self.job.trial)) - 1, 0),
            row=self.row,
            metrics=self.metrics,
        )


class Monitor:
    """Follows the trials until the block ends; then does everything once more, so that nothing is missed."""

    def __init__(
        self,
        experiment: Storage,
        session: Session,
        trials: Sequence[MonitoredTrial],
        tracker: Tracker,
        left: Sequence[TrialResult] = (),
    ) -> None:
        """Begins nothing yet.

        Args:
            left: the results of trials that are not in the sweep any more, which files and page have, too.
        """
        self._experiment, self._trials, self._tracker, self._left = experiment, trials, tracker, left
        self._lease, self._backend, self._stop, self._console = session
        self._results_at = 0.0
        self._report = LiveReport(experiment, self._console.print)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name="monitor", daemon=True) for work in (self._run, self._forward_stop)
        ]

    def __enter__(self) -> "Monitor":
        self._console.begin()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._look()
        self._console.end()

    def _status(self, trial: MonitoredTrial, *, over: bool) -> str:
        """The trial's status; nothing runs any more once it is over."""
        outcome = read_outcome(trial.job.trial)["status"]
        # The outcome may be of an earlier run with fewer epochs: the log tells how far it got.
        all_epochs = trial.row.get("epoch", 0) >= trial.job.config.training.epochs
        finished = trial.finished or (outcome == "finished" and all_epochs)
        return trial_status(trial.job.trial, finished=finished, running=not over and outcome == "running")

    def _results(self, *, over: bool) -> list[TrialResult]:
        """Parameters and row of results of each trial."""
        jobs = [(trial.job, self._status(trial, over=over)) for trial in self._trials]
        return [TrialResult(job.params, trial_row(job.trial, job.name, job.params, status)) for job, status in jobs]

    def write_results(self) -> list[TrialResult]:
        """Once it is over: the files of results and report.html; the results of the sweep's trials."""
        results = self._results(over=True)
        write_results(self._experiment, [*results, *self._left])
        self._report.write([*results, *self._left])
        return results

    def _run(self) -> None:
        while not self._over.wait(INTERVAL_S):
            # A mount or a pipe that fails for a while must not end the thread: the next look tries again.
            with contextlib.suppress(OSError, Superseded):
                self._look()
                if time.monotonic() - self._results_at > _RESULTS_INTERVAL_S:
                    self._results_at = time.monotonic()
                    self._update_results()

    def _update_results(self) -> None:
        """Files of results, page and W&B as the trials are now; raises Superseded where they are not ours to write."""
        self._lease.check_current()
        results = self._results(over=False)
        write_results(self._experiment, [*results, *self._left])
        self._report.update([*results, *self._left])
        self._tracker.follow([result.row for result in results])

    def _forward_stop(self) -> None:
        """A thread of its own: a page of many trials may hold the other one up for seconds."""
        while not self._over.wait(_STOP_INTERVAL_S):
            slowest = max((trial.step_s for trial in self._trials), default=0.0)
            # A step can't be broken off: the longer the steps, the earlier before the deadline the trials must know.
            if self._stop.is_due(2 * slowest):
                # A terminal that is gone must not keep the request from the trials.
                with contextlib.suppress(OSError):
                    self._console.print(f"stopping ({self._stop.reason}): the step in hand ends, then it is saved")
                self._backend.request_stop(self._stop.reason)
                return

    def _look(self) -> None:
        progress: Mapping[str, Progress] = {}
        with contextlib.suppress(Exception):  # the Coordinator actor may be gone at the end; the logs say it all
            progress = self._backend.progress()
            if reason := self._backend.stop_reason():  # a worker may have asked
                self._stop.set(reason)
        for trial in self._trials:
            trial.read(progress)
        if progress:
            self._tracker.begin()

        shown = [trial.progress(self._shown_status(trial)) for trial in self._trials]
        self._console.show(shown)
        with contextlib.suppress(Exception):  # a monitoring system that fails is no reason to end a run
            self._backend.publish(self._experiment.name, shown)

    def _shown_status(self, trial: MonitoredTrial) -> str:
        """The trial's status, where one whose turn has not come is waiting, not stopped."""
        status = self._status(trial, over=False)
        return "waiting" if status == "stopped" and not self._stop.reason else status
