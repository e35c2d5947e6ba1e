"""Faults that end processes without notice."""

import os
import signal
from collections.abc import Callable

from runner.drill.command_run import CommandRun
from runner.drill.processes import DRIVER_TITLE, names_with, processes_titled
from runner.drill.two_nodes import two_nodes
from runner.drill.victim import NotSurvived, NotTried, Victim
from runner.errors import Exit
from runner.records import CHECKPOINTS
from runner.starts import read_starts
from runner.storage import TEMPORARY

AMBUSH_S = 20.0


def kill_worker(victim: Victim) -> None:
    """SIGKILL to the worker, again and again; Ray restarts it by itself."""
    command = victim.start()
    for step in victim.moments(victim.kills_wanted):
        victim.wait_for_step(command, step)
        with victim.killing() as before:
            strike_worker(victim, command, signal.SIGKILL)
        victim.recovered(command, before)
    victim.finish(command)


def strike_worker(victim: Victim, command: CommandRun, number: int) -> None:
    """Signals the worker, which a run that logs steps must have."""

    def struck() -> bool | None:
        return victim.setting.reach.signal(command, victim.trial, number) or None

    victim.wait_until(command, struck, "its worker was found")


def kill_main_process(victim: Victim) -> None:
    """SIGKILL to the command and the same command at once, while the old one's workers are still there."""
    kill_and_start_again(victim, CommandRun.kill_main)


def kill_everything(victim: Victim) -> None:
    """SIGKILL to all processes of the run, as when a machine is switched off; then the same command."""
    kill_and_start_again(victim, CommandRun.kill_all)


def kill_and_start_again(victim: Victim, kill: Callable[[CommandRun], None]) -> None:
    """Kills at random moments, each time followed by the same command."""
    command = victim.start()
    for step in victim.moments(victim.kills_wanted):
        victim.wait_for_step(command, step)
        with victim.killing() as before:
            kill(command)
        command = victim.start()
        victim.recovered(command, before)
    victim.finish(command)


def kill_while_saving(victim: Victim) -> None:
    """SIGKILL to the worker while a checkpoint is half-written."""
    command = victim.start()
    hits = 0
    for step in victim.moments(victim.kills_wanted):
        victim.wait_for_step(command, step)
        with victim.killing() as before:
            if not victim.setting.reach.ambush(command, victim.trial, CHECKPOINTS, AMBUSH_S):
                raise NotSurvived(f"no checkpoint was begun within {AMBUSH_S:.0f} s after step {step}")
            before = victim.moment()._replace(num_starts=before.num_starts, log_id=before.log_id)
            hits += bool(victim.trial.temporary_names(CHECKPOINTS))
        victim.recovered(command, before)
    victim.finish(command)
    if not hits:
        raise NotTried("no checkpoint was caught while it was half-written: their writing is too quick here")


def kill_driver(victim: Victim) -> None:
    """SIGKILL to the trial's driver, which Tune runs; where Ray gives the trial up, the same command goes on."""
    command = victim.start()
    (step,) = victim.moments(1)
    victim.wait_for_step(command, step)
    drivers = processes_titled(command.session, DRIVER_TITLE)
    if not drivers:
        raise NotTried(f"no process is titled {DRIVER_TITLE}")
    with victim.killing() as before:
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)
    command = rerun_if_given_up(victim, command, before.num_starts)
    victim.recovered(command, before)
    victim.finish(command)


def rerun_if_given_up(victim: Victim, command: CommandRun, num_starts: int) -> CommandRun:
    """The command that goes on: itself where a worker began again, else the same once more after its end."""

    def decided() -> bool | None:
        return len(read_starts(victim.trial)) > num_starts or command.exit_code is not None or None

    victim.wait_until(command, decided, "the trial went on or was given up")
    if command.exit_code is None:
        return command
    victim.expect(command, Exit.TRIAL_FAILED, Exit.STOPPED)
    return victim.start()


def kill_while_preparing(victim: Victim) -> None:
    """SIGKILL to everything while the patches are cut; then the same command."""
    patches = str(victim.storage.at("patches").local_path)
    command = victim.start(quick=True)
    victim.wait_until(command, lambda: names_with(patches, TEMPORARY) or None, "the patches were being cut")
    with victim.killing() as before:
        command.kill_all()
    if not names_with(patches, TEMPORARY):
        raise NotTried("the patches were not caught half-cut: they are cut too quickly here")
    command = victim.start(quick=True)
    victim.recovered(command, before)
    victim.finish(command)


def stop_worker_in_its_tracks(victim: Victim) -> None:
    """SIGSTOP to the worker: it hangs, and the runner itself must notice, end it and go on."""
    command = victim.start()
    (step,) = victim.moments(1)
    victim.wait_for_step(command, step)
    before = victim.moment()
    strike_worker(victim, command, signal.SIGSTOP)
    victim.recovered(command, before)
    victim.finish(command)


def take_node_away(victim: Victim) -> None:
    """The node of the worker is preempted, with notice; the run goes on on the other one."""
    victim.folder.make_folder()
    step = victim.moments(1)[0] // 2
    notice_s = victim.setting.pace.training_s / 8
    with two_nodes(victim.folder.local_path / "two_nodes.txt") as cluster:
        command = victim.start("--address", cluster.address)
        victim.wait_for_step(command, step)
        before = victim.moment()
        cluster.take_away(int(read_starts(victim.trial)[-1]["pid"]), notice_s)
        victim.recovered(command, before)
        victim.finish(command)
