"""The drill: an undisturbed run, then fault after fault until the time is over."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.console import Console
from runner.drill.faults.catalogue import Fault, why_not
from runner.drill.planning import Pace, choose_next
from runner.drill.reach import Reach
from runner.drill.table import Tally
from runner.drill.target_run import NAME, NotSurvived, NotTried, Setting, TargetRun
from runner.errors import Exit, ResourceError
from runner.records.metrics_log import read_rows
from runner.storage.folder import Storage
from runner.storage.run_folder import TRIALS

SHORT_MINUTES = 8.0
EPOCHS, EPOCHS_IN_SHORT = 40, 20
REFERENCE_WITHIN_S = 900.0
NOT_STEPS = 1.3  # what evaluation, pictures and saving add to the time that the log counts
PATIENCE, PATIENCE_S = 2.5, 60.0


@dataclass
class Drill:
    """A drill in progress.

    Attributes:
        deadline: by time.monotonic(), when it should be over.
        short: fewer kills and shorter trainings, where there are only minutes.
    """

    folder: Storage
    console: Console
    seed: int
    deadline: float
    short: bool
    address: str | None
    reach: Reach
    tallies: list[Tally] = field(default_factory=list)

    def run(self, faults: Sequence[Fault]) -> None:
        """Tries each fault once, then those again that have random moments, as long as there is time.

        Raises:
            ResourceError: the undisturbed run failed: there is nothing to compare with.
        """
        setting = self.measure()
        by_name = {fault.name: Tally(fault.name, fault.title) for fault in faults}
        self.tallies.extend(by_name.values())
        waiting = []
        for fault in faults:
            if reason := why_not(fault, self.address):
                by_name[fault.name].reasons.append(reason)
            else:
                waiting.append(fault)
        repeated = [fault for fault in waiting if fault.again]
        while chosen := choose_next(waiting, lambda one: self.estimate_s(one, setting, by_name), self.left_s):
            waiting.remove(chosen)
            self.try_fault(chosen, setting, by_name[chosen.name])
            if not waiting:
                waiting = list(repeated)
        for tally in by_name.values():
            if not tally.tries and not tally.reasons:
                tally.reasons.append("the time did not allow it")

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def kills(self, fault: Fault) -> int:
        """How many times a fault strikes one run."""
        return max(fault.kills // 2, min(fault.kills, 1)) if self.short else fault.kills

    def estimate_s(self, fault: Fault, setting: Setting, tallies: dict[str, Tally]) -> float:
        """Seconds that a fault will take: as long as it took before, or what its kind takes here."""
        return tallies[fault.name].worst_s or setting.pace.estimate_s(fault.cost(self.kills(fault)))

    def measure(self) -> Setting:
        """The undisturbed run: what all others are compared with, and how long things take here."""
        epochs = EPOCHS_IN_SHORT if self.short else EPOCHS
        pace = Pace(0.0, 0.0)
        folder = self.folder.at("undisturbed")
        setting = Setting(epochs, 0, folder.at("results"), self.address, self.reach, pace)
        target = TargetRun(folder, setting, 0, random.Random(self.seed), time.monotonic() + REFERENCE_WITHIN_S)
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
        rows = read_rows(setting.reference.at(f"{NAME}/{TRIALS}/trial"))
        pace.training_s = min(NOT_STEPS * float(rows[-1]["seconds"]), took_s)
        pace.quick_start_s = took_s - pace.training_s
        if self.address is not None:
            pace.ray_start_s = pace.quick_start_s
        self.console.print(f"undisturbed run: {rows[-1]['step']} steps in {took_s:.0f} s")
        return Setting(epochs, int(rows[-1]["step"]), setting.reference, self.address, self.reach, pace)

    def try_fault(self, fault: Fault, setting: Setting, tally: Tally) -> None:
        """Breaks one run, and notes what came of it."""
        kills = self.kills(fault)
        expected_s = setting.pace.estimate_s(fault.cost(kills))
        draw = random.Random(f"{self.seed} {fault.name} {tally.tries}")
        name = fault.name if not tally.tries else f"{fault.name}_{tally.tries + 1}"
        began = time.monotonic()
        deadline = began + PATIENCE_S + PATIENCE * expected_s
        target = TargetRun(self.folder.at(name), setting, kills, draw, deadline, fault.options)
        self.console.print(f"{fault.title} (about {expected_s:.0f} s; {max(self.left_s, 0) / 60:.1f} min left)")
        reason = ""
        try:
            if not fault.own_patches:
                target.use_prepared_patches()
            fault.inject(target)
            tally.tries += 1
        except NotTried as error:
            tally.reasons.append(str(error))
        except NotSurvived as error:
            tally.tries += 1
            tally.failures += 1
            reason = str(error)
            tally.reasons.append(describe_failure(target, reason))
        finally:
            target.end_everything()
            tally.kills += target.kills
            tally.recoveries.extend(target.recoveries)
        took_s = time.monotonic() - began
        tally.worst_s = max(tally.worst_s, took_s)
        if not reason:
            setting.pace.learn(fault.cost(kills), took_s)
        self.console.print(f"  {f'NOT survived: {reason}' if reason else 'survived'}, {took_s:.0f} s")


def describe_failure(target: TargetRun, reason: str) -> str:
    """Why, where to look, and the last lines of what the command said."""
    if not target.commands:
        return f"{reason}\n{target.folder.root}"
    command = target.commands[-1]
    lines = "".join(f"    {line}\n" for line in command.last_lines().splitlines())
    return f"{reason}\n  {target.folder.root}\n  {command.line}\n{lines}".rstrip()
