"""The tests, and what libraries must find in the environment when they are imported."""

import os
from pathlib import Path

# Where there is no GPU, Triton's interpreter runs its kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# A thread that waits gives its core to the test beside it: where threads spin, both take up to ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
