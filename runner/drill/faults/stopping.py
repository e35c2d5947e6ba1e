"""Faults that ask a run to stop: signals that can be handled, and the time limit."""

import signal
import time

from runner.drill.command_run import CommandRun
from runner.drill.target_run import NotSurvived, TargetRun
from runner.errors import Exit
from runner.process.stop_request import MIN_ALLOWANCE_S

_STOPPING = "stopping ("  # how the command's answer to Ctrl-C begins
_AT_ONCE_S = 5.0
_LIMIT_TOLERANCE_S = 3.0


def terminate(target: TargetRun) -> None:
    """Sends SIGTERM to the command, which saves and ends with exit code 75. Then runs the same command."""
    command = target.start()
    (step,) = target.random_steps(1)
    target.wait_for_step(command, step)
    began = time.monotonic()
    command.signal(signal.SIGTERM)
    target.expect(command, Exit.STOPPED)
    _rerun(target, began)


def interrupt(target: TargetRun) -> None:
    """Presses Ctrl-C: the command saves and ends with exit code 130.

    Then runs the same command, and presses Ctrl-C twice, which ends it at once.
    """
    first, second = target.random_steps(2)
    command = target.start()
    target.wait_for_step(command, first)
    began = time.monotonic()
    # A terminal sends Ctrl-C to the whole process group.
    command.signal_group(signal.SIGINT)
    target.expect(command, Exit.INTERRUPTED)

    before = target.moment()._replace(at=began)
    command = target.start()
    target.recovered(command, before)

    target.wait_for_step(command, second)
    began = time.monotonic()
    _interrupt_twice(target, command)
    _rerun(target, began)


def _interrupt_twice(target: TargetRun, command: CommandRun) -> None:
    """Presses Ctrl-C, and again as soon as the command has answered."""
    command.signal_group(signal.SIGINT)
    target.wait_until(command, lambda: _STOPPING in command.output or None, "the command answered Ctrl-C")

    again = time.monotonic()
    command.signal_group(signal.SIGINT)
    target.expect(command, Exit.INTERRUPTED)
    # The exit code is that of a first Ctrl-C, so only the time shows that the second one had an effect.
    took_s = time.monotonic() - again
    if took_s > _AT_ONCE_S:
        raise NotSurvived(f"the second Ctrl-C ended the command after {took_s:.0f} s, not at once")


def reach_time_limit(target: TargetRun) -> None:
    """Sets --time-limit: the command saves and ends with exit code 75 in time. Then runs it without a limit."""
    # The limit is reached when about a third of the training is done.
    pace = target.setup.pace
    start_s = pace.ray_start_s if target.setup.address else pace.quick_start_s
    limit_s = start_s + MIN_ALLOWANCE_S + 0.3 * pace.training_s

    began = time.monotonic()
    command = target.start("--time-limit", f"{limit_s:.0f}s", quick=True)
    target.expect(command, Exit.STOPPED)
    took_s = time.monotonic() - began
    if took_s > limit_s + _LIMIT_TOLERANCE_S:
        raise NotSurvived(f"--time-limit was {limit_s:.0f} s, and the command took {took_s:.0f} s")
    _rerun(target, began + took_s, quick=True)


def _rerun(target: TargetRun, injected_at: float, *, quick: bool = False) -> None:
    """Runs the same command again, to the end."""
    before = target.moment()._replace(at=injected_at)
    command = target.start(quick=quick)
    target.recovered(command, before)
    target.finish(command)
