"""Faults that ask: signals that can be handled, and the time limit."""

import signal
import time

from runner.drill.command_run import CommandRun
from runner.drill.victim import NotSurvived, Victim
from runner.errors import Exit
from runner.stopping import MIN_ALLOWANCE_S

NOTICED = "stopping ("
AT_ONCE_S = 5.0
LIMIT_TOLERANCE_S = 3.0


def terminate(victim: Victim) -> None:
    """SIGTERM to the command: it saves and ends with 75; then the same command."""
    command = victim.start()
    (step,) = victim.moments(1)
    victim.wait_for_step(command, step)
    began = time.monotonic()
    command.signal(signal.SIGTERM)
    victim.expect(command, Exit.STOPPED)
    go_on(victim, began)


def interrupt(victim: Victim) -> None:
    """Ctrl-C: it saves and ends with 130; the same command; then two in a row, which end it at once."""
    first, second = victim.moments(2)
    command = victim.start()
    victim.wait_for_step(command, first)
    began = time.monotonic()
    command.signal_group(signal.SIGINT)
    victim.expect(command, Exit.INTERRUPTED)
    before = victim.moment()._replace(at=began)
    command = victim.start()
    victim.recovered(command, before)
    victim.wait_for_step(command, second)
    began = time.monotonic()
    interrupt_twice(victim, command)
    go_on(victim, began)


def interrupt_twice(victim: Victim, command: CommandRun) -> None:
    """The second Ctrl-C comes as soon as the first was heard."""
    command.signal_group(signal.SIGINT)
    victim.wait_until(command, lambda: NOTICED in command.output or None, "Ctrl-C was heard")
    again = time.monotonic()
    command.signal_group(signal.SIGINT)
    victim.expect(command, Exit.INTERRUPTED)
    took_s = time.monotonic() - again
    if took_s > AT_ONCE_S:
        raise NotSurvived(f"the second Ctrl-C ended the command after {took_s:.0f} s, not at once")


def reach_time_limit(victim: Victim) -> None:
    """--time-limit: it saves and ends with 75 before the time is over; then the same command without a limit."""
    pace = victim.setting.pace
    start_s = pace.ray_start_s if victim.setting.address else pace.quick_start_s
    limit_s = start_s + MIN_ALLOWANCE_S + 0.3 * pace.training_s
    began = time.monotonic()
    command = victim.start("--time-limit", f"{limit_s:.0f}s", quick=True)
    victim.expect(command, Exit.STOPPED)
    took_s = time.monotonic() - began
    if took_s > limit_s + LIMIT_TOLERANCE_S:
        raise NotSurvived(f"--time-limit was {limit_s:.0f} s, and the command took {took_s:.0f} s")
    go_on(victim, began + took_s, quick=True)


def go_on(victim: Victim, struck_at: float, *, quick: bool = False) -> None:
    """The same command to the end, after one that stopped."""
    before = victim.moment()._replace(at=struck_at)
    command = victim.start(quick=quick)
    victim.recovered(command, before)
    victim.finish(command)
