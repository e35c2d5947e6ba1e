import os
import subprocess
import sys

import pytest

from tests.support.commands import ROOT

# Ray has one core, which an actor holds: the pictures wait for it until the command is stopped.
STOPPED = """
import sys, tempfile, threading, time
from runner.config.schema import Data, Synthetic
from runner.console import Console
from runner.data.sources import find_source
from runner.storage.storage import Storage
from runner.sweep.backends import CUT_THREAD, OnRay

data = Data(synthetic=Synthetic(train=2, val=1), patch_size=64)
backend = OnRay(None, "", Console(), lambda: None, dashboard=False)
backend.machines
import ray

@ray.remote(num_cpus=ray.cluster_resources()["CPU"])
class Holder:
    def hold(self): pass

holder = Holder.remote()
ray.get(holder.hold.remote())
folder = Storage.open(tempfile.mkdtemp())
thread = threading.Thread(
    target=lambda: next(backend.cut(find_source(data), data, folder)), name=CUT_THREAD, daemon=True
)
threading.excepthook = lambda arguments: print("the thread ends:", arguments.exc_type.__name__, flush=True)
thread.start()
while not backend._cuts or not any(type(each).__name__ == "StreamingExecutor" for each in threading.enumerate()):
    time.sleep(0.05)  # a poll
backend.close()
assert not thread.is_alive()
sys.exit(75)
"""


@pytest.mark.ray
def test_pictures_that_wait_for_a_core_do_not_keep_a_stopped_command_from_its_exit_code() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 75, done.stdout + done.stderr
    assert "the thread ends: ValueError" in done.stdout
