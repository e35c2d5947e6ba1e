"""The table of picture metrics. A new metric is its function and one entry of METRICS.

Logs, results.csv, the page, `runner.evaluate` and W&B all read this table. Reading it loads no torch.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    MetricFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# `study` has batch statistics and dropout on, as the study evaluates; `eval` has running statistics and no dropout.
MODES = ("study", "eval")


class Metric(NamedTuple):
    """What there is to know of one metric.

    Attributes:
        key: its name in logs and in the columns of CSV and JSON files.
        title: its name in tables and on the page.
        meaning: what it measures, in half a sentence.
        higher_is_better: False for a distance.
        favours_blur: whether it rates a blurred picture above a sharp one that is a few pixels off.
        unit: of its values; empty where they have none.
        function: `module:name` of what computes it from generated and target pictures, (N, 3, H, W) in [-1, 1] each,
            as (N,). Empty for a metric that needs published weights: runner.evaluate computes those.
        every_epoch: whether it is cheap enough to be measured after each epoch, on a sample of the patches. The
            others are measured at the end of a training only, on all patches.
    """

    key: str
    title: str
    meaning: str
    higher_is_better: bool
    favours_blur: bool
    unit: str = ""
    function: str = ""
    every_epoch: bool = False

    @property
    def better(self) -> str:
        """The better direction in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def about(self) -> str:
        """Meaning, unit, and what the metric makes of blur."""
        unit = f", in {self.unit}" if self.unit else ""
        return f"{self.meaning}{unit}; {'favours' if self.favours_blur else 'sees'} blur"

    def goodness(self, value: float) -> float:
        """A number that is larger for a better value."""
        return value if self.higher_is_better else -value

    def load(self) -> "MetricFunction":
        """The function that computes it; loads torch."""
        # The main process and the page read the table, and must not wait seconds for torch.
        module, _, name = self.function.partition(":")
        function: MetricFunction = getattr(import_module(module), name)
        return function


# The columns of results.csv and the rows of tables have this order.
METRICS = (
    Metric(
        "ssim",
        "SSIM",
        "structural similarity to the target",
        higher_is_better=True,
        favours_blur=True,
        function="gan.evaluation.similarity:ssim",
        every_epoch=True,
    ),
    Metric(
        "psnr",
        "PSNR",
        "peak signal to noise",
        higher_is_better=True,
        favours_blur=True,
        unit="dB",
        function="gan.evaluation.similarity:psnr",
        every_epoch=True,
    ),
    Metric(
        "l1",
        "L1",
        "mean absolute difference of pixels",
        higher_is_better=False,
        favours_blur=True,
        function="gan.evaluation.similarity:l1",
        every_epoch=True,
    ),
    Metric(
        "hp_l1",
        "HP-L1",
        "L1 of edges",
        higher_is_better=False,
        favours_blur=True,
        function="gan.evaluation.similarity:hp_l1",
        every_epoch=True,
    ),
    Metric(
        "swd",
        "SWD",
        "sliced Wasserstein distance of patches on several scales",
        higher_is_better=False,
        favours_blur=False,
        function="gan.evaluation.sharpness:swd",
    ),
    Metric(
        "spectrum",
        "Spectrum",
        "distance of the power spectra",
        higher_is_better=False,
        favours_blur=False,
        unit="dB",
        function="gan.evaluation.sharpness:spectrum",
    ),
)
EPOCH_METRICS = tuple(metric for metric in METRICS if metric.every_epoch)
