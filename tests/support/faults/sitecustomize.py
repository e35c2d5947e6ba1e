"""Faults in the processes that Ray starts: put this folder on PYTHONPATH, and FAULTS says what breaks where.

FAULTS is a JSON list of {"module": name, "function": dotted name of a method in it, "call": n, "when": "before"
or "after", "do": "kill" or "raise", "trial": name, "times": how often in all}. A fault that has happened leaves
a file in the folder FAULTS_DONE, so that it is counted across processes.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

FAULTS = json.loads(os.environ.get("FAULTS", "[]"))


def break_after_import(module):
    for number, fault in enumerate(FAULTS):
        path, _, attribute = fault["function"].rpartition(".")
        owner = module
        if path.startswith(module.__name__ + "."):
            owner = getattr(module, path.removeprefix(module.__name__ + "."))
        elif path != module.__name__:
            continue
        setattr(owner, attribute, breaking(getattr(owner, attribute), fault, number))


def breaking(function, fault, number):
    calls = 0

    @functools.wraps(function)
    def broken(self, *args, **kwargs):
        nonlocal calls
        concerned = "trial" not in fault or self.job.name == fault["trial"]
        calls += concerned
        is_now = concerned and calls >= fault["call"]
        if is_now and fault["when"] == "before":
            happen(fault, number)
        result = function(self, *args, **kwargs)
        if is_now and fault["when"] == "after":
            happen(fault, number)
        return result

    return broken


def happen(fault, number):
    done = Path(os.environ["FAULTS_DONE"])
    for time in range(fault["times"]):
        try:
            (done / f"{number}_{time}").touch(exist_ok=False)
        except FileExistsError:
            continue
        if fault["do"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("broken on purpose")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in {fault["module"] for fault in FAULTS}:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        load = spec.loader.exec_module

        def load_and_break(module):
            load(module)
            break_after_import(module)

        spec.loader.exec_module = load_and_break
        return spec


if FAULTS:
    sys.meta_path.insert(0, Finder())
