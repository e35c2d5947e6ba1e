"""What the server of tests.runner.crashing imports once for all its forks; nothing here starts a thread."""

import gan.metrics
import gan.training  # noqa: F401
