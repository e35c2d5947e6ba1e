"""The table of a drill: one row per fault, and why runs did not survive."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from runner.console import Console
from runner.drill.target_run import Recovery

YES, NO, NOT_TRIED = "yes", "no", "not tried"


@dataclass
class FaultResult:
    """What came of one fault, over all tries.

    Attributes:
        name, title: those of the fault.
        kills: the number of times that processes were killed.
        recoveries: what each injection of the fault cost.
        reasons: why a run did not survive, or why the fault was not tried.
        worst_s: seconds of the longest try, from start to end.
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
        """YES, NO or NOT_TRIED."""
        return NO if self.failures else YES if self.tries else NOT_TRIED

    def as_json(self) -> dict[str, Any]:
        """The row of the --json file."""
        return {
            "fault": self.name,
            "survived": self.survived,
            "tries": self.tries,
            "kills": self.kills,
            "lost_steps": [recovery.lost_steps for recovery in self.recoveries],
            "recovery_s": [round(recovery.recovery_s, 2) for recovery in self.recoveries],
            "reasons": self.reasons,
        }


def print_results(console: Console, results: Sequence[FaultResult]) -> None:
    """Prints the table, and below it why faults were not survived or not tried."""
    table = Table(box=None, pad_edge=False)
    for column in ("fault", "survived", "kills", "steps lost", "worst", "recovery, s", "worst"):
        table.add_column(column, justify="left" if column in ("fault", "survived") else "right", no_wrap=True)

    for result in results:
        lost = [recovery.lost_steps for recovery in result.recoveries]
        seconds = [recovery.recovery_s for recovery in result.recoveries]
        table.add_row(
            result.title, result.survived, str(result.kills or "-"), *_mean_and_worst(lost), *_mean_and_worst(seconds)
        )
    console.rich.print(table)

    # The reason of a failure has several lines, so a blank line separates it from the others.
    for result in results:
        for reason in result.reasons:
            console.print(f"\n{result.title}: {reason}" if result.failures else f"{result.title}: {reason}")


def _mean_and_worst(values: Sequence[float]) -> tuple[str, str]:
    """Mean and maximum as texts. Dashes where there are no values."""
    if not values:
        return "-", "-"
    return f"{sum(values) / len(values):.1f}", f"{max(values):.4g}"


def to_json(results: Sequence[FaultResult], seed: int, took_s: float) -> bytes:
    """The table as JSON, for programs."""
    content = {
        "survived": all(result.survived != NO for result in results),
        "kills": sum(result.kills for result in results),
        "seed": seed,
        "seconds": round(took_s, 1),
        "faults": [result.as_json() for result in results],
    }
    return json.dumps(content, indent=1).encode()
