"""Actors without Ray."""

from typing import Any


class Handle:
    """An object of this process, called as one in an actor is."""

    def __init__(self, called: Any) -> None:
        self._called = called

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": staticmethod(getattr(self._called, name))})
