"""A trial that waits for its workers' resources: heard by a stop, given up, and followed by another controller."""

import threading
from typing import Any

import pytest

from runner.on_ray import placement
from runner.on_ray.placement import NotPlaced, Placement
from runner.trial.heartbeat import Coordinator
from tests.support.actors import Handle


class Group:
    """A placement group that gets its resources at the third look."""

    placement_group = "a group"

    def __init__(self, looks: int = 3) -> None:
        self.looks, self.is_removed = looks, False
        self.seen: list[dict[str, float]] = []

    def wait(self, timeout_seconds: float) -> bool:
        self.looks -= 1
        return self.looks <= 0

    def shutdown(self) -> None:
        self.is_removed = True


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    monkeypatch.setattr(placement.ray, "get", lambda value: value)
    return Coordinator()


def test_a_trial_counts_as_waiting_until_it_has_its_resources(coordinator: Coordinator) -> None:
    waiting: list[list[str]] = []

    class Watched(Group):
        def wait(self, timeout_seconds: float) -> bool:
            waiting.append(list(coordinator.waiting_s()))
            return super().wait(timeout_seconds)

    group = Watched()
    Placement("a", Handle(coordinator)).wait(group)
    assert waiting == [[], ["a"], ["a"]]
    assert not coordinator.waiting_s()
    assert not group.is_removed


def test_a_trial_that_waits_hears_a_stop_and_leaves_nothing(coordinator: Coordinator) -> None:
    coordinator.request_stop("SIGTERM")
    group = Group(10**9)
    with pytest.raises(NotPlaced):
        Placement("a", Handle(coordinator)).wait(group)
    assert group.is_removed


def test_one_that_has_its_resources_begins_though_it_was_asked_to_stop(coordinator: Coordinator) -> None:
    """Its worker hears the request by itself, and saves."""
    coordinator.request_stop("SIGTERM")
    Placement("a", Handle(coordinator)).wait(Group(1))


def test_one_that_is_given_up_meanwhile_ends_and_does_not_begin_again(coordinator: Coordinator) -> None:
    waits, group = Placement("a", Handle(coordinator)), Group(10**9)
    thread = threading.Thread(target=waits.give_up)
    thread.start()
    thread.join()
    with pytest.raises(NotPlaced):
        waits.wait(group)
    assert group.is_removed


def test_what_an_earlier_controller_held_is_freed(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[Any] = []
    monkeypatch.setattr(placement, "remove_placement_group", freed.append)
    Placement("a", Handle(coordinator)).wait(Group())
    Placement("b", Handle(coordinator)).free_earlier()
    assert freed == []
    Placement("a", Handle(coordinator)).free_earlier()
    assert freed == ["a group"]
    Placement("a", Handle(coordinator)).free_earlier()
    assert freed == ["a group"]
