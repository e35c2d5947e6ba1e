"""Threads of the main process that follow the trials: screen, metrics, results, time limit, stop requests."""

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.process.lease import Superseded
from runner.records.goodput import Hold, newest_hold
from runner.records.metrics_log import LogSummary
from runner.records.results import ENDED, TrialResult, trial_row, trial_status
from runner.records.results_files import write_results
from runner.records.starts import count_faults, describe_start, read_starts
from runner.records.trial_file import read_outcome, settle_outcome
from runner.report.live import LiveReport
from runner.storage.storage import Storage
from runner.sweep.session import Session
from runner.tracking.tracker import Tracker
from runner.trial.heartbeat import Progress
from runner.trial.job import TrialJob
from runner.trial.progress import TrialProgress, next_ones

INTERVAL_S = 0.5
_RESULTS_INTERVAL_S = 30.0
_MAX_SHARE = 0.1  # of the time, for looking at the trials: a storage far away may take seconds for it
_MAX_PAUSE_S = 10.0
_LOOKS_PER_ROUND = 10
_STOP_INTERVAL_S = 0.2
_PATIENCE_S = 60.0  # until a person is told that nothing has begun; ten seconds are usual


@dataclass
class MonitoredTrial:
    """A trial as the monitor follows it.

    Its files are read while they can change: of a trial that had finished before they are read once.

    Attributes:
        is_pending: whether this start is to train it.
        goal_epochs: how far it is to be trained, as far as is known: to the next rung of a halved sweep, or the end.
        log: what its log comes to, as far as it has been read.
        outcome: the status that its last run has recorded; "" for none.
        has_begun: whether it has been seen at work in this start of the command.
        is_settled: whether its files are read, and do not change any more.
        step_s: seconds that a step takes; 0 where that is not known.
        starts: the rows of its workers' starts.
        hold: for how long its workers have been held; None where that is not known.
        begun: when it was first seen at work in this start of the command, by time.monotonic(), and at which step.
    """

    job: TrialJob
    steps_per_epoch: int
    finished: bool
    is_pending: bool = True
    log: LogSummary = field(init=False)
    outcome: str = ""
    has_begun: bool = False
    is_settled: bool = False
    step_s: float = 0.0
    step: int = 0
    starts: Sequence[Mapping[str, Any]] = ()
    hold: Hold | None = None
    begun: tuple[float, int] | None = None
    goal_epochs: int = field(init=False)

    def __post_init__(self) -> None:
        self.goal_epochs = self.job.config.training.epochs
        self.log = LogSummary(self.job.trial)
        self._result: TrialResult | None = None

    def read(self, progress: Mapping[str, Progress]) -> list[str]:
        """Takes in what is new in the log, and what the worker has reported; lines on starts that go on from a step."""
        # First the outcome: what is written before it is in what is read after it.
        self.outcome = read_outcome(self.job.trial)["status"]
        self.log.read()
        self.step = max(self.step, int(self.log.row.get("step", 0)))
        if self.job.name in progress:
            # Only every few steps have a row: the worker's report is newer.
            self.step, self.step_s, _ = progress[self.job.name]
            if self.step_s and self.begun is None:
                self.begun = (time.monotonic(), self.step)

        before, self.starts = len(self.starts), read_starts(self.job.trial)
        self.hold = newest_hold(self.job.trial, self.starts)
        # Those of earlier starts of the command were told then.
        new = [start for start in self.starts[before:] if start["attempt"] == self.job.attempt]
        self.has_begun = (
            self.has_begun
            or self.outcome == "running"
            or any(start["attempt"] == self.job.attempt for start in self.starts)
        )
        # Of a trial that has not begun it is the outcome of an earlier start.
        self.is_settled = not self.is_pending or (self.has_begun and self.outcome in ENDED)
        return [line for start in new if (line := self._describe(start))]

    def result(self, status: str) -> TrialResult:
        """Parameters and row of results, which is made once where the trial does not change any more."""
        if self._result is None or not self.is_settled or self._result.row["status"] != status:
            row = trial_row(self.job.name, self.job.params, status, self.log, self.starts, self.hold)
            self._result = TrialResult(self.job.params, row)
        return self._result

    def _describe(self, start: Mapping[str, Any]) -> str:
        total_steps = self.goal_epochs * self.steps_per_epoch
        return describe_start(self.job.name, start, total_steps, max(self.steps_per_epoch, 1))

    def _pace_s(self) -> float:
        """Seconds that pass for a step, evaluations included; 0 before an epoch has been seen from end to end."""
        if self.begun is None:
            return 0.0
        began, from_step = self.begun
        is_known = self.step - from_step >= max(self.steps_per_epoch, 1)
        return (time.monotonic() - began) / (self.step - from_step) if is_known else 0.0

    def progress(self, status: str) -> TrialProgress:
        """The trial at this moment."""
        return TrialProgress(
            name=self.job.name,
            status=status,
            epochs=self.goal_epochs,
            step=max(self.step, int(self.log.row.get("step", 0))),
            total_steps=self.goal_epochs * self.steps_per_epoch,
            step_s=self.step_s,
            restarts=count_faults(self.starts),
            row=self.log.row,
            metrics=self.log.metrics,
            params=self.job.params,
            batch_size=self.job.config.training.batch_size,
            pace_s=self._pace_s() if status == "running" else 0.0,
        )


