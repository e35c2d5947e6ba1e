"""What a drill prints and writes: one row a fault, and why a run did not survive."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from runner.console import Console
from runner.drill.target_run import Recovery

YES, NO, NOT_TRIED = "yes", "no", "not tried"


@dataclass
class Tally:
    """What came of one fault, over all tries.

    Attributes:
        reasons: why a run did not survive, or why the fault was not tried.
        worst_s: of a try, from its begin to its end.
    """

    name: str
    title: str
    tries: int = 0
    failures: int = 0
    kills: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    worst_s: float = 0.0

    @property
    def survived(self) -> str:
        """yes, no, or not tried."""
        return NO if self.failures else YES if self.tries else NOT_TRIED

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "fault": self.name,
            "survived": self.survived,
            "tries": self.tries,
            "kills": self.kills,
            "lost_steps": [recovery.lost_steps for recovery in self.recoveries],
            "recovery_s": [round(recovery.recovery_s, 2) for recovery in self.recoveries],
            "reasons": self.reasons,
        }


def print_tallies(console: Console, tallies: Sequence[Tally]) -> None:
    """The table, then why what is not a plain yes is none."""
    table = Table(box=None, pad_edge=False)
    for column in ("fault", "survived", "kills", "steps lost", "worst", "recovery, s", "worst"):
        table.add_column(column, justify="left" if column in ("fault", "survived") else "right", no_wrap=True)
    for tally in tallies:
        lost = [recovery.lost_steps for recovery in tally.recoveries]
        seconds = [recovery.recovery_s for recovery in tally.recoveries]
        table.add_row(
            tally.title, tally.survived, str(tally.kills or "-"), *mean_and_worst(lost), *mean_and_worst(seconds)
        )
    console.rich.print(table)
    for tally in tallies:
        for reason in tally.reasons:
            console.print(f"\n{tally.title}: {reason}" if tally.failures else f"{tally.title}: {reason}")


def mean_and_worst(values: Sequence[float]) -> tuple[str, str]:
    """Both as texts; a dash where there is nothing."""
    if not values:
        return "-", "-"
    return f"{sum(values) / len(values):.1f}", f"{max(values):.4g}"


def to_json(tallies: Sequence[Tally], seed: int, took_s: float) -> bytes:
    """The table for programs."""
    content = {
        "survived": all(tally.survived != NO for tally in tallies),
        "kills": sum(tally.kills for tally in tallies),
        "seed": seed,
        "seconds": round(took_s, 1),
        "faults": [tally.as_json() for tally in tallies],
    }
    return json.dumps(content, indent=1).encode()
