"""When the nodes of a cluster of spot machines come and go: drawn from a seed. It knows no cluster and no clock."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# Half an hour of a cluster is a minute of the trace. Only the trace is so quick: a node and a worker take as long to
# start as they do, so that the share of time that they cost is 30 times what it is there.
REAL_MINUTES_A_MINUTE = 30.0
_ATTEMPTS_A_DAY = 160.0  # of which some spare the last node: more than a hundred a day are left

# Of the clouds one gives notice of 30 s, another of 2 minutes; and some machines are gone without.
_NOTICE_SHARE = 0.6
_NOTICE_S = (2.0, 8.0)
_MEAN_GAP_S = 8.0  # until another node takes the place
_SPARE_LAST = 0.8  # how often the last node is spared, so that there is one most of the time

_MEAN_INTERVAL_S = 60.0 * 24 * 60 / REAL_MINUTES_A_MINUTE / _ATTEMPTS_A_DAY


class Change(StrEnum):
    """What happens to a node."""

    ADDED = "added"
    PREEMPTED = "preempted"
    KILLED = "killed"


@dataclass(frozen=True, order=True)
class Event:
    """A node comes or goes.

    Attributes:
        at_s: seconds after the trace's begin.
        node: its number, from 0 on; none comes twice.
        notice_s: before a node is preempted, it is told so many seconds ahead, at `at_s`; it is gone after them.
    """

    at_s: float
    node: int
    change: Change
    notice_s: float = 0.0


def draw_trace(seed: int, minutes: float, nodes: int) -> list[Event]:
    """The events of a trace, in order: first the nodes are added, and at its end all places are taken again.

    Args:
        seed: the same seed gives the same trace.
        minutes: for how long nodes are taken away.
        nodes: how many there are when none is missing.

    Raises:
        ValueError: there are no nodes, or no time.
    """
    if nodes < 1 or minutes <= 0:
        raise ValueError(f"a trace of {minutes} minutes with {nodes} nodes: give more than 0 of each")

    draw = random.Random(f"spot trace {seed}")
    events = [Event(0.0, node, Change.ADDED) for node in range(nodes)]
    joins = dict.fromkeys(range(nodes), 0.0)  # of the nodes that are there, or will be: when each comes
    at_s = 0.0
    while (at_s := at_s + draw.expovariate(1 / _MEAN_INTERVAL_S)) < 60.0 * minutes:
        present = [node for node, joins_s in joins.items() if joins_s <= at_s]
        if not present or (len(present) == 1 and draw.random() < _SPARE_LAST):
            continue

        node = draw.choice(present)
        del joins[node]
        has_notice = draw.random() < _NOTICE_SHARE
        notice_s = draw.uniform(*_NOTICE_S) if has_notice else 0.0
        events.append(Event(at_s, node, Change.PREEMPTED if has_notice else Change.KILLED, notice_s))

        next_node = sum(event.change == Change.ADDED for event in events)
        joins[next_node] = at_s + notice_s + draw.expovariate(1 / _MEAN_GAP_S)
        events.append(Event(joins[next_node], next_node, Change.ADDED))
    return sorted(events)


def count_taken(events: Sequence[Event]) -> int:
    """How many nodes were taken away."""
    return sum(event.change != Change.ADDED for event in events)


def per_day(num_taken: int, seconds: float) -> float:
    """As how many nodes in a day of the cluster, where so many were taken away in these seconds of the trace."""
    real_days = seconds * REAL_MINUTES_A_MINUTE / (60 * 60 * 24)
    return num_taken / real_days
