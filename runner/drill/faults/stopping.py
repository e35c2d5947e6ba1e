"""Faults that ask: signals that can be handled, and the time limit."""

import signal
import time

from runner.drill.command_run import CommandRun
from runner.drill.target_run import NotSurvived, TargetRun
from runner.errors import Exit
from runner.process.stop_request import MIN_ALLOWANCE_S

NOTICED = "stopping ("
AT_ONCE_S = 5.0
LIMIT_TOLERANCE_S = 3.0


def terminate(target: TargetRun) -> None:
    """SIGTERM to the command: it saves and ends with 75; then the same command."""
    command = target.start()
    (step,) = target.moments(1)
    target.wait_for_step(command, step)
    began = time.monotonic()
    command.signal(signal.SIGTERM)
    target.expect(command, Exit.STOPPED)
    go_on(target, began)


def interrupt(target: TargetRun) -> None:
    """Ctrl-C: it saves and ends with 130; the same command; then two in a row, which end it at once."""
    first, second = target.moments(2)
    command = target.start()
    target.wait_for_step(command, first)
    began = time.monotonic()
    command.signal_group(signal.SIGINT)
    target.expect(command, Exit.INTERRUPTED)
    before = target.moment()._replace(at=began)
    command = target.start()
    target.recovered(command, before)
    target.wait_for_step(command, second)
    began = time.monotonic()
    interrupt_twice(target, command)
    go_on(target, began)


def interrupt_twice(target: TargetRun, command: CommandRun) -> None:
    """The second Ctrl-C comes as soon as the first was heard."""
    command.signal_group(signal.SIGINT)
    target.wait_until(command, lambda: NOTICED in command.output or None, "Ctrl-C was heard")
    again = time.monotonic()
    command.signal_group(signal.SIGINT)
    target.expect(command, Exit.INTERRUPTED)
    took_s = time.monotonic() - again
    if took_s > AT_ONCE_S:
        raise NotSurvived(f"the second Ctrl-C ended the command after {took_s:.0f} s, not at once")


def reach_time_limit(target: TargetRun) -> None:
    """--time-limit: it saves and ends with 75 before the time is over; then the same command without a limit."""
    pace = target.setting.pace
    start_s = pace.ray_start_s if target.setting.address else pace.quick_start_s
    limit_s = start_s + MIN_ALLOWANCE_S + 0.3 * pace.training_s
    began = time.monotonic()
    command = target.start("--time-limit", f"{limit_s:.0f}s", quick=True)
    target.expect(command, Exit.STOPPED)
    took_s = time.monotonic() - began
    if took_s > limit_s + LIMIT_TOLERANCE_S:
        raise NotSurvived(f"--time-limit was {limit_s:.0f} s, and the command took {took_s:.0f} s")
    go_on(target, began + took_s, quick=True)


def go_on(target: TargetRun, injected_at: float, *, quick: bool = False) -> None:
    """The same command to the end, after one that stopped."""
    before = target.moment()._replace(at=injected_at)
    command = target.start(quick=quick)
    target.recovered(command, before)
    target.finish(command)
