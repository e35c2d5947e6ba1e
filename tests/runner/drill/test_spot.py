"""The drill's trace of spot machines: when nodes come and go, and what a sweep makes of it."""

import argparse
import itertools
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from runner.drill.__main__ import main
from runner.drill.local_cluster import LocalNode
from runner.drill.spot import run
from runner.drill.spot.replay import Replay
from runner.drill.spot.trace import Change, Event, count_taken, draw_trace, per_day

SEEDS = range(20)


def present(events: Sequence[Event], nodes: int, end_s: float) -> list[tuple[float, int]]:
    """For how many seconds how many nodes were there, one after another."""
    moments = []
    for event in events:
        if event.change == Change.ADDED:
            moments.append((event.at_s, 1))
        else:
            moments.append((event.at_s + event.notice_s, -1))
    spans, count = [], 0
    for (at_s, change), (next_s, _) in itertools.pairwise([*sorted(moments), (end_s, 0)]):
        count += change
        assert 0 <= count <= nodes
        spans.append((max(min(next_s, end_s) - at_s, 0.0), count))
    return spans


def test_the_same_seed_draws_the_same_trace_and_another_one_another() -> None:
    assert draw_trace(1, 5, 3) == draw_trace(1, 5, 3)
    assert draw_trace(1, 5, 3) != draw_trace(2, 5, 3)


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_over_a_hundred_nodes_are_taken_a_day_with_notice_and_without(nodes: int) -> None:
    traces = [draw_trace(seed, 60, nodes) for seed in SEEDS]
    assert 100 < per_day(sum(map(count_taken, traces)), 3600 * len(SEEDS)) < 200
    changes = [event.change for trace in traces for event in trace]
    assert 0.5 < changes.count(Change.PREEMPTED) / sum(map(count_taken, traces)) < 0.7


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_there_is_a_node_most_of_the_time_and_never_more_than_there_are_places(nodes: int) -> None:
    spans = [span for seed in SEEDS for span in present(draw_trace(seed, 20, nodes), nodes, 1200.0)]
    without = sum(seconds for seconds, count in spans if count == 0) / sum(seconds for seconds, _ in spans)
    assert without < 0.1


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_each_node_comes_once_and_goes_once_after_it_came_and_all_places_are_taken_in_the_end(nodes: int) -> None:
    for seed in SEEDS:
        events = draw_trace(seed, 10, nodes)
        assert [event.at_s for event in events] == sorted(event.at_s for event in events)
        joined = {event.node: event.at_s for event in events if event.change == Change.ADDED}
        gone = {event.node: event.at_s for event in events if event.change != Change.ADDED}
        assert len(joined) + len(gone) == len(events)
        assert all(joined[node] <= at_s < 600.0 for node, at_s in gone.items())
        assert len(joined) - len(gone) == nodes
        assert all((event.notice_s > 0) == (event.change == Change.PREEMPTED) for event in events)


@pytest.mark.parametrize(("minutes", "nodes"), [(0, 2), (-1, 2), (1, 0)])
def test_a_trace_without_time_or_nodes_is_refused(minutes: float, nodes: int) -> None:
    with pytest.raises(ValueError, match="give more than 0 of each"):
        draw_trace(0, minutes, nodes)


def test_a_trace_takes_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trace", "spot", "--address", "127.0.0.1:6379"]) == 2
    assert "--address: a trace has a cluster of its own" in capsys.readouterr().err


class Cluster:
    """Nodes that are one sleeping process each, as far as a trace needs them."""

    def __init__(self, knows: Callable[[LocalNode], bool]) -> None:
        self.knows = knows
        self.nodes: list[LocalNode] = []

    def add_node(self) -> LocalNode:
        self.nodes.append(
            LocalNode(f"{len(self.nodes)}", lambda: subprocess.Popen(["sleep", "600"], start_new_session=True))
        )
        return self.nodes[-1]

    def await_start(self, *nodes: LocalNode) -> None:
        pass

    def preempt(self, node: LocalNode, notice_s: float) -> None:
        if not self.knows(node):
            raise subprocess.CalledProcessError(1, "preempt")


def test_nodes_come_and_go_as_the_trace_says_and_who_can_have_no_notice_is_killed_without() -> None:
    cluster, lines = Cluster(lambda node: node.name != "1"), []
    events = [
        *(Event(0.0, node, Change.ADDED) for node in range(4)),
        Event(0.01, 0, Change.PREEMPTED, 0.01),
        Event(0.02, 1, Change.PREEMPTED, 0.01),
        Event(0.03, 2, Change.KILLED),
        Event(0.04, 4, Change.ADDED),
    ]
    try:
        replay = Replay(cluster, lines.append)  # type: ignore[arg-type]
        replay.begin(events)
        assert all(node.starter.poll() is None for node in cluster.nodes)
        assert replay.run(events, lambda: False) >= 0.04
        assert replay.counts == {Change.ADDED: 5, Change.PREEMPTED: 1, Change.KILLED: 2}
        assert [node.starter.poll() is None for node in cluster.nodes] == [False, False, False, True, True]
        assert any("node 0 preempted after a notice" in line for line in lines)

        # Nobody needs it any more: what would have come in an hour does not come.
        replay.run([Event(3600.0, 3, Change.KILLED)], lambda: True)
        assert cluster.nodes[3].starter.poll() is None
    finally:
        for node in cluster.nodes:
            node.kill()


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("own_home")
def test_a_sweep_on_nodes_that_come_and_go_ends_with_the_undisturbed_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_EPOCHS", 10)
    monkeypatch.setattr(run, "_MIN_TRIALS", 2)
    # One node is lost as soon as a worker has begun, and another one comes.
    events = [
        *(Event(0.0, node, Change.ADDED) for node in range(2)),
        Event(1.0, 0, Change.KILLED),
        Event(1.5, 2, Change.ADDED),
    ]
    monkeypatch.setattr(run, "draw_trace", lambda seed, minutes, nodes: events)
    table = tmp_path / "table.json"
    arguments = argparse.Namespace(minutes=0.5, address=None, storage=None, json=str(table), seed=1)
    code = run.run_trace(arguments)
    output = capsys.readouterr().out
    assert code == 0, output
    content = json.loads(table.read_text())
    assert content["survived"]
    assert content["nodes"] == {"added": 3, "preempted": 0, "killed": 1}
    assert [trial["differences"] for trial in content["trials"]] == [[], []]
    assert all(0 < trial["goodput"] <= 1 for trial in content["trials"])
    assert "2 of 2 trials with the undisturbed bits" in output
