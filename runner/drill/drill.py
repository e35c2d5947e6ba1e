"""The drill: an undisturbed run, then one fault after another until the time is over."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.console import Console
from runner.drill.faults.catalogue import Fault, why_not
from runner.drill.planning import Pace, choose_next
from runner.drill.table import FaultResult
from runner.drill.target_run import NAME, DrillSetup, NotSurvived, NotTried, TargetRun
from runner.drill.workers import Workers
from runner.errors import Exit, ResourceError
from runner.records.metrics_log import read_rows
from runner.storage.folder import Folder
from runner.storage.run_folder import TRIALS
from runner.storage.storage import Storage

SHORT_MINUTES = 8.0

_EPOCHS, _EPOCHS_IN_SHORT = 40, 20
_REFERENCE_WITHIN_S = 900.0
_NOT_STEPS = 1.3  # evaluation, pictures and saving take this much more than the time that the log counts
_PATIENCE, _PATIENCE_S = 2.5, 60.0  # a run fails when it takes longer than the estimate by this factor and time


@dataclass
class Drill:
    """A drill in progress.

    Attributes:
        folder: each run gets a folder in this one.
        place: where the results of each run go: the same folder, or below a prefix of a bucket.
        seed: determines the random steps at which faults are injected.
        deadline: the time.monotonic() at which the drill should be over.
        short: do fewer kills and shorter trainings, because there are only minutes.
        address: of a Ray cluster; None where each command starts a local Ray.
        workers: the way to signal the workers of a run.
        results: what came of each fault so far.
    """

    folder: Folder
    place: Storage
    console: Console
    seed: int
    deadline: float
    short: bool
    address: str | None
    workers: Workers
    results: list[FaultResult] = field(default_factory=list)

    def run(self, faults: Sequence[Fault]) -> None:
        """Tries each fault once. Then tries those with random steps again, as long as there is time.

        Raises:
            ResourceError: the undisturbed run failed, so there is nothing to compare with.
        """
        setup = self.measure()
        by_name = {fault.name: FaultResult(fault.name, fault.title) for fault in faults}
        self.results.extend(by_name.values())

        # Some faults can't be tried on a cluster that others may use.
        waiting = []
        for fault in faults:
            if reason := why_not(fault, self.address, self.place):
                by_name[fault.name].reasons.append(reason)
            else:
                waiting.append(fault)

        # Only faults at random steps may show something new when they are tried again.
        repeated = [fault for fault in waiting if fault.again]
        while chosen := choose_next(waiting, lambda one: self._estimate_s(one, setup, by_name), self.left_s):
            waiting.remove(chosen)
            self.try_fault(chosen, setup, by_name[chosen.name])
            if not waiting:
                waiting = list(repeated)

        for result in by_name.values():
            if not result.tries and not result.reasons:
                result.reasons.append("the time did not allow it")

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def _num_kills(self, fault: Fault) -> int:
        """How many times a fault kills processes of one run."""
        return max(fault.kills // 2, min(fault.kills, 1)) if self.short else fault.kills

    def _estimate_s(self, fault: Fault, setup: DrillSetup, results: dict[str, FaultResult]) -> float:
        """Seconds that a fault will take: what it took before, or what faults of its kind take here."""
        return results[fault.name].worst_s or setup.pace.estimate_s(fault.cost(self._num_kills(fault)))

    def measure(self) -> DrillSetup:
        """Does the undisturbed run. All other runs are compared with it, and their time is estimated from it.

        Raises:
            ResourceError: the run failed.
        """
        epochs = _EPOCHS_IN_SHORT if self.short else _EPOCHS
        pace = Pace(0.0, 0.0)  # filled in below
        folder = self.folder.at("undisturbed")
        # 0 steps: their number is known after this run only.
        place = self.place.at("undisturbed")
        setup = DrillSetup(epochs, 0, place.at("results"), self.address, self.workers, pace)
        target = TargetRun(folder, place, setup, 0, random.Random(self.seed), time.monotonic() + _REFERENCE_WITHIN_S)

        began = time.monotonic()
        self.console.print(f"undisturbed run, {epochs} epochs")
        try:
            command = target.start(quick=True)
            target.expect(command, Exit.FINISHED)
        except NotSurvived as error:
            raise ResourceError(f"the undisturbed run failed: {error}\n{target.commands[-1].last_lines()}") from None
        finally:
            target.end_everything()
        took_s = time.monotonic() - began

        # What was not training was the start. On a cluster, each start includes Ray.
        rows = read_rows(setup.reference.at(f"{NAME}/{TRIALS}/trial"))
        pace.training_s = min(_NOT_STEPS * float(rows[-1]["seconds"]), took_s)
        pace.quick_start_s = took_s - pace.training_s
        if self.address is not None:
            pace.ray_start_s = pace.quick_start_s

        self.console.print(f"undisturbed run: {rows[-1]['step']} steps in {took_s:.0f} s")
        return DrillSetup(epochs, int(rows[-1]["step"]), setup.reference, self.address, self.workers, pace)

    def try_fault(self, fault: Fault, setup: DrillSetup, result: FaultResult) -> None:
        """Injects a fault into a new run, and records what came of it."""
        kills = self._num_kills(fault)
        expected_s = setup.pace.estimate_s(fault.cost(kills))
        # Each try draws its steps alone, so a seed gives the same ones whatever faults came before.
        draw = random.Random(f"{self.seed} {fault.name} {result.tries}")
        name = fault.name if not result.tries else f"{fault.name}_{result.tries + 1}"
        began = time.monotonic()
        # Well above the estimate, so that a slow machine alone is no failure.
        deadline = began + _PATIENCE_S + _PATIENCE * expected_s
        target = TargetRun(self.folder.at(name), self.place.at(name), setup, kills, draw, deadline, fault.options)

        self.console.print(f"{fault.title} (about {expected_s:.0f} s; {max(self.left_s, 0) / 60:.1f} min left)")
        reason = ""
        try:
            if not fault.own_patches:
                target.use_prepared_patches()
            fault.inject(target)
            result.tries += 1
        except NotTried as error:
            result.reasons.append(str(error))
        except NotSurvived as error:
            result.tries += 1
            result.failures += 1
            reason = str(error)
            result.reasons.append(_describe_failure(target, reason))
        finally:
            # Ctrl-C ends the drill here, and nothing may be left running.
            target.end_everything()
            result.kills += target.kills
            result.recoveries.extend(target.recoveries)

        took_s = time.monotonic() - began
        result.worst_s = max(result.worst_s, took_s)

        # A failed run may have waited for its deadline, which says nothing of the time that the fault takes.
        if not reason:
            setup.pace.learn(fault.cost(kills), took_s)
        self.console.print(f"  {f'NOT survived: {reason}' if reason else 'survived'}, {took_s:.0f} s")


def _describe_failure(target: TargetRun, reason: str) -> str:
    """The reason, the run's folder, the command, and the last lines of its output."""
    if not target.commands:
        return f"{reason}\n{target.folder.root}"
    command = target.commands[-1]
    lines = "".join(f"    {line}\n" for line in command.last_lines().splitlines())
    return f"{reason}\n  {target.folder.root}\n  {command.line}\n{lines}".rstrip()
