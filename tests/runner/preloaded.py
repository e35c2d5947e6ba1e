"""What the server of tests.runner.crashing imports once for all its forks; nothing here starts a thread."""

import gan.metrics
import gan.training

gan.metrics.METRICS  # noqa: B018 - and with it what it loads lazily
import torchmetrics.functional  # noqa: E402, F401
import torchvision.transforms.v2  # noqa: E402, F401
