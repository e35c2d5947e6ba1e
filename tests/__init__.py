"""The tests, and what libraries must find in the environment when they are imported."""

import os
from pathlib import Path

# Where there is no GPU, Triton's interpreter runs its kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# Threads that wait give their core to the test beside them: spinning, two threads take ten times as long there.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
