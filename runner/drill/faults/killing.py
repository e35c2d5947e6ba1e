"""Faults that end processes without notice."""

import os
import signal
from collections.abc import Callable

from runner.drill.command_run import CommandRun
from runner.drill.processes import DRIVER_TITLE, names_with, processes_titled
from runner.drill.target_run import NotSurvived, NotTried, TargetRun
from runner.drill.two_nodes import two_nodes
from runner.errors import Exit
from runner.records.starts import read_starts
from runner.storage.folder import TEMPORARY
from runner.storage.run_folder import CHECKPOINTS

WRITE_WAIT_S = 20.0


def kill_worker(target: TargetRun) -> None:
    """SIGKILL to the worker, again and again; Ray restarts it by itself."""
    command = target.start()
    for step in target.moments(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            signal_trial_worker(target, command, signal.SIGKILL)
        target.recovered(command, before)
    target.finish(command)


def signal_trial_worker(target: TargetRun, command: CommandRun, number: int) -> None:
    """Signals the worker, which a run that logs steps must have."""

    def signalled() -> bool | None:
        return target.setting.reach.signal(command, target.trial, number) or None

    target.wait_until(command, signalled, "its worker was found")


def kill_main_process(target: TargetRun) -> None:
    """SIGKILL to the command and the same command at once, while the old one's workers are still there."""
    kill_and_start_again(target, CommandRun.kill_main)


def kill_everything(target: TargetRun) -> None:
    """SIGKILL to all processes of the run, as when a machine is switched off; then the same command."""
    kill_and_start_again(target, CommandRun.kill_all)


def kill_and_start_again(target: TargetRun, kill: Callable[[CommandRun], None]) -> None:
    """Kills at random moments, each time followed by the same command."""
    command = target.start()
    for step in target.moments(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            kill(command)
        command = target.start()
        target.recovered(command, before)
    target.finish(command)


def kill_while_saving(target: TargetRun) -> None:
    """SIGKILL to the worker while a checkpoint is half-written."""
    command = target.start()
    hits = 0
    for step in target.moments(target.kills_wanted):
        target.wait_for_step(command, step)
        with target.killing() as before:
            if not target.setting.reach.kill_during_write(command, target.trial, CHECKPOINTS, WRITE_WAIT_S):
                raise NotSurvived(f"no checkpoint was begun within {WRITE_WAIT_S:.0f} s after step {step}")
            before = target.moment()._replace(num_starts=before.num_starts, log_id=before.log_id)
            hits += bool(target.trial.temporary_names(CHECKPOINTS))
        target.recovered(command, before)
    target.finish(command)
    if not hits:
        raise NotTried("no checkpoint was caught while it was half-written: their writing is too quick here")


def kill_driver(target: TargetRun) -> None:
    """SIGKILL to the trial's driver, which Tune runs; where Ray gives the trial up, the same command goes on."""
    command = target.start()
    (step,) = target.moments(1)
    target.wait_for_step(command, step)
    drivers = processes_titled(command.session, DRIVER_TITLE)
    if not drivers:
        raise NotTried(f"no process is titled {DRIVER_TITLE}")
    with target.killing() as before:
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)
    command = rerun_if_given_up(target, command, before.num_starts)
    target.recovered(command, before)
    target.finish(command)


def rerun_if_given_up(target: TargetRun, command: CommandRun, num_starts: int) -> CommandRun:
    """The command that goes on: itself where a worker began again, else the same once more after its end."""

    def decided() -> bool | None:
        return len(read_starts(target.trial)) > num_starts or command.exit_code is not None or None

    target.wait_until(command, decided, "the trial went on or was given up")
    if command.exit_code is None:
        return command
    target.expect(command, Exit.TRIAL_FAILED, Exit.STOPPED)
    return target.start()


def kill_while_preparing(target: TargetRun) -> None:
    """SIGKILL to everything while the patches are cut; then the same command."""
    patches = str(target.storage.at("patches").local_path)
    command = target.start(quick=True)
    target.wait_until(command, lambda: names_with(patches, TEMPORARY) or None, "the patches were being cut")
    with target.killing() as before:
        command.kill_all()
    if not names_with(patches, TEMPORARY):
        raise NotTried("the patches were not caught half-cut: they are cut too quickly here")
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def stop_worker_in_its_tracks(target: TargetRun) -> None:
    """SIGSTOP to the worker: it hangs, and the runner itself must notice, end it and go on."""
    command = target.start()
    (step,) = target.moments(1)
    target.wait_for_step(command, step)
    before = target.moment()
    signal_trial_worker(target, command, signal.SIGSTOP)
    target.recovered(command, before)
    target.finish(command)


def take_node_away(target: TargetRun) -> None:
    """The node of the worker is preempted, with notice; the run goes on on the other one."""
    target.folder.make_folder()
    step = target.moments(1)[0] // 2
    notice_s = target.setting.pace.training_s / 8
    with two_nodes(target.folder.local_path / "two_nodes.txt") as cluster:
        command = target.start("--address", cluster.address)
        target.wait_for_step(command, step)
        before = target.moment()
        cluster.take_away(int(read_starts(target.trial)[-1]["pid"]), notice_s)
        target.recovered(command, before)
        target.finish(command)
