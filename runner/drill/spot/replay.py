"""Has the nodes of a local cluster come and go as a trace says."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from runner.drill.local_cluster import LocalCluster, LocalNode
from runner.drill.processes import POLL_S
from runner.drill.spot.trace import Change, Event


class Replay:
    """A trace on a cluster.

    Attributes:
        counts: how many nodes have come and gone, by the way in which they did. One that was to get notice, but had
            not joined yet, or was too quick, was killed without.
    """

    def __init__(self, cluster: LocalCluster, notify: Callable[[str], None]) -> None:
        """Does nothing yet.

        Args:
            notify: called with a line for each node that comes or goes.
        """
        self._cluster, self._notify = cluster, notify
        self._nodes: dict[int, LocalNode] = {}
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.counts: Counter[Change] = Counter()

    def begin(self, events: Sequence[Event]) -> None:
        """Adds the nodes that are there from the beginning, and waits for them.

        Raises:
            NotTried: one does not start.
        """
        for event in events:
            if event.at_s == 0:
                self._add(event)
        self.await_nodes()

    def run(self, events: Sequence[Event], is_over: Callable[[], bool]) -> float:
        """Does all that comes later until the trace ends, or it is over earlier; how many seconds that took.

        Args:
            is_over: whether nobody needs the cluster any more.
        """
        self._began = time.monotonic()
        # In threads, because notice comes from a process of its own, and whoever takes a node away waits for its end.
        with ThreadPoolExecutor(8, "spot") as pool:
            going = []
            for event in self._in_time([event for event in events if event.at_s > 0], is_over):
                if event.change == Change.ADDED:
                    self._add(event)
                else:
                    going.append(pool.submit(self._take, event, self._nodes.pop(event.node), is_over))
        for one in going:
            one.result()  # raises what it raised
        return self._now_s()

    def await_nodes(self) -> None:
        """Waits for the nodes that are left; starts those again that this busy machine could not start in time.

        Raises:
            NotTried: one does not start.
        """
        self._cluster.await_start(*self._nodes.values())

    def _in_time(self, events: Sequence[Event], is_over: Callable[[], bool]) -> Iterator[Event]:
        """Each event when its time has come."""
        for event in events:
            while self._now_s() < event.at_s:
                if is_over():
                    return
                time.sleep(POLL_S)
            yield event

    def _now_s(self) -> float:
        return time.monotonic() - self._began

    def _add(self, event: Event) -> None:
        self._nodes[event.node] = self._cluster.add_node()
        self._note(event, Change.ADDED)

    def _take(self, event: Event, node: LocalNode, is_over: Callable[[], bool]) -> None:
        """Takes a node away, after its notice where it gets one."""
        change, at_s = event.change, event.at_s
        if change == Change.PREEMPTED:
            if self._give_notice(node, event.notice_s):
                at_s = self._now_s() + event.notice_s
            else:
                change = Change.KILLED

        while self._now_s() < at_s and not is_over():
            time.sleep(POLL_S)
        node.kill()
        self._note(event, change)

    def _give_notice(self, node: LocalNode, notice_s: float) -> bool:
        """Tells Ray; False where it does not know the node, which may still be starting."""
        try:
            self._cluster.preempt(node, notice_s)
        except subprocess.CalledProcessError:
            return False
        return True

    def _note(self, event: Event, change: Change) -> None:
        notice = f" after a notice of {event.notice_s:.0f} s" if change == Change.PREEMPTED else ""
        with self._lock:
            self.counts[change] += 1
            self._notify(f"  {self._now_s():4.0f} s: node {event.node} {change}{notice}")