class Monitor:
    """Follows the trials until the block ends; then does everything once more, so that nothing is missed."""

    def __init__(
        self,
        experiment: Storage,
        session: Session,
        trials: Sequence[MonitoredTrial],
        tracker: Tracker,
        at_once: int,
        left: Sequence[TrialResult] = (),
    ) -> None:
        """Follows nothing yet.

        Args:
            at_once: how many trials run at a time.
            left: the results of trials that are not in the sweep any more, which files and page have, too.
        """
        self._experiment, self._trials, self._tracker, self._at_once = experiment, trials, tracker, at_once
        self._left = left
        self._lease, self._backend, self._stop, self._console = session
        self._results_at = 0.0
        self._num_looks = 0
        self._waiting_since: dict[str, float] = {}  # for a first worker
        self._waiting_for_room: Mapping[str, float] = {}
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
        self._look(at_all=True)
        self._console.end()

    def _status(self, trial: MonitoredTrial, *, over: bool) -> str:
        """The trial's status; nothing runs any more once it is over."""
        # The outcome may be of an earlier run with fewer epochs: the log tells how far it got.
        all_epochs = trial.log.row.get("epoch", 0) >= trial.job.config.training.epochs
        is_finished = trial.finished or (trial.outcome == "finished" and all_epochs)
        status = trial_status(
            trial.outcome, is_finished=is_finished, is_held=not over, is_stopping=bool(self._stop.reason)
        )
        return "waiting" if status == "running" and trial.job.name in self._waiting_for_room else status

    def _results(self, *, over: bool) -> list[TrialResult]:
        """Parameters and row of results of each trial, as it was last looked at."""
        return [trial.result(self._status(trial, over=over)) for trial in self._trials]

    def write_results(self) -> list[TrialResult]:
        """Once it is over: the files of results and report.html; the results of the sweep's trials."""
        for trial in self._trials:
            if trial.is_pending:
                trial.read({})
            # A worker that was ended before it could save could not record that it was asked to stop.
            if self._stop.reason and trial.outcome == "running":
                with trial.job.committing():
                    settle_outcome(trial.job.trial, self._stop.reason)
                trial.read({})
        results = self._results(over=True)
        with self._experiment.exclusive(self._lease.check_current):
            write_results(self._experiment, [*results, *self._left])
            self._report.write([*results, *self._left])
        return results

    def _run(self) -> None:
        pause_s = INTERVAL_S
        while not self._over.wait(pause_s):
            began = time.monotonic()
            # A mount or a pipe that fails for a while must not end the thread: the next look tries again.
            with contextlib.suppress(OSError, Superseded):
                self._look()
                shortest_s = max(INTERVAL_S, self._experiment.poll_interval_s)
                pause_s = min(max(shortest_s, (time.monotonic() - began) / _MAX_SHARE), _MAX_PAUSE_S)
                if time.monotonic() - self._results_at > _RESULTS_INTERVAL_S:
                    self._results_at = time.monotonic()
                    self._update_results()

    def _update_results(self) -> None:
        """Files of results, page and W&B as the trials are now; raises Superseded where they are not ours to write."""
        results = self._results(over=False)
        with self._experiment.exclusive(self._lease.check_current):
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
                text = f"stopping ({self._stop.reason}): the step in hand ends, then it is saved"
                with contextlib.suppress(OSError):
                    self._console.print(f"stopping ({self._stop.reason})" if self._backend.loss() else text)
                self._backend.request_stop(self._stop.reason)
                with contextlib.suppress(OSError, Superseded):
                    self._lease.announce_stop(self._stop.reason)
                return

    def _look(self, *, at_all: bool = False) -> None:
        """Reads what may have changed, and shows it.

        Args:
            at_all: read the trials whose turn has not come, too.
        """
        progress: Mapping[str, Progress] = {}
        self._waiting_for_room = {}
        with contextlib.suppress(Exception):  # the Coordinator actor may be gone at the end; the logs say it all
            progress = self._backend.progress()
            self._waiting_for_room = self._backend.waiting_s()
            if reason := self._backend.stop_reason():  # a worker may have asked
                self._stop.set(reason)
        # In the first look nothing has been read yet.
        for trial in self._may_have_changed(progress, at_all=at_all or not self._num_looks):
            for line in trial.read(progress):
                self._console.print(line)
        self._tracker.look_at([t.job.name for t in self._trials if t.has_begun and not t.is_settled])
        if progress:
            self._tracker.begin()

        shown = [trial.progress(self._status(trial, over=False)) for trial in self._trials]
        self._say_who_waits(shown, progress)
        self._console.show(shown, self._at_once)
        # The values of trials that do not run are set now and then: Ray forgets what nobody sets.
        is_round = at_all or self._num_looks % _LOOKS_PER_ROUND == 0
        to_publish = shown if is_round else [trial for trial in shown if trial.status == "running"]
        with contextlib.suppress(Exception):  # a monitoring system that fails is no reason to end a run
            self._backend.publish(self._experiment.name, to_publish)
        self._num_looks += 1

    def _may_have_changed(self, progress: Mapping[str, Progress], *, at_all: bool) -> list[MonitoredTrial]:
        """The trials whose files are to be read."""
        changing = [trial for trial in self._trials if not trial.is_settled]
        if at_all:
            return changing
        at_work = [trial for trial in changing if trial.has_begun or trial.job.name in progress]
        waiting = [trial for trial in changing if not trial.has_begun and trial.job.name not in progress]
        return [*at_work, *next_ones(waiting, self._at_once, self._num_looks)]

    def _say_who_waits(self, shown: Sequence[TrialProgress], progress: Mapping[str, Progress]) -> None:
        """A line for each trial that has room and whose workers have not reported for a while."""
        now = time.monotonic()
        for trial in shown:
            if trial.status != "running" or trial.name in progress:
                self._waiting_since.pop(trial.name, None)
            elif now - self._waiting_since.setdefault(trial.name, now) > _PATIENCE_S:
                self._waiting_since[trial.name] = math.inf  # it is said once
                self._console.print(f"{trial.name}: still waiting for its first worker, after {_PATIENCE_S:.0f} s")
