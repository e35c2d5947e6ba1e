"""Faults that end or suspend processes without a warning."""

import itertools
import os
import signal
from collections.abc import Callable

from runner.data.patch_store import META
from runner.drill.command_run import CommandRun
from runner.drill.processes import processes_titled, unfinished
from runner.drill.target_run import NotSurvived, NotTried, TargetRun
from runner.errors import Exit
from runner.on_ray.private import CONTROLLERS_TITLE, DRIVER_TITLE
from runner.records.starts import read_starts
from runner.storage.run_folder import CHECKPOINTS, MANIFEST, PATCHES

_WRITE_WAIT_S = 20.0


def kill_worker(target: TargetRun) -> None:
    """Kills the worker at several random steps. Ray restarts it each time."""
    command = target.start()
    for step in target.random_steps(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            _signal_trial_worker(target, command, signal.SIGKILL)
        target.recovered(command, before)
    target.finish(command)


def _signal_trial_worker(target: TargetRun, command: CommandRun, number: int) -> None:
    """Sends a signal to the worker. Waits for one, because it may be restarting."""

    def signalled() -> bool | None:
        return target.setup.workers.signal(command, target.trial, number) or None

    target.wait_until(command, signalled, "a worker was found")


def kill_main_process(target: TargetRun) -> None:
    """Kills the command, and starts it again at once, while workers of the first start still run."""
    _kill_and_start_again(target, CommandRun.kill_main)


def kill_everything(target: TargetRun) -> None:
    """Kills all processes of the run, as if the machine lost power. Then runs the same command."""
    _kill_and_start_again(target, CommandRun.kill_all)


def _kill_and_start_again(target: TargetRun, kill: Callable[[CommandRun], None]) -> None:
    """Kills at several random steps, and starts the same command after each kill."""
    command = target.start()
    for step in target.random_steps(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            kill(command)
        command = target.start()
        target.recovered(command, before)
    target.finish(command)


def kill_while_saving(target: TargetRun) -> None:
    """Kills the worker while it writes a checkpoint."""
    command = target.start()
    hits = 0
    for step in target.random_steps(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            if not target.setup.workers.kill_during_write(command, target.trial, _WRITE_WAIT_S):
                raise NotSurvived(f"no checkpoint was begun within {_WRITE_WAIT_S:.0f} s after step {step}")
            # The step is that of the kill, but the start may already be the next one.
            before = target.moment()._replace(num_starts=before.num_starts, log_id=before.log_id)
            hits += bool(unfinished(target.trial.at(CHECKPOINTS), MANIFEST))
        target.recovered(command, before)
    target.finish(command)

    if not hits:
        raise NotTried("no kill came while a checkpoint was half-written: writing is too quick on this machine")


def kill_driver(target: TargetRun) -> None:
    """Kills the trial's driver and its controller. Runs the same command again if Ray gives up the trial."""
    command = target.start()
    (step,) = target.random_steps(1)
    target.wait_for_step(command, step)

    # Ray titles a process after the class of its actor.
    titles = (DRIVER_TITLE, CONTROLLERS_TITLE)
    found = {title: processes_titled(command.session, title) for title in titles}
    for title, pids in found.items():
        if not pids:
            raise NotTried(f"no process is titled {title}")
    with target.killing() as before:
        for pid in itertools.chain.from_iterable(found.values()):
            os.kill(pid, signal.SIGKILL)

    command = _rerun_if_given_up(target, command, before.num_starts)
    target.recovered(command, before)
    target.finish(command)


def _rerun_if_given_up(target: TargetRun, command: CommandRun, num_starts: int) -> CommandRun:
    """The command that continues the run: this one if a worker has restarted, else the same command again."""

    def decided() -> bool | None:
        return len(read_starts(target.trial)) > num_starts or command.exit_code is not None or None

    # Tune restarts a trial whose driver has died, unless it has failed too often.
    target.wait_until(command, decided, "the trial was restarted or given up")
    if command.exit_code is None:
        return command
    target.expect(command, Exit.TRIAL_FAILED, Exit.STOPPED)
    return target.start()


def kill_while_preparing(target: TargetRun) -> None:
    """Kills everything while the patches are being prepared. Then runs the same command."""
    patches = target.storage.at(PATCHES)
    command = target.start(quick=True)
    target.wait_until(command, lambda: unfinished(patches, META) or None, "the patches were being prepared")
    with target.killing() as before:
        command.kill_all()
    if not unfinished(patches, META):
        raise NotTried("the kill came after the patches were prepared: that is too quick on this machine")

    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def suspend_worker(target: TargetRun) -> None:
    """Suspends the worker, so that it hangs. The runner must notice, kill it, and start another one."""
    command = target.start()
    (step,) = target.random_steps(1)
    target.wait_for_step(command, step)
    before = target.moment()
    # No process can ignore SIGSTOP. It stays alive, but does nothing.
    _signal_trial_worker(target, command, signal.SIGSTOP)
    target.recovered(command, before)
    target.finish(command)
